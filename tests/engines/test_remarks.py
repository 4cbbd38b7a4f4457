from __future__ import annotations

import warnings
from typing import Any, Literal

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, fit, trainer
from pytorch_lightning.loops.optimization.automatic import Closure
from torch import Tensor
from torchmetrics import CatMetric, MeanMetric

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Isolated
from lightning_fed.privacy import CentralDP

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized", "auto"])


class Metered(Scalar):
    """Feeds a metric, and reads it in one of the ways that there are."""

    def __init__(self, way: Literal["nobody", "list", "object", "value"]) -> None:
        super().__init__()
        self.way = way
        self.mean = CatMetric() if way == "list" else MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        if self.way == "value":
            self.log("mean", self.mean(loss.detach()))
        else:
            self.mean.update(loss.detach())
        if self.way == "object":
            self.log("mean", self.mean)
        return loss


def run(way: Any, engine: Any) -> pl.Trainer:
    data = FederatedDataModule({name: Rows([1.0, 2.0]) for name in "abcde"})
    return fit(FederatedModule(Metered(way), engine=engine), data, max_steps=2)


@engines
def test_a_metric_that_lists_examples_and_is_never_read_is_named_once(engine: str) -> None:
    with pytest.warns(UserWarning, match=r"updates the metric 'mean' and neither logs nor computes it") as said:
        run("list", engine)
    assert sum("the metric 'mean'" in str(warning.message) for warning in said) == 1


class Composed(Scalar):
    """Logs a sum of metrics, as scvi-tools does."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = MeanMetric(), MeanMetric()
        self.both = self.one + 0.5 * self.two
        self.unused = self.two + 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.both.update(batch[0])
        self.log("both", self.both)
        return super().training_step(batch, batch_idx)  # type: ignore[no-any-return]


@engines
def test_a_metric_that_is_computed_from_others_is_not_said_to_be_unread(engine: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`isinstance")
        data = FederatedDataModule({name: Rows([1.0, 3.0]) for name in "abcde"})
        assert fit(FederatedModule(Composed(), engine=engine), data, max_steps=2).callback_metrics["both"] == 3


@engines
@pytest.mark.parametrize("way", ["object", "value"])
def test_one_that_is_logged_is_not(engine: str, way: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`isinstance")
        assert torch.isfinite(run(way, engine).callback_metrics["mean"])


@engines
def test_one_that_can_be_read_on_the_server_is_not(engine: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`isinstance")
        assert "mean" not in run("nobody", engine).callback_metrics


class Skipping(Scalar):
    """Skips the steps on some workers' batches, or on all."""

    def __init__(self, skips: float) -> None:
        super().__init__()
        self.skips = skips

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if float(batch[0].mean()) >= self.skips else super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("engine", "skips", "first"),
    [
        ("sequential", 0.0, "ann"),
        ("sequential", 3.0, "bob"),
        ("auto", 3.0, "bob"),
        pytest.param(Isolated(1), 3.0, "bob", marks=pytest.mark.slow),
    ],
)
def test_steps_that_are_skipped_are_said_once_as_lightning_does(engine: Any, skips: float, first: str) -> None:
    workers = {"ann": Rows([1.0]), "bob": Rows([3.0]), "cat": Rows([4.0])}
    plain = r"`training_step` returned `None`.*If this was on purpose, ignore this warning"
    Closure.warning_cache.clear()
    with pytest.warns(UserWarning, match=plain):
        trainer().fit(Skipping(0.0), Rows([1.0]))
    with pytest.warns(UserWarning, match=plain) as said:
        fit(FederatedModule(Skipping(skips), engine=engine), FederatedDataModule(workers), max_steps=3)
    remarks = [str(warning.message) for warning in said if "returned `None`" in str(warning.message)]
    assert remarks == [
        f"`training_step` returned `None` on worker {first!r}, whose step was skipped. If this was on purpose, ignore "
        "this warning"
    ]


class SkippingByHand(Skipping):
    def __init__(self) -> None:
        super().__init__(skips=0.0)
        self.automatic_optimization = False


@engines
def test_in_manual_optimization_and_under_a_promise_nothing_is_said(engine: Any) -> None:
    rows = {name: Rows([1.0, 2.0]) for name in "abcde"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "`isinstance")
        if engine != "vectorized":  # which steps for all workers at once
            fit(FederatedModule(SkippingByHand(), engine=engine), FederatedDataModule(rows))
            promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5)
            fit(FederatedModule(Skipping(0.0), engine=engine, privacy=promise), FederatedDataModule(rows))
