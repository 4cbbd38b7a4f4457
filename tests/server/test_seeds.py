"""One seed varies everything: what follows ``pl.seed_everything``, when, and what a seed of its own keeps fixed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from processes import run_in_processes

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.datasets import (
    FCUBE,
    IID,
    DigitsDataModule,
    Dirichlet,
    DirichletSizes,
    LabelsPerWorker,
    LogNormal,
    PartitionedPopulation,
    Shards,
    Synthetic,
)
from lightning_fed.server.seeds import Seeds

LABELS = np.repeat(np.arange(4), 50)


def rows(kind: type[Rows] = Rows) -> dict[str, pl.LightningDataModule]:
    return {f"w{i}": kind([float(i)]) for i in range(20)}


class Cohorts(pl.Callback):
    """Notes who trains in each round, and by which seed."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []
        self.seeds: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, fed: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append(batch.workers)
        self.seeds.append(batch.seed)


def run(data: FederatedDataModule, module: pl.LightningModule | None = None) -> Cohorts:
    note = Cohorts()
    fit(FederatedModule(module or Scalar()), data, max_steps=5, max_epochs=-1, callbacks=[note])
    return note


def data(seed: int | None = None, **options: Any) -> FederatedDataModule:
    return FederatedDataModule(rows(), cohort_size=3, seed=seed, **options)


def test_cohorts_follow_the_global_seed() -> None:
    cohorts = {}
    for seed in (1, 2):
        pl.seed_everything(seed, verbose=False)
        cohorts[seed] = run(data())
        assert cohorts[seed].seen == run(data(seed)).seen  # as if it had been given
        assert cohorts[seed].seeds == [seed] * 5
    assert cohorts[1].seen != cohorts[2].seen


def test_a_seed_that_is_given_stays() -> None:
    pl.seed_everything(1, verbose=False)
    first = run(data(0)).seen
    pl.seed_everything(2, verbose=False)
    assert run(data(0)).seen == first


def test_without_a_global_seed_it_is_0() -> None:
    assert data().seed == 0
    assert run(data()).seen == run(data(0)).seen


def test_seeding_after_the_data_were_built_counts_too() -> None:
    late = data()
    pl.seed_everything(7, verbose=False)
    assert late.seed == 7
    assert run(late).seeds == [7] * 5
    pl.seed_everything(8, verbose=False)
    assert run(late).seeds == [8] * 5  # a new fit, a new seed


