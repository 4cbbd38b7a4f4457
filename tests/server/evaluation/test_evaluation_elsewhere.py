"""Evaluation of workers whose data lie elsewhere: what the Trainer shows is what it shows of the same workers here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from elsewhere import elsewhere
from helpers import assert_equal, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanSquaredError, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassF1Score,
)

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedPer

CLASSES = 3
SIZES = {"tiny": 7, "small": 20, "middle": 40, "large": 101}

pytestmark = pytest.mark.usefixtures("double")


class Points(pl.LightningDataModule):
    """Points of three classes, in batches whose last one is ragged."""

    def __init__(self, seed: int, n: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 4, generator=generator)
        self.set = TensorDataset(x, (x[:, :CLASSES] + torch.randn(n, CLASSES, generator=generator)).argmax(dim=1))

    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=16)

    def val_dataloader(self) -> Any:
        return self.train_dataloader()

    def test_dataloader(self) -> Any:
        return self.train_dataloader()

    def predict_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.set.tensors[0]), batch_size=16)


class Two(Points):
    def val_dataloader(self) -> Any:
        return [self.train_dataloader(), DataLoader(TensorDataset(*(t[:5] for t in self.set.tensors)), batch_size=4)]

    test_dataloader = val_dataloader


class Net(pl.LightningModule):
    """A classifier that logs plain values of every reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, CLASSES)

    def forward(self, batch: Any) -> Tensor:
        return self.net(batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self(batch), batch[1])
        self.log("val_loss", loss, prog_bar=True)
        self.log("rows", float(len(batch[1])), reduce_fx="sum", logger=False)
        self.log("least", batch[0].min(), reduce_fx="min")
        self.log("most", batch[0].max(), reduce_fx="max")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Steps(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self(batch), batch[1])
        self.log("forked", loss, on_step=True, on_epoch=True)
        self.log("step", loss, on_step=True, on_epoch=False)


class Objects(Net):
    """Logs torchmetrics objects with sums, lists, a maximum, and states that merge in a way of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.collection = MetricCollection([MulticlassAccuracy(CLASSES), MulticlassF1Score(CLASSES)], prefix="each_")
        self.auroc, self.mse, self.largest, self.pearson = BinaryAUROC(), MeanSquaredError(), MaxMetric(), _pearson()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, y = self(batch), batch[1]
        self.accuracy(logits, y)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.collection.update(logits, y)
        self.log_dict(self.collection)
        self.auroc.update(logits[:, 0], (y == 0).int())
        self.mse(logits[:, 0].contiguous(), (y == 0).to(logits.dtype))
        self.largest.update(batch[0])
        self.pearson.update(logits[:, 0].contiguous(), logits[:, 1].contiguous())
        self.log_dict({"auroc": self.auroc, "mse": self.mse, "largest": self.largest, "pearson": self.pearson})


def _pearson() -> PearsonCorrCoef:
    return PearsonCorrCoef()


class AtTheEnd(Net):
    """Computes at the end of the epoch, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.auroc = BinaryAUROC()
        self.ends = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.accuracy.update(self(batch), batch[1])
        self.auroc.update(self(batch)[:, 0], (batch[1] == 0).int())

    def on_validation_epoch_end(self) -> None:
        self.log("accuracy", self.accuracy.compute())
        self.log("auroc", self.auroc.compute())
        self.accuracy.reset()
        self.auroc.reset()
        self.ends += 1

    on_test_epoch_end = on_validation_epoch_end


class Indexed(Net):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
        loss = nn.functional.cross_entropy(self(batch), batch[1])
        self.log("index", float(dataloader_idx))
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log(f"named_{dataloader_idx}", loss, add_dataloader_idx=False)

    test_step = validation_step


def workers(kind: Callable[[int, int], Points] = Points) -> dict[str, pl.LightningDataModule]:
    return {name: kind(seed, n) for seed, (name, n) in enumerate(SIZES.items())}


def made(kind: type[Net]) -> Net:
    torch.manual_seed(0)
    return kind()


def numbers(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


MODULES = [Net, Steps, Objects, AtTheEnd]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("kind", MODULES)
def test_all_that_a_trainer_shows_is_as_of_the_same_workers_here(kind: type[Net], stage: str, backwards: bool) -> None:
    here, there = FederatedModule(made(kind)), made(kind)
    run = trainer()
    expected = getattr(run, stage)(here, FederatedDataModule(workers()), verbose=False)
    data, nodes = elsewhere(workers(), backwards=backwards)
    fed, other = FederatedModule(there, engine=nodes), trainer()
    actual = getattr(other, stage)(fed, data, verbose=False)
    # Sums of floats and merged correlations are rounded in another order: 1e-9 in double.
    assert_equal(actual, expected)
    assert_equal(numbers(other.callback_metrics), numbers(run.callback_metrics))
    assert_equal(numbers(other.logged_metrics), numbers(run.logged_metrics))
    assert_equal(fed.last_evaluation.workers, here.last_evaluation.workers)
    assert list(fed.last_evaluation.workers) == list(here.last_evaluation.workers)
    assert fed.last_evaluation.examples == here.last_evaluation.examples
    assert_equal(fed.last_evaluation.metrics, here.last_evaluation.metrics)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_several_loaders_are_told_apart(stage: str) -> None:
    here, run, other = FederatedModule(made(Indexed)), trainer(), trainer()
    expected = getattr(run, stage)(here, FederatedDataModule(workers(Two)), verbose=False)
    data, nodes = elsewhere(workers(Two), loaders=2)
    fed = FederatedModule(made(Indexed), engine=nodes)
    assert_equal(getattr(other, stage)(fed, data, verbose=False), expected)
    assert_equal(numbers(other.callback_metrics), numbers(run.callback_metrics))
    assert_equal(fed.last_evaluation.workers, here.last_evaluation.workers)
    assert fed.last_evaluation.examples == here.last_evaluation.examples
    assert len(nodes.asked) == 1


@pytest.mark.parametrize("algorithm", [None, FedPer(["net.1.*"])])
@pytest.mark.parametrize("kind", MODULES)
def test_a_fit_shows_and_remembers_the_same(kind: type[Net], algorithm: Any) -> None:
    options = {} if algorithm is None else {"algorithm": algorithm}

    def module() -> Net:
        net = made(kind)
        net.net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, CLASSES))
        return net

    torch.manual_seed(1)
    here, run = FederatedModule(module(), engine="sequential", **options), trainer(max_epochs=2)
    run.fit(here, FederatedDataModule(workers()))
    data, nodes = elsewhere(workers())
    torch.manual_seed(1)
    fed, other = FederatedModule(module(), engine=nodes, **options), trainer(max_epochs=2)
    other.fit(fed, data)
    assert_equal(numbers(other.callback_metrics), numbers(run.callback_metrics))
    assert_equal(fed.last_evaluation.workers, here.last_evaluation.workers)
    assert [asked.workers for asked in nodes.asked] == [["tiny", "small"], list(SIZES), list(SIZES)]
    rows = [{k: v for k, v in row.items() if k not in ("seconds",)} for row in here.history]
    assert_equal([{k: row[k] for k in rows[0]} for row in fed.history], rows)
