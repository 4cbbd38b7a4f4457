"""The commands of ``lightning-fed``, and what answers without torch and Lightning."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys

import pytest

import lightning_fed
from lightning_fed.cli import main
from lightning_fed.cli.commands import COMMANDS, Command

HEAVY = ("torch", "pytorch_lightning", "lightning", "jsonargparse")
RUN = f"""
import sys
from lightning_fed.cli import main
try:
    main(sys.argv[1:])
except SystemExit as left:
    status = left.code or 0
else:
    status = 0
print("imported:", *(name for name in {HEAVY} if name in sys.modules))
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["-h"], 0),
        ([], 2),
        (["fti"], 2),
        (["configs"], 0),
        (["configs", "show", "toy"], 0),
        (["examples", "list"], 0),
    ],
)
def test_these_import_neither_torch_nor_lightning(words: list[str], status: int) -> None:
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"


IMPORTS = """
import sys
import lightning_fed, lightning_fed.cli
assert "torch" not in sys.modules
from pytorch_lightning.cli import LightningCLI
theirs = LightningCLI._add_instantiators
assert lightning_fed.algorithms.FedAvg
assert LightningCLI._add_instantiators is theirs
from lightning_fed.module import FederatedModule
assert LightningCLI._add_instantiators is not theirs
assert not FederatedModule.__final__
assert lightning_fed.FederatedModule is FederatedModule
"""


@pytest.mark.slow
def test_a_lightning_cli_follows_our_rules_when_the_class_is_imported_by_whatever_path() -> None:
    """And not before: the package alone imports nothing."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORTS], check=True, timeout=60)


def test_every_public_name_is_there_and_no_other() -> None:
    for name in lightning_fed.__all__:
        assert getattr(lightning_fed, name).__name__ == name
    assert set(lightning_fed.__all__) == {name for names in lightning_fed._HOMES.values() for name in names}
    assert set(lightning_fed.__all__) <= set(dir(lightning_fed))
    with pytest.raises(AttributeError, match="'lightning_fed' has no attribute 'FederatedModul'"):
        _ = lightning_fed.FederatedModul


def test_the_help_has_every_command_in_a_line_that_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if len(line) > 100] == []
    for command in COMMANDS:
        assert f"  {command.name} " in said
        assert f" {command.help}\n" in said


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_a_main_that_takes_its_words(command: Command) -> None:
    assert len(inspect.signature(importlib.import_module(command.module).main).parameters) == 1
    assert len(command.help) < 80


def test_the_version_names_what_it_runs_on(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--version"])
    said = capsys.readouterr().out
    assert said.startswith(f"lightning_fed {lightning_fed.__version__} (torch 2.")
    assert "lightning 2." in said


def test_a_reader_that_goes_early_is_no_error() -> None:
    command = [sys.executable, "-m", "lightning_fed", "examples", "show", "digits"]
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writes)
    assert done.stderr == b""
