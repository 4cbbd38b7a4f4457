"""The recipes of ``docs/sweeps.md`` are programs, and their options are options of ``lightning-fed fit``."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_fed.cli import main

PAGE = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text()
FILES = dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
VALUES = {
    "model.module.init_args.lr": 0.05,
    "model.local_epochs": 2,
    "seed_everything": 1,
    "trainer.max_steps": 50,
    "trainer.logger.init_args.name": "sweep",
    "trainer.logger.init_args.version": "trial=3",
}

pytestmark = pytest.mark.filterwarnings("ignore:.*JSONARGPARSE")


def config(capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    """The config of a fit of the digits with some options."""
    with pytest.raises(SystemExit) as left:
        main(["fit", "-c", "digits", *options, "--print_config"])
    said, errors = capsys.readouterr()
    assert left.value.code == 0, errors
    return yaml.safe_load(said)


@pytest.mark.parametrize("name", ["tune.py", "submit.py"])
def test_options_in_programs_exist(capsys: pytest.CaptureFixture[str], name: str) -> None:
    strings = {node.value for node in ast.walk(ast.parse(FILES[name])) if isinstance(node, ast.Constant)}
    options = {found[1] for text in map(str, strings) if (found := re.match(r"--([\w.]+)=?", text))}
    assert len(options) >= 5
    found = config(capsys, *(f"--{option}={VALUES[option]}" for option in sorted(options)))
    assert found["model"]["local_epochs"] == 2
    assert found["trainer"]["logger"]["init_args"]["version"] == "trial=3"


def test_options_of_the_sweep_exist(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = yaml.safe_load(FILES["sweep.yaml"])
    program, fit, *words, given = sweep["command"]
    assert (program, fit, words[:2], given) == ("lightning-fed", "fit", ["-c", "digits"], "${args}")
    found = config(capsys, *words[2:], *(f"--{option}={VALUES[option]}" for option in sweep["parameters"]))
    assert found["model"]["module"]["init_args"]["lr"] == 0.05
    assert found["seed_everything"] == 1
    assert found["trainer"]["logger"]["class_path"].endswith("WandbLogger")
    assert sweep["metric"]["name"] == "val_acc"
