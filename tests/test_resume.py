"""Interrupted and resumed is bit for bit the same as uninterrupted."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, trainer
from runs import assert_same, run, start

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.server.checkpoint import KEY

OPTIONS = ("--rounds", "12", "--norm", "--dropout", "0.3")
# Ten workers' controls of 0.8 MB, of which one fits the memory
WITH_STATE = ("--rounds", "12", "--algorithm", "Scaffold()", "--width", "20000", "--state-memory", "1")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return run(tmp_path_factory.mktemp("whole") / "whole.pt", *OPTIONS)


@pytest.fixture(scope="module")
def uninterrupted_with_state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return run(tmp_path_factory.mktemp("whole") / "state.pt", *WITH_STATE)


def last_checkpoint(out: Path) -> Path | None:
    return max((out.parent / f"{out.stem}-checkpoints").glob("*.ckpt"), default=None)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_resuming_is_bit_for_bit(tmp_path: Path, uninterrupted: dict[str, object], rounds: int) -> None:
    """After 1 and 5 rounds within an epoch, after 3 at the end of one."""
    out = tmp_path / "out.pt"
    run(out, *OPTIONS, "--rounds", str(rounds))
    checkpoint = last_checkpoint(out)
    assert checkpoint is not None
    assert_same(uninterrupted, run(out, *OPTIONS, "--ckpt", str(checkpoint)))


@pytest.mark.slow
def test_a_compressed_run_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    options = ("--rounds", "5", "--transforms", "[Compressed(TopK(0.2), least=8)]", "--dropout", "0.3")
    whole = run(tmp_path / "whole.pt", *options)
    assert any(name.startswith("transforms.0.residual") for name in whole["memory"])
    out = tmp_path / "out.pt"
    run(out, *options, "--rounds", "2")
    assert_same(whole, run(out, *options, "--ckpt", str(last_checkpoint(out))))


@pytest.mark.slow
def test_a_run_whose_aggregator_and_workers_remember_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    aggregator = ("--aggregator", "Bucketing(CenteredClipping(0.1, iterations=2))")
    options = ("--rounds", "5", *aggregator, "--transforms", "[WorkerMomentum()]", "--dropout", "0.3")
    whole = run(tmp_path / "whole.pt", *options)
    names = whole["memory"]
    assert "server aggregator.center" in names
    assert any(name.startswith("transforms.0.momentum") for name in names)
    out = tmp_path / "out.pt"
    run(out, *options, "--rounds", "2")
    assert_same(whole, run(out, *options, "--ckpt", str(last_checkpoint(out))))


@pytest.mark.slow
def test_a_run_with_a_compressed_model_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    options = ("--rounds", "5", "--broadcast", "KBit(4)", "--width", "64", "--norm")
    whole, out = run(tmp_path / "whole.pt", *options), tmp_path / "out.pt"
    run(out, *options, "--rounds", "2")
    assert_same(whole, run(out, *options, "--ckpt", str(last_checkpoint(out))))
    with pytest.raises(AssertionError):  # the option does something
        assert_same(whole, run(tmp_path / "plain.pt", *options, "--broadcast", "None"))


class Evaluations(pl.Callback):
    """After which rounds there was an evaluation, and in which epoch; saves after every round."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[tuple[int, int]] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen.append((trainer.global_step, trainer.current_epoch))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("stops", [(2, 4), (3, 4), (3, 6), (3, 5, 6)], ids=str)
