"""Every config, and every alternative that stands in one as a comment, trains."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import cast

import pytest

from lightning_fed.cli import FederatedCLI

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
ALTERNATIVES = [
    pytest.param(path, argument, value, id=f"{path.stem}-{name}")
    for path in CONFIGS
    for argument, value, name in re.findall(r"^  # (\w+): (\{class_path: [\w.]+\.(\w+).*\})$", path.read_text(), re.M)
]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # of Lightning's use of it


def fit(path: Path, *options: str) -> FederatedCLI:
    quick = ("--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false")
    return FederatedCLI(["fit", "-c", str(path), *quick, *options])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_trains_for_two_rounds(path: Path, tmp_path: Path) -> None:
    run = fit(path)
    assert run.trainer.global_step == 2
    assert list(tmp_path.glob("logs/**/*.ckpt"))


@pytest.mark.parametrize(("path", "argument", "value"), ALTERNATIVES)
def test_the_alternatives_in_comments_train_too(path: Path, argument: str, value: str) -> None:
    run = fit(path, f"--model.{argument}={value}", "--model.local_epochs=1")
    assert run.trainer.global_step == 2
    if argument != "server_optimizer":  # which is a function that makes one
        # LGFedAvg is another name of FedPer
        assert type(getattr(run.model, argument)) is _class_of(value)


def _class_of(value: str) -> type:
    module, name = re.findall(r"class_path: ([\w.]+)\.(\w+)", value)[0]
    return cast(type, getattr(importlib.import_module(module), name))


def test_the_comments_hold_alternatives() -> None:
    assert len(ALTERNATIVES) >= 10
