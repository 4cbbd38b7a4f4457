"""What a federation of this machine has started is ended with it, whatever its programs do."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from lightning_fed.flower.on_this_machine import EndedError, OnThisMachine

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says who has started whom")

STUBBORN = """\
#!/bin/sh
trap "" TERM
setsid sleep 600 &
echo $! > "$DETACHED.new" && mv "$DETACHED.new" "$DETACHED"
while true; do sleep 0.1; done
"""
"""A SuperLink that does not end when it is told to, and a SuperExec that it has detached."""


def is_there(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_without_flwr_it_says_what_to_install(tmp_path: Path) -> None:
    with OnThisMachine(tmp_path, tmp_path) as federation:
        federation.environment["PATH"] = str(tmp_path)
        with pytest.raises(EndedError, match=r"^there is no program 'flower-superlink', .* flwr: pip install \"light"):
            federation.start_superlink()


def test_what_a_superlink_has_detached_ends_with_one_that_must_be_killed(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    program, detached = tmp_path / "bin" / "flower-superlink", tmp_path / "detached"
    program.write_text(STUBBORN)
    program.chmod(0o755)
    federation = OnThisMachine(tmp_path, tmp_path)
    federation.environment |= {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "DETACHED": str(detached)}
    with federation:
        federation.start_superlink()
        end = time.monotonic() + 60
        while not detached.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        process = int(detached.read_text())
        assert is_there(process)
    assert not is_there(process)
