"""A GPU that takes no more work from the process, after an assertion has failed in a program on it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import TRUSTED, trainer
from menagerie import Examples, member

from lightning_fed import FederatedDataModule, FederatedModule

SCRIPT = Path(__file__).parent / "out_of_range.py"


def run(folder: Path, engine: str, on_worker_error: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(folder), engine, on_worker_error]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("on_worker_error", ["raise", "drop"])
@pytest.mark.parametrize(("engine", "who"), [("sequential", "'bad'"), ("vectorized", "bad")])
def test_the_run_ends_and_says_whose_training_it_was(
    tmp_path: Path, engine: str, who: str, on_worker_error: str
) -> None:
    process = run(tmp_path, engine, on_worker_error)
    assert process.returncode != 0
    assert f"worker {who}" in process.stderr or "others), round 2" in process.stderr, process.stderr
    assert "takes no more work from this process" in process.stderr
    (last,) = tmp_path.glob("*step=2.ckpt")
    run_on = trainer(max_steps=3, max_epochs=-1, accelerator="cpu")
    fed = FederatedModule(member("tied"), engine="sequential")
    workers = {name: Examples(i, 8) for i, name in enumerate(("ann", "bob", "cyd", "dee", "bad"))}
    data = FederatedDataModule(workers, rounds_per_epoch=4)
    run_on.fit(fed, data, ckpt_path=last, **TRUSTED)
    assert run_on.global_step == 3


def test_in_a_process_of_its_own_it_ends_no_other_workers_training(tmp_path: Path) -> None:
    process = run(tmp_path, "isolated", "drop")
    assert process.returncode == 0, process.stderr
    assert "to the end" in process.stdout
