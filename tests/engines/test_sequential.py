from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, trainer

from lightning_fed.core.errors import WorkerError
from lightning_fed.core.types import Job, LocalTraining, Updates
from lightning_fed.engines import Sequential
from lightning_fed.population import WorkerPool


class Noisy(Scalar):
    """Moves by a random amount, and logs it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        noise = torch.rand(())
        self.log("noise", noise)
        return super().training_step([batch[0] + noise], batch_idx)


def engine(module: pl.LightningModule, workers: Mapping[str, pl.LightningDataModule]) -> Sequential:
    sequential = Sequential()
    sequential.setup(module, WorkerPool(workers, 10), trainer())
    return sequential


def job(cohort: int = 0, seed: int = 0, x: float = 0.0) -> Job:
    return Job(7, cohort, seed, {"x": torch.tensor(x)}, {}, LocalTraining())


def run(sequential: Sequential, cohort: list[str], sent: Job) -> dict[str, float]:
    updates = list(sequential.run(sent, cohort))
    assert all(isinstance(update, Updates) for update in updates)
    return {update.workers[0]: update.delta["x"].item() for update in updates}  # type: ignore[union-attr]


def test_each_worker_starts_from_the_global_model_in_the_cohorts_order() -> None:
    sequential = engine(Scalar(), {"bob": Rows([2.0]), "alice": Rows([6.0, 8.0])})
    assert list(run(sequential, ["alice", "bob"], job(x=1.0)).items()) == [("alice", -6.0), ("bob", -1.0)]


def test_workers_are_trained_one_at_a_time_as_a_stream() -> None:
    trained = []

    class Notes(Scalar):
        def on_train_epoch_start(self) -> None:
            trained.append(self)

    results = engine(Notes(), {"bob": Rows([2.0]), "alice": Rows([6.0])}).run(job(), ["bob", "alice"])
    assert trained == []
    next(iter(results))
    assert len(trained) == 1


def test_updates_already_given_are_not_written_to() -> None:
    results = iter(engine(Scalar(), {"bob": Rows([2.0]), "alice": Rows([6.0])}).run(job(), ["bob", "alice"]))
    first = next(results)
    next(results)
    assert isinstance(first, Updates)
    assert first.delta["x"].item() == -2.0


def test_randomness_is_a_function_of_seed_cohort_and_worker() -> None:
    data = {name: Rows([1.0, 5.0, 2.0, 7.0], batch_size=1, shuffle=True) for name in ("bob", "alice")}
    sequential = engine(Noisy(), data)
    both = run(sequential, ["bob", "alice"], job())
    torch.rand(3)
    assert run(sequential, ["alice", "bob"], job()) == both
    assert run(engine(Noisy(), data), ["bob"], job()) == {"bob": both["bob"]}
    others = [run(sequential, ["bob"], sent)["bob"] for sent in (job(cohort=1), job(seed=1))]
    assert len({both["bob"], both["alice"], *others}) == 4


def test_the_order_does_not_depend_on_how_often_a_loader_with_a_generator_was_used() -> None:
    class Generated(Rows):
        def train_dataloader(self) -> Any:
            rows = super().train_dataloader().dataset
            generator = torch.Generator().manual_seed(3)
            return torch.utils.data.DataLoader(rows, batch_size=1, shuffle=True, generator=generator)

    rows = [float(i) for i in range(20)]
    sequential = engine(Scalar(lr=0.5), {"bob": Generated(rows)})
    first, again, other = (run(sequential, ["bob"], job(cohort))["bob"] for cohort in (0, 0, 1))
    assert first == again != other


def test_a_worker_that_fails_gives_its_error_and_the_next_one_trains() -> None:
    class Broken(Rows):
        def setup(self, stage: str) -> None:
            raise OSError("disk")

    sequential = engine(Scalar(), {"bob": Broken([1.0]), "alice": Rows([6.0])})
    error, update = sequential.run(job(), ["bob", "alice"])
    assert isinstance(error, WorkerError)
    assert str(error) == "worker 'bob' failed in round 7: OSError: disk"
    assert isinstance(error.__cause__, OSError)
    assert isinstance(update, Updates)
    assert update.delta["x"].item() == -6.0


def test_what_no_worker_can_train_with_is_refused_at_the_start() -> None:
    class Two(Scalar):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=1.0) for _ in range(2)]

    with pytest.raises(ValueError, match="returned 2 optimizers"):
        engine(Two(), {"bob": Rows([1.0])})
