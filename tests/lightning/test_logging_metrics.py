"""torchmetrics objects that local training fills: read on the server, they hold the cohort's."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from torch import Tensor
from torchmetrics import CatMetric, MaxMetric, MeanMetric, Metric, MetricCollection, MinMetric, SumMetric
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.privacy import CentralDP

WORKERS = {"a": [1.0, 2.0, 3.0], "b": [5.0], "c": [4.0, 6.0]}


class Filled(Scalar):
    """Fills objects in training."""

    def __init__(self, logs: bool = False, resets: bool = False) -> None:
        super().__init__()
        self.logs, self.resets = logs, resets
        self.mean, self.total, self.least, self.most = MeanMetric(), SumMetric(), MinMetric(), MaxMetric()
        self.both = MetricCollection([BinaryAccuracy(), BinaryF1Score()], prefix="both_")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (values,) = batch
        for metric in (self.mean, self.total, self.least, self.most):
            metric.update(values)
        self.both.update((values > 2.5).float(), (values > 4.5).int())
        if self.logs:
            self.log("mean", self.mean, on_epoch=True)
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


class Metered(Filled):
    """Reads them in a hook of the server."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def read(self) -> dict[str, float]:
        metrics: tuple[Metric, ...] = (self.mean, self.total, self.least, self.most)
        names = ("mean", "total", "least", "most")
        values = {name: metric.compute().item() for name, metric in zip(names, metrics, strict=True)}
        return values | {name: value.item() for name, value in self.both.compute().items()}

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log_dict({f"read/{name}": value for name, value in self.read().items()})
            if self.resets:
                for metric in (self.mean, self.total, self.least, self.most, self.both):
                    metric.reset()


def workers(kind: type[Rows] = EvaluatedRows, batch_size: int = 2) -> FederatedDataModule:
    return FederatedDataModule({name: kind(rows, batch_size=batch_size) for name, rows in WORKERS.items()})


def read(run: pl.Trainer) -> dict[str, float]:
    metrics = run.callback_metrics.items()
    return {name.removeprefix("read/"): value.item() for name, value in metrics if name.startswith("read/")}


# All six values: 1 to 6. Above 2.5 are four, above 4.5 two of them: 4 of 6 right; two true and two false positives.
BY_HAND = {
    "mean": 3.5,
    "total": 21.0,
    "least": 1.0,
    "most": 6.0,
    "both_BinaryAccuracy": 4 / 6,
    "both_BinaryF1Score": 2 / 3,
}


def test_the_server_reads_the_cohorts_values(engine: Any) -> None:
    run = fit(FederatedModule(Metered(), engine=engine), workers())
    assert read(run) == pytest.approx(BY_HAND)


def test_they_gather_over_rounds_until_the_server_resets_them() -> None:
    gathered = fit(FederatedModule(Metered()), workers(), max_epochs=2)
    assert read(gathered) == pytest.approx(BY_HAND | {"total": 42.0})
    reset = fit(FederatedModule(Metered(resets=True)), workers(), max_epochs=2)
    assert read(reset) == pytest.approx(BY_HAND)


def test_one_that_is_logged_is_emptied_at_an_epochs_end_as_lightning_does() -> None:
    module, plain = Metered(logs=True), Metered(logs=True)
    run = fit(FederatedModule(module), FederatedDataModule({"a": EvaluatedRows([1.0, 2.0, 6.0])}), max_epochs=2)
    oracle = trainer(max_epochs=2)
    oracle.fit(plain, EvaluatedRows([1.0, 2.0, 6.0]))
    assert read(run) == pytest.approx(read(oracle))
    assert read(run)["mean"] == 3.0
    assert not module.mean.update_called
    assert not plain.mean.update_called


def test_accumulated_cohorts_all_count() -> None:
    data = FederatedDataModule({"a": EvaluatedRows([1.0]), "b": EvaluatedRows([3.0])}, rounds_per_epoch=2)
    run = fit(FederatedModule(Metered()), data, accumulate_grad_batches=2)
    assert read(run)["total"] == 8.0


