"""Every file and every command of ``docs/cli.md``, in a fresh folder."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import quiet_and_restored

from lightning_fed.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]


@pytest.fixture(autouse=True)
def _there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with the page's files."""
    for language, block in BLOCKS:
        if language != "sh":
            (tmp_path / block.splitlines()[0].removeprefix("# ")).write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with quiet_and_restored():
        yield


@pytest.mark.filterwarnings(
    "ignore:.*irectory .* exists and is not empty",
    "ignore:The dirpath has changed from",
    "ignore:Be aware that when using `ckpt_path`",
    "ignore:No seed found",
    "ignore:model.*init_args.lr is .*, but .* was written with",
    "ignore:Net.configure_optimizers\\(\\) is not used",
    "ignore:.*JSONARGPARSE",
)
def test_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In one test, as what a command leaves is there for the next."""
    said = {command: _said(command, monkeypatch, capsys) for command in COMMANDS}
    assert len(said) > 15
    assert "mine.Net" in said["lightning-fed fit -c mine.yaml --print_config"]
    assert "workers: bob alice" in said["python own.py fit -c mine.yaml --rate 0.2"]
    assert "rounds: 2" in said["python build.py"]


def _said(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command in this process, as the shell would in its own; return what it printed."""
    words = shlex.split(command)
    status: object = 0
    with monkeypatch.context() as patched:
        while "=" in words[0]:
            patched.setenv(*words.pop(0).split("=", 1))
        patched.setattr(sys, "argv", words[:1] if words[0] == "lightning-fed" else words[1:])
        try:
            if words[0] == "lightning-fed":
                main(words[1:])
            else:
                runpy.run_path(words[1], run_name="__main__")
        except SystemExit as left:  # as after --print_config
            status = left.code
    said, errors = capsys.readouterr()
    assert status == 0, f"{command}: {errors}"
    return said