def test_a_run_that_goes_on_again_and_again_evaluates_when_it_would_have(
    tmp_path: Path, stops: tuple[int, ...]
) -> None:
    """Epochs of three rounds. A checkpoint after an epoch's last round is written before the evaluation there."""

    def go_on(rounds: int, first: int | None = None) -> list[tuple[int, int]]:
        data = FederatedDataModule({"a": Rows([1.0])}, rounds_per_epoch=3, val=EvaluatedRows([1.0]))
        watch = Evaluations(tmp_path)
        path = None if first is None else tmp_path / f"{first}.ckpt"
        run = trainer(max_steps=rounds, callbacks=[watch], num_sanity_val_steps=0)
        run.fit(FederatedModule(Validated()), data, ckpt_path=path)
        return watch.seen

    assert go_on(9) == [(3, 0), (6, 1), (9, 2)]
    first = None
    for stop in stops:
        go_on(stop + 1, first)
        first = stop
    assert go_on(9, first) == [(step, step // 3 - 1) for step in (3, 6, 9) if step > stops[-1]]


@pytest.mark.parametrize("attempt", [0, *(pytest.param(more, marks=pytest.mark.slow) for more in (1, 2))])
def test_resuming_after_sigkill_is_bit_for_bit(tmp_path: Path, uninterrupted: dict[str, object], attempt: int) -> None:
    assert_same(uninterrupted, killed_and_resumed(tmp_path / "out.pt", OPTIONS, attempt))


@pytest.mark.slow
@pytest.mark.parametrize("attempt", [0, 1])
def test_what_is_remembered_about_workers_survives_too(
    tmp_path: Path, uninterrupted_with_state: dict[str, object], attempt: int
) -> None:
    """Most of it lies in files, written, compacted and deleted while the process is killed."""
    resumed = killed_and_resumed(tmp_path / "out.pt", WITH_STATE, attempt)
    assert uninterrupted_with_state["on_disk"] == resumed["on_disk"] == 9
    assert_same(uninterrupted_with_state, resumed)


def killed_and_resumed(out: Path, options: tuple[str, ...], attempt: int) -> dict[str, object]:
    """Kill a process at a random moment after its first checkpoint, between rounds or within one; then go on."""
    process = start(out, *options, "--rounds", "100000")
    deadline = time.monotonic() + 60
    while last_checkpoint(out) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(attempt).uniform(0, 0.15))
    process.kill()
    process.communicate()
    checkpoints = sorted((out.parent / "out-checkpoints").glob("*.ckpt"))
    assert checkpoints
    for checkpoint in checkpoints:  # none is half written
        torch.load(checkpoint, weights_only=True)
    usable = [path for path in checkpoints if int(path.stem.split("=")[1]) <= 12]
    return run(out, *options, "--ckpt", str(usable[-1]))


# ---- a checkpoint of any moment --------------------------------------------------------------------------------------


class Validated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("x", self.x)


class Cohorts(pl.Callback):
    """Notes (epoch, round, cohort) as each cohort begins."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append((trainer.current_epoch, trainer.global_step, batch.number))


MOMENTS = ("on_train_start", "on_train_epoch_start", "on_after_backward", "on_train_batch_end", "on_validation_start")
MOMENTS += ("on_validation_end", "on_train_epoch_end", "on_train_end")


def saving(folder: Path) -> pl.Callback:
    """A callback that saves a checkpoint at each of the moments."""
    saver: Any = pl.Callback()

    def save(moment: str) -> Any:
        return lambda t, *_: t.save_checkpoint(folder / f"{len(list(folder.iterdir())):03d}-{moment}.ckpt")

    for moment in MOMENTS:
        setattr(saver, moment, save(moment))
    return saver  # type: ignore[no-any-return]


@pytest.mark.parametrize("limit", [{"max_epochs": 2}, pytest.param({"max_steps": 4}, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(
    ("options", "rounds_per_epoch"),
    [
        ({}, 1),
        pytest.param({}, 3, marks=pytest.mark.slow),
        ({"accumulate_grad_batches": 2}, 3),
        pytest.param({"accumulate_grad_batches": 2}, 4, marks=pytest.mark.slow),
    ],
    ids=["one", "three", "accumulated, the last alone", "accumulated"],
)
@pytest.mark.parametrize(
    "validation",
    [None, pytest.param({}, marks=pytest.mark.slow), {"val_check_interval": 1}],
    ids=["none", "epoch", "cohort"],
)
@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_goes_on_from_a_checkpoint_of_any_moment(
    tmp_path: Path,
    limit: dict[str, int],
    options: dict[str, int],
    rounds_per_epoch: int,
    validation: dict[str, int] | None,
) -> None:
    def run(*callbacks: pl.Callback, ckpt_path: Path | None = None) -> tuple[float, int, list[tuple[int, int, int]]]:
        kind, model = (Rows, Scalar(0.3)) if validation is None else (EvaluatedRows, Validated(0.3))
        workers = {f"w{i}": kind([i, i + 1.0], batch_size=1, shuffle=True) for i in range(5)}
        fed = FederatedModule(
            model, server_optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.5), engine="sequential"
        )
        cohorts = Cohorts()
        quiet = {"num_sanity_val_steps": 0, "callbacks": [cohorts, *callbacks]}
        run = trainer(**quiet, **limit, **options, **(validation or {}))
        data = FederatedDataModule(workers, cohort_size=2, rounds_per_epoch=rounds_per_epoch)
        run.fit(fed, data, ckpt_path=ckpt_path)
        if callbacks:
            run.save_checkpoint(tmp_path / "999-after.ckpt")
        return model.x.item(), run.global_step, cohorts.seen

    x, rounds, seen = run(saving(tmp_path))
    for path in sorted(tmp_path.iterdir()):
        cohort = torch.load(path, weights_only=True)[KEY]["cohort"]
        resumed = run(ckpt_path=path)
        assert resumed[:2] == (x, rounds), path.name
        assert resumed[2] == [s for s in seen if s[2] >= cohort], path.name
