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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the reader, with the page's files; what one command leaves is there for the next."""
    folder = tmp_path_factory.mktemp("reader")
    for language, block in BLOCKS:
        if language != "sh":
            name = block.splitlines()[0].removeprefix("# ")
            (folder / name).write_text(block)
    return folder


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
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
@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_runs(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    while "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    status: object = 0
    try:
        if words[0] == "lightning-fed":
            monkeypatch.setattr(sys, "argv", ["lightning-fed"])
            main(words[1:])
        else:
            monkeypatch.setattr(sys, "argv", words[1:])
            runpy.run_path(words[1], run_name="__main__")
    except SystemExit as left:  # as after --print_config
        status = left.code
    said, errors = capsys.readouterr()
    assert status == 0, errors
    if words[1] == "own.py":
        assert "workers: bob alice" in said
    if words[1] == "build.py":
        assert "rounds: 2" in said


def test_there_are_commands() -> None:
    assert len(COMMANDS) > 15