class Failing(EvaluatedRows):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer is not None and self.trainer.training and batch[0].min() > 4.5:
            raise RuntimeError("gone")
        return batch


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_workers_that_are_dropped_do_not_count(engine: str) -> None:
    """Without b, and without c, whose batch of one from the first is bad: 1 + 2 + 3."""
    data = FederatedDataModule(
        {"a": Failing([1.0, 2.0, 3.0]), "b": Failing([5.0]), "c": Failing([6.0, 7.0])},
    )
    run = fit(FederatedModule(Metered(), engine=engine, on_worker_error="drop"), data, num_sanity_val_steps=0)
    assert read(run)["total"] == 6.0


class Listing(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.values = CatMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.values.update(batch[0])
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


@pytest.mark.parametrize("engine", ["sequential", "vectorized", "auto"])
def test_one_that_lists_examples_stays_with_its_worker_and_that_is_said(engine: str) -> None:
    module = Listing()
    with pytest.warns(UserWarning, match=r"the metric 'values' .* stays with each worker"):
        fit(FederatedModule(module, engine=engine), workers(Rows))
    assert not module.values.update_called


def test_under_a_promise_nothing_is_read() -> None:
    module = Filled()
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1)
    federated = FederatedModule(module, privacy=promise)
    fit(federated, workers(Rows))
    assert not module.mean.update_called
    assert not federated.last_report.metric_states


@pytest.mark.filterwarnings("ignore:CentralDP")
def test_unless_metrics_are_released() -> None:
    module = Filled()
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1, release_metrics=True)
    data = FederatedDataModule({name: Rows(rows) for name, rows in WORKERS.items()}, cohort_size=3)
    federated = FederatedModule(module, privacy=promise)
    fit(federated, data, max_steps=1)
    total = sum(sum(WORKERS[worker]) for worker in federated.last_report.workers)
    assert module.total.compute() == total


class Foreign(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        metric = MeanMetric()
        metric.update(batch[0])
        self.log("it", metric)
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


def test_an_object_that_is_no_part_of_the_module_is_refused_as_in_lightning() -> None:
    with pytest.raises(Exception, match=r"worker 'a' failed in round 0: .*'it' is no part of the module"):
        fit(FederatedModule(Foreign(), engine="sequential"), FederatedDataModule({"a": Rows([1.0])}))


class OfSome(Scalar):
    """Fills its object for some workers only, with numbers of which none is 0 or more."""

    def __init__(self) -> None:
        super().__init__()
        self.most = MaxMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch[0].mean() < 3.0:
            self.most.update(-batch[0])
        return super().training_step(batch, batch_idx)


def test_an_extreme_is_that_of_the_workers_that_have_one(engine: Any) -> None:
    module = OfSome()
    fit(FederatedModule(module, engine=engine), FederatedDataModule({n: Rows(v) for n, v in WORKERS.items()}))
    assert module.most.compute() == -1.0
    assert module.most.update_count == 1


# ---- passes over a worker's data -------------------------------------------------------------------------------------


class OverPasses(Scalar):
    """Logs objects whose values in each pass differ, and reads them where a pass ends."""

    def __init__(self) -> None:
        super().__init__(lr=0.5)
        self.mean = MeanMetric()
        self.both = MetricCollection([BinaryAccuracy(), BinaryF1Score()])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (values,) = batch
        error = (values - self.x.detach()).abs()
        self.mean.update(error)
        self.both.update((error < 2).float(), (values > 2.5).int())
        self.log("error", self.mean, on_step=False, on_epoch=True)
        self.log_dict(self.both, on_step=False, on_epoch=True)
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss

    def on_train_epoch_end(self) -> None:
        READ.append([metric.compute().item() for metric in (self.mean, *self.both.values())])


READ: list[list[float]] = []


def test_each_pass_has_objects_of_its_own_and_the_round_those_of_all_passes() -> None:
    rows, sizes = Rows([1.0, 2.0, 5.0], batch_size=1), 3
    READ.clear()
    trainer(max_epochs=3).fit(OverPasses(), rows)
    plain = READ.copy()
    assert len({tuple(values) for values in plain}) == 3
    READ.clear()
    module = OverPasses()
    run = fit(FederatedModule(module, engine="sequential", local_epochs=3), FederatedDataModule({"ann": rows}))
    assert plain == READ
    assert run.callback_metrics["error"].item() == pytest.approx(sum(values[0] for values in plain) / 3)
    accuracy = run.callback_metrics["BinaryAccuracy"].item()
    assert accuracy == pytest.approx(sum(values[1] for values in plain) / 3)
    assert module.mean.update_count in (0, 3 * sizes)  # what Lightning has not reset yet is the cohort's
