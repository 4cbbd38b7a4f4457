from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, fit, trainer

from lightning_fed import CohortSampler, FederatedDataModule, FederatedModule
from lightning_fed.engines import Sequential
from lightning_fed.population import WorkerPool
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates, WorkerError


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
    return Job(7, cohort, seed, GlobalModel({"x": torch.tensor(x)}), LocalTraining())


def run(sequential: Sequential, cohort: list[str], sent: Job) -> dict[str, float]:
    updates = list(sequential.run(sent, cohort))
    assert all(isinstance(update, Updates) for update in updates)
    return {name: delta.item() for update in updates for name, delta in zip(update.workers, update.delta, strict=True)}  # type: ignore[union-attr]


def test_each_worker_starts_from_the_global_model_in_the_cohorts_order() -> None:
    sequential = engine(Scalar(), {"bob": Rows([2.0]), "alice": Rows([6.0, 8.0])})
    assert list(run(sequential, ["alice", "bob"], job(x=1.0)).items()) == [("alice", -6.0), ("bob", -1.0)]


class Large(Scalar):
    """Takes a whole block of updates for itself: 8 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.ballast = torch.nn.Parameter(torch.zeros(2 * 2**20))


def large(cohort: int = 0) -> Job:
    return Job(7, cohort, 0, GlobalModel({n: p.detach() for n, p in Large().named_parameters()}), LocalTraining())


def test_workers_are_trained_as_a_stream_in_blocks_of_bounded_memory() -> None:
    trained = []

    class Notes(Large):
        def on_train_epoch_start(self) -> None:
            trained.append(self)

    data = {name: Rows([2.0]) for name in ("bob", "alice", "carol")}
    results = engine(Notes(), data).run(large(), list(data))
    assert trained == []
    assert next(results).workers == ("bob",)  # type: ignore[union-attr]
    assert len(trained) == 1
    (block,) = engine(Scalar(), data).run(job(), list(data))
    assert block.workers == ("bob", "alice", "carol")  # type: ignore[union-attr]


def test_updates_already_given_are_not_written_to() -> None:
    sent = large()
    results = engine(Large(), {"bob": Rows([2.0]), "alice": Rows([6.0])}).run(sent, ["bob", "alice"])
    first = next(results)
    next(results)
    assert isinstance(first, Updates)
    assert sent.model.layout.unflatten(first.delta)["x"].item() == -2.0


def test_workers_before_and_after_a_failure_are_passed_on_in_order() -> None:
    class Broken(Rows):
        def train_dataloader(self) -> Any:
            raise OSError("disk")

    data = {"a": Rows([1.0]), "b": Rows([2.0]), "c": Broken([0.0]), "d": Rows([4.0])}
    first, failure, last = engine(Scalar(), data).run(job(), list(data))
    assert isinstance(first, Updates)
    assert isinstance(failure, WorkerError)
    assert isinstance(last, Updates)
    assert (first.workers, first.delta.tolist()) == (("a", "b"), [[-1.0], [-2.0]])
    assert (last.workers, last.delta.tolist()) == (("d",), [[-4.0]])
    assert failure.worker == "c"


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
    assert update.delta.item() == -6.0


def test_what_no_worker_can_train_with_is_refused_at_the_start() -> None:
    class Two(Scalar):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=1.0) for _ in range(2)]

    with pytest.raises(ValueError, match="returned 2 optimizers"):
        engine(Two(), {"bob": Rows([1.0])})


# ---- under a Trainer -------------------------------------------------------------------------------------------------


class InOrder(CohortSampler):
    """One worker after another."""

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [number % population]


def one_each(**workers: Rows) -> FederatedDataModule:
    return FederatedDataModule(workers, cohort_size=1, sampler=InOrder())


class Counting(Scalar):
    """Has a float and an integer buffer, which local training moves."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("batches", torch.tensor(0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mean.copy_(batch[0].mean())
        self.batches += 1
        return super().training_step(batch, batch_idx)


def test_cohorts_whose_gradients_accumulate_are_one_server_step() -> None:
    fed = FederatedModule(Counting())
    run = fit(fed, one_each(a=Rows([2.0, 2.0, 2.0]), b=Rows([6.0])), accumulate_grad_batches=2)
    # Both start from 0, and the gradient is the mean of -2 and -6. Buffers: (3 * 2 + 1 * 6) / 4.
    assert (run.global_step, fed.module.x.item(), fed.module.mean.item()) == (1, 4.0, 3.0)
    assert fed.module.batches.item() == 1


def test_local_training_does_not_accumulate() -> None:
    class Asks(Scalar):
        def on_train_epoch_start(self) -> None:
            assert self.trainer.accumulate_grad_batches == 1
            assert self.trainer.gradient_clip_val is None

    fed = FederatedModule(Asks())
    fit(fed, one_each(a=Rows([2.0, 6.0], batch_size=1)), accumulate_grad_batches=4, gradient_clip_val=1.0)
    # The way to the last row, 6, is divided by 4 and clipped, both at the server; torch adds 1e-6 to the norm.
    assert fed.module.x.item() == pytest.approx(1.5 / (1.5 + 1e-6))


def test_without_accumulation_each_cohort_starts_where_the_last_one_ended() -> None:
    fed = FederatedModule(Counting())
    fit(fed, one_each(a=Rows([2.0]), b=Rows([6.0])))
    assert (fed.module.x.item(), fed.module.mean.item(), fed.module.batches.item()) == (6.0, 6.0, 2)
