"""Groups of processes are found below those that started them, and told apart from such as are gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from lightning_fed.core.process_groups import groups_below, send

STARTS_ANOTHER = """
import subprocess, sys
child = subprocess.Popen(["sleep", "600"], start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
child.kill()
child.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody says who has started whom")
def test_a_group_of_its_own_is_found_below_who_started_it() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS_ANOTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        detached = int(process.stdout.readline())
        assert groups_below([process.pid]) == sorted([process.pid, detached])
        assert groups_below([detached]) == [detached]
        assert {process.pid, detached} <= set(groups_below([os.getpid()]))
        assert groups_below([]) == []


def test_a_group_that_is_gone_is_told() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        assert send(process.pid, 0)
        assert send(process.pid, signal.SIGKILL)
        process.wait()
        assert not send(process.pid, 0)
        assert not send(process.pid, signal.SIGKILL)
