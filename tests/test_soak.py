"""The long campaign, by ``make soak``: SIGKILL at random moments, several times in one run, and disks that are full."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, trainer
from runs import assert_same, run, start

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Ditto, FedAvg, Scaffold
from lightning_fed.testing.workload import memory

pytestmark = pytest.mark.slow

ROUNDS = 12
SPILLS = ("--width", "20000", "--state-memory", "1")
LOSSY = ("--availability", "RandomAvailability(absent=0.1, lost=0.1, stragglers=0.3)")
PRIVATE = "CentralDP(1.0, 1.0, delta=1e-5, insecure_deterministic_noise=True, release_metrics=True)"
KINDS: dict[str, tuple[str, ...]] = {
    "Scaffold": ("--algorithm", "Scaffold()", "--engine", "sequential", *SPILLS),
    "Scaffold, vectorized, lossy": ("--algorithm", "Scaffold()", "--engine", "vectorized", *SPILLS, *LOSSY),
    "Ditto": ("--algorithm", "Ditto(0.1)", "--norm", *SPILLS),
    "FedDyn": ("--algorithm", "FedDyn(0.1)", *SPILLS),
    "FedPer, accumulated": ("--algorithm", "FedPer(['net.0.*'])", "--accumulate", "2", *SPILLS),
    "FedBN, private": ("--algorithm", "FedBN()", "--norm", "--privacy", PRIVATE),
    "FedAvg, dropout": ("--norm", "--dropout", "0.3", *LOSSY),
}
KILLS = 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep", [-1, 1])
def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(tmp_path: Path, kind: str, keep: int) -> None:
    """With one checkpoint kept, files of workers' state are deleted while the process is killed."""
    options = (*KINDS[kind], "--keep", str(keep))
    whole = run(tmp_path / "whole.pt", *options, "--rounds", str(ROUNDS))
    out, chance = tmp_path / "out.pt", random.Random(f"{kind} {keep}")
    for kill in range(KILLS):
        process = start(out, *options, "--rounds", "100000", *from_the_last(out))
        already = newest(out)
        deadline = time.monotonic() + 120
        while newest(out) == already and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.2))
        assert process.poll() is None, f"kill {kill}: {process.communicate()[0]}"
        process.kill()
        process.communicate()
        for checkpoint in checkpoints(out):  # none is half written
            torch.load(checkpoint, weights_only=True)
        if keep == 1 and round_of(newest(out)) > ROUNDS - 4:
            break
    usable = [path for path in checkpoints(out) if round_of(path) < ROUNDS]
    if not usable:
        pytest.skip("the processes were faster than the kills")
    resumed = run(out, *options, "--rounds", str(ROUNDS), "--ckpt", str(usable[-1]))
    # What killed processes released after their last checkpoint is spent, too.
    spent = resumed["metrics"].pop("epsilon", 0.0)
    assert spent >= whole["metrics"].pop("epsilon", 0.0)
    assert_same(whole, resumed)


def checkpoints(out: Path) -> list[Path]:
    return sorted((out.parent / f"{out.stem}-checkpoints").glob("*.ckpt"))


def newest(out: Path) -> Path | None:
    return max(checkpoints(out), default=None)


def round_of(checkpoint: Path | None) -> int:
    return 0 if checkpoint is None else int(checkpoint.stem.split("=")[1].split("-")[0])


def from_the_last(out: Path) -> tuple[str, ...]:
    last = newest(out)
    return () if last is None else ("--ckpt", str(last))


# ---- full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2,500 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


class Wide(Scalar):
    """Rows of 1 MB."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.x = torch.nn.Parameter(torch.zeros(2**18))


def fit(algorithm: Any, state_dir: Path, rounds: int, ckpt: Path | None = None, **options: Any) -> FederatedModule:
    fed = FederatedModule(Wide(), algorithm=algorithm, state_memory_mb=1, state_dir=state_dir)
    data = FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(8)}, cohort_size=3)
    trainer(max_steps=rounds, **options).fit(fed, data, ckpt_path=ckpt)
    return fed


@pytest.mark.parametrize("algorithm", [Scaffold(), Ditto(0.1)], ids=lambda a: type(a).__name__)
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_full_disk_for_workers_state_costs_no_row(tmp_path: Path, small_disk: Path, algorithm: Any) -> None:
    whole = memory(fit(algorithm, tmp_path / "state", 10))
    with pytest.warns(UserWarning, match="cannot be written to .*MB are free there.* stay in memory, and the run goes"):
        fed = fit(algorithm, small_disk, 6)
    fed.trainer.save_checkpoint(tmp_path / "c.ckpt")
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    again = fit(algorithm, small_disk, 10, tmp_path / "c.ckpt")
    torch.testing.assert_close(memory(again), whole, rtol=0, atol=0)


def test_a_full_disk_for_checkpoints_leaves_the_last_one(tmp_path: Path, small_disk: Path) -> None:
    keeps = pl.callbacks.ModelCheckpoint(small_disk, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(OSError, match=r"checkpoint .* could not be written .*MB are free there.*go on from the last"):
        fit(FedAvg(), tmp_path / "state", 10, callbacks=[keeps], enable_checkpointing=True)
    written = list(small_disk.iterdir())
    assert written
    for checkpoint in written:
        torch.load(checkpoint, weights_only=True)
