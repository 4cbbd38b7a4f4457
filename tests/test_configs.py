"""Every config, and every alternative that stands in one as a comment, trains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_fed.cli import FederatedCLI

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
ALTERNATIVES = [
    pytest.param(path, argument, value, name, id=f"{path.stem}-{name}")
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


@pytest.mark.parametrize(("path", "argument", "value", "name"), ALTERNATIVES)
def test_the_alternatives_in_comments_train_too(path: Path, argument: str, value: str, name: str) -> None:
    run = fit(path, f"--model.{argument}={value}", "--model.local_epochs=1")
    assert run.trainer.global_step == 2
    if argument != "server_optimizer":  # which is a function that makes one
        assert type(getattr(run.model, argument)).__name__ == name


def test_the_comments_hold_alternatives() -> None:
    assert len(ALTERNATIVES) >= 10
