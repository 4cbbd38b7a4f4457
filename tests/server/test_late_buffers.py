"""Buffers that the global model does not have at first. By hand: means are weighted by rows, integers the maximum."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.aggregation import Bucketing, CenteredClipping, CohortAggregator, Median

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["sequential", "auto"])


def people() -> FederatedDataModule:
    """Means of 2, 6, 7, 6 and 4.5, with 1, 2, 1, 1 and 1 rows: as many as engine="auto" trains together."""
    rows = {"a": [2.0], "b": [5.0, 7.0], "c": [7.0], "d": [6.0], "e": [4.5]}
    return FederatedDataModule({name: Rows(values) for name, values in rows.items()})


class NoneAtFirst(Scalar):
    """The mean of the data, halfway from the one of before, and how often it was taken."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Any
        self.register_buffer("mean", None)
        self.register_buffer("count", None)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        mean = batch[0].mean()
        self.mean = mean if self.mean is None else (self.mean + mean) / 2
        self.count = torch.tensor(1) if self.count is None else self.count + 1
        return super().training_step(batch, batch_idx)


class RegisteredLate(Scalar):
    """The same, with buffers that no ``__init__`` knows of."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        mean = batch[0].mean()
        if not hasattr(self, "mean"):
            self.register_buffer("mean", mean)
            self.register_buffer("count", torch.tensor(1))
        else:
            self.mean, self.count = (self.mean + mean) / 2, self.count + 1
        return super().training_step(batch, batch_idx)


@engines
@pytest.mark.parametrize("kind", [NoneAtFirst, RegisteredLate])
def test_one_that_appears_is_averaged_and_goes_on_from_there(engine: Any, kind: type[Scalar]) -> None:
    """The mean is (2 + 2·6 + 7 + 6 + 4.5)/6 = 5.25 in the first round, and halfway from there to itself in the next."""
    for rounds in (1, 2, 3):
        module: Any = kind()
        fit(FederatedModule(module, engine=engine), people(), max_epochs=rounds)
        assert_equal(module.mean, torch.tensor(5.25))
        assert module.count == rounds
        assert set(module.state_dict()) == {"x", "mean", "count"}


@engines
@pytest.mark.parametrize("aggregator", [Median(), Bucketing(Median()), CenteredClipping(1.0)], ids=repr)
def test_it_is_the_median_with_a_robust_aggregator(engine: Any, aggregator: CohortAggregator) -> None:
    fit(FederatedModule(module := NoneAtFirst(), engine=engine, aggregator=aggregator), people())
    assert module.mean == 6.0


class Growing(Scalar):
    """The means of all batches so far."""

    def __init__(self) -> None:
        super().__init__()
        self.means: Any
        self.register_buffer("means", torch.zeros(0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.means = torch.cat([self.means, batch[0].mean().reshape(1)])
        return super().training_step(batch, batch_idx)


@engines
def test_one_that_grows_alike_is_averaged(engine: Any) -> None:
    for rounds in (1, 3):
        fit(FederatedModule(module := Growing(), engine=engine), people(), max_epochs=rounds)
        assert_equal(module.means, torch.full((rounds,), 5.25))


def unlike() -> FederatedDataModule:
    rows = {"a": [2.0], "b": [5.0, 7.0], "c": [4.0], "d": [1.0], "e": [5.0]}
    return FederatedDataModule({name: Rows(values, batch_size=1) for name, values in rows.items()})


class Shrinking(Scalar):
    """Five numbers, in place of which the first step puts one."""

    def __init__(self) -> None:
        super().__init__()
        self.mean: Any
        self.register_buffer("mean", torch.zeros(5))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mean = batch[0].mean().reshape(1)
        return super().training_step(batch, batch_idx)


class Retyped(Shrinking):
    """Whole numbers, in place of which the first step puts a fraction."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(1, dtype=torch.long)


@engines
@pytest.mark.parametrize("kind", [Shrinking, Retyped])
def test_one_of_another_shape_or_dtype_is_as_it_was_sent(engine: Any, kind: type[Scalar]) -> None:
    for rounds in (1, 2):
        module: Any = kind()
        fit(FederatedModule(module, engine=engine), people(), max_epochs=rounds)
        assert_equal(module.mean, torch.tensor([5.25]))


@pytest.mark.parametrize("kind", [Growing, Shrinking, Retyped])
def test_workers_that_train_together_keep_shapes_and_dtypes(kind: type[Scalar]) -> None:
    with pytest.raises(WorkerError, match="training_step changes the shape or the dtype of the buffer 'mean"):
        fit(FederatedModule(kind(), engine="vectorized"), people())


@engines
def test_one_whose_shape_differs_between_workers_names_worker_and_buffer(engine: Any) -> None:
    with pytest.raises(
        WorkerError,
        match=r"worker 'b' failed in round 0: .* means has the shape \(2,\), and that of most other workers \(1,\)",
    ):
        fit(FederatedModule(Growing(), engine=engine), unlike())


@engines
@pytest.mark.parametrize("odd", ["a", "c", "e"])
def test_most_workers_decide_the_shape_and_not_the_first(engine: Any, odd: str) -> None:
    rows = {name: [5.0, 7.0] if name == odd else [4.0] for name in "abcde"}
    fed = FederatedModule(module := Growing(), engine=engine, on_worker_error="drop")
    fit(fed, FederatedDataModule({name: Rows(values, batch_size=1) for name, values in rows.items()}))
    assert [failure.worker for failure in fed.last_report.failures] == [odd]
    assert module.means.tolist() == [4.0]
    assert module.x.item() == 4.0


class GrowsOn6(Growing):
    """Means that become longer at some workers, and stay as they were at others."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if (batch[0] != 6.0).any():
            self.means = torch.zeros(0)
        return loss


@engines
def test_one_worker_does_not_decide_a_shape_against_most(engine: Any) -> None:
    fed = FederatedModule(module := GrowsOn6(), engine=engine, on_worker_error="drop")
    fit(fed, FederatedDataModule({name: Rows([value]) for name, value in {"a": 6.0, "b": 4.0, "c": 2.0}.items()}))
    assert [failure.worker for failure in fed.last_report.failures] == ["a"]
    assert module.means.numel() == 0
    assert module.x.item() == 3.0


@engines
def test_a_worker_whose_shape_differs_can_be_dropped(engine: Any) -> None:
    fed = FederatedModule(module := Growing(), engine=engine, on_worker_error="drop")
    fit(fed, unlike())
    assert [failure.worker for failure in fed.last_report.failures] == ["b"]
    assert module.means.tolist() == [3.0]
    assert module.x.item() == 3.0
