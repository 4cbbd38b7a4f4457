"""The pages about commands and configs name all of them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from lightning_fed.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_every_command_is_on_the_page() -> None:
    page = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^```\{help\} (\S+)$", page, re.M) == [command.name for command in COMMANDS]


def test_every_config_is_on_the_page() -> None:
    page = (REFERENCE / "configs.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{literalinclude\} \.\./\.\./configs/(\S+)\.yaml$", page, re.M)
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("command", ["fit", "compare", "schema"])
def test_the_page_has_what_the_command_prints(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text: str = runpy.run_path(str(ROOT / "docs" / "_help.py"))["help_of"](command)
    assert text.startswith(f"usage: lightning-fed {command}")
    assert capsys.readouterr() == ("", "")


def test_there_is_no_help_for_a_word_that_is_no_command() -> None:
    with pytest.raises(StopIteration):
        runpy.run_path(str(ROOT / "docs" / "_help.py"))["help_of"]("frobnicate")
