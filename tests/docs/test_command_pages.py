"""The pages about commands and configs name all of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_fed.cli.commands import COMMANDS
from lightning_fed.cli.shipped import help_of

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"


def test_every_command_is_on_the_page() -> None:
    page = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert re.findall(r"^```\{help\} (\S+)$", page, re.M) == [command.name for command in COMMANDS]


def test_every_config_is_on_the_page() -> None:
    page = (REFERENCE / "configs.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\{literalinclude\} \.\./\.\./configs/(\S+)\.yaml$", page, re.M)
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", ["fit", "compare", "schema"])
def test_the_page_has_what_the_command_prints(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = (command for command in COMMANDS if command.name == name)
    assert help_of(command).startswith(f"usage: lightning-fed {name}")
    assert capsys.readouterr() == ("", "")