class Evaluates(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


class SeedsItself(Rows):
    """Calls ``pl.seed_everything`` in its setup, as many do."""

    def setup(self, stage: str) -> None:
        pl.seed_everything(42, verbose=False)


def test_a_worker_that_seeds_everything_changes_no_later_cohort() -> None:
    pl.seed_everything(3, verbose=False)
    own = FederatedDataModule({f"w{i}": SeedsItself([float(i)]) for i in range(20)}, cohort_size=3)
    note = run(own)
    assert note.seeds == [3] * 5
    assert note.seen == run(data(3)).seen


def test_an_evaluation_after_a_fit_keeps_the_seed_of_the_fit() -> None:
    pl.seed_everything(3, verbose=False)
    own = FederatedDataModule(rows(EvaluatedRows), cohort_size=3, eval_cohort_size=2)
    fed = FederatedModule(Evaluates())
    fit(fed, own, max_steps=1, max_epochs=-1)
    pl.seed_everything(4, verbose=False)
    trainer().validate(fed, own, verbose=False)
    assert own.seed == 3


class Draws(Rows):
    """Draws its one row in ``setup``."""

    def setup(self, stage: str) -> None:
        self.values = torch.rand(1)


def test_what_datamodules_draw_follows_too() -> None:
    def drawn(given: int | None, seed: int) -> list[float]:
        pl.seed_everything(seed, verbose=False)
        own = {name: Draws([0.0]) for name in ("bob", "alice")}
        fit(FederatedModule(Scalar()), FederatedDataModule(own, seed=given), max_epochs=1)
        return [float(datamodule.values) for datamodule in own.values()]

    assert drawn(None, 1) != drawn(None, 2)
    assert drawn(0, 1) == drawn(0, 2)
    assert drawn(None, 1) == drawn(1, 2)


def test_workers_that_an_earlier_seed_has_set_up_are_set_up_anew() -> None:
    own = {name: Draws([0.0]) for name in ("bob", "alice")}
    late = FederatedDataModule(own)
    assert late.pool["bob"].batches is not None  # user code looks at a worker before it seeds
    before = own["bob"].values
    pl.seed_everything(1, verbose=False)
    fit(FederatedModule(Scalar()), late, max_epochs=1)
    assert own["bob"].values != before


def test_processes_take_the_seed_of_the_first() -> None:
    def work() -> Any:
        pl.seed_everything(int(os.environ["LOCAL_RANK"]), verbose=False)  # a mistake that is often made
        note, own = Cohorts(), data()
        options: dict[str, Any] = {"strategy": "ddp", "devices": 2, "max_steps": 2, "max_epochs": -1}
        fit(FederatedModule(Scalar()), own, callbacks=[note], **options)
        return note.seen, own.seed

    first, second = run_in_processes(work)
    assert first.error is second.error is None
    assert first.result == second.result
    assert first.result[1] == 0


@pytest.mark.parametrize("wrong", ["abc", "-1", ""])
def test_an_environment_that_holds_no_seed_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", wrong)
    with pytest.raises(ValueError, match=f"PL_GLOBAL_SEED='{wrong}' must be a whole number of at least 0"):
        FederatedDataModule(rows())


# ---- the partition ---------------------------------------------------------------------------------------------------

PARTITIONERS = [
    lambda **seed: IID(workers=5, **seed),
    lambda **seed: Dirichlet(workers=5, alpha=0.5, **seed),
    lambda **seed: Dirichlet(workers=5, alpha=0.5, capped=True, **seed),
    lambda **seed: LabelsPerWorker(workers=5, labels=3, **seed),
    lambda **seed: Shards(workers=5, **seed),
    lambda **seed: DirichletSizes(workers=5, alpha=0.5, **seed),
    lambda **seed: LogNormal(workers=5, sigma=1.0, **seed),
]


@pytest.mark.parametrize("make", PARTITIONERS)
def test_a_partition_stays_unless_it_is_let_follow(make: Any) -> None:
    def dealt(**seed: int | None) -> list[int]:
        return [int(i) for part in make(**seed)(LABELS) for i in part]

    pl.seed_everything(1, verbose=False)
    fixed, first = dealt(), dealt(seed=None)
    pl.seed_everything(2, verbose=False)
    assert dealt() == fixed == dealt(seed=0)
    assert dealt(seed=None) != first
    assert make(seed=None).seed == 2


@pytest.mark.parametrize("kind", [FCUBE, Synthetic])
def test_data_that_are_drawn_stay_unless_they_are_let_follow(kind: Any) -> None:
    pl.seed_everything(5, verbose=False)
    assert kind().seed == 0
    assert kind(seed=None).seed == 5
    assert torch.equal(*(p[p.name(0)].train_set[0][0] for p in (kind(seed=None), kind(seed=5))))


def test_what_a_datamodule_holds_out_may_follow() -> None:
    pl.seed_everything(5, verbose=False)
    sets = [DigitsDataModule(seed=seed) for seed in (None, 5, 0)]
    for datamodule in sets:
        datamodule.setup("fit")
    following, given, fixed = (datamodule.train_dataloader().dataset[0][0] for datamodule in sets)
    assert torch.equal(following, given)
    assert not torch.equal(following, fixed)


# ---- printed ---------------------------------------------------------------------------------------------------------


ALL = "the initial weights, cohorts, batch orders and dropout"


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        (Seeds(3, 3, True, 0), f"3 decides {ALL} (pl.seed_everything); 0 the partition"),
        (
            Seeds(3, 0, False, None),
            "3 decides the initial weights (pl.seed_everything); 0 cohorts, batch orders and dropout",
        ),
        (
            Seeds(None, 0, True, 1),
            "none decides the initial weights (no pl.seed_everything); 0 cohorts, batch orders and dropout; 1 the "
            "partition",
        ),
        (
            Seeds(3, 3, True, None, True),
            "3 decides the initial weights, batch orders and dropout (pl.seed_everything); cohorts are drawn by a "
            "secret one",
        ),
    ],
)
def test_seeds_in_words(seeds: Seeds, says: str) -> None:
    assert str(seeds) == f"seeds: {says}"


def test_the_page_about_seeds_shows_the_line() -> None:
    page = (Path(__file__).parents[2] / "docs" / "seeds.md").read_text()
    assert f"\n{Seeds(3, 3, True, 0)}\n" in page


def test_a_fit_says_its_seeds_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("lightning_fed.module.rank_zero_info", lines.append)
    pl.seed_everything(3, verbose=False)
    population = PartitionedPopulation(DigitsDataModule(), IID(workers=20, seed=1))
    own = FederatedDataModule(population, cohort_size=3)
    trainer(max_steps=1, max_epochs=-1).fit(FederatedModule(Digits()), own)
    assert lines == [f"{Seeds(3, 3, True, 1)}; Digits has 1 parameter"] == [f"{own.seeds}; Digits has 1 parameter"]


class Digits(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (batch[0].mean() - self.x) ** 2
