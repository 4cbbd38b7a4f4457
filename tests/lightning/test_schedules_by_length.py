"""Schedules made of the length of training, which a worker has and the server only asks about beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers import Rows, Scalar, assert_equal, fit, trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.engines import Auto, Engine, Isolated, Sequential, Vectorized


class Configured(Scalar):
    """A Scalar whose rate is a function of the length of its training."""

    def __init__(self, length: str) -> None:
        super().__init__(lr=0.1)
        self.scheduler = LENGTHS[length][0]

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), lr=self.lr)
        return [optimizer], [{"scheduler": self.scheduler(optimizer, self.trainer), "interval": "step"}]


def of_a_share(optimizer: Any, run: pl.Trainer) -> Any:
    warm_up = int(0.2 * run.estimated_stepping_batches)  # nothing of one batch
    return LambdaLR(optimizer, [lambda step: min(1.0, (step + 1) / warm_up)])


def of_batches(optimizer: Any, run: pl.Trainer) -> Any:
    return LambdaLR(optimizer, [lambda step: 1 - 0.5 * step / (run.num_training_batches - 1)])


def of_epochs(optimizer: Any, run: pl.Trainer) -> Any:
    last = run.max_epochs - 1  # type: ignore[operator]
    return LambdaLR(optimizer, [lambda step: 1 - 0.05 * step / last])


def of_steps(optimizer: Any, run: pl.Trainer) -> Any:
    return OneCycleLR(optimizer, max_lr=0.2, total_steps=run.max_steps)


LENGTHS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "a share of all batches": (of_a_share, {"local_epochs": 1}, {"max_epochs": 1}),
    "batches": (of_batches, {"local_epochs": 1}, {"max_epochs": 1}),
    "epochs": (of_epochs, {"local_epochs": 3}, {"max_epochs": 3}),
    "steps": (of_steps, {"local_steps": 12}, {"max_steps": 12}),
}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", [Sequential, Vectorized, Auto, pytest.param(Isolated, marks=pytest.mark.slow)])
@pytest.mark.parametrize("length", LENGTHS)
def test_a_round_is_a_plain_fit(length: str, engine: Callable[[], Engine]) -> None:
    _, local, plain = LENGTHS[length]
    data = Rows([float(n) for n in range(10)], batch_size=1)
    trainer(**plain).fit(alone := Configured(length), data)
    module = Configured(length)
    fed = FederatedModule(module, engine=engine(), **local)
    trainer(max_steps=1).fit(fed, FederatedDataModule({"bob": data}))
    assert_equal(module.x.item(), alone.x.item())


@pytest.mark.parametrize("length", ["epochs", "steps"])
def test_a_search_for_a_rate_asks_for_the_same_length(length: str) -> None:
    _, local, _ = LENGTHS[length]
    module = Configured(length)
    data = FederatedDataModule({"bob": Rows([float(n) for n in range(10)], batch_size=1)})
    found = pl.tuner.Tuner(trainer(max_steps=1)).lr_find(
        FederatedModule(module, **local), data, num_training=3, early_stop_threshold=None
    )
    assert found is not None
    assert len(found.results["lr"]) == 3


def test_what_fails_for_a_worker_names_it() -> None:
    fed = FederatedModule(Configured("a share of all batches"))
    with pytest.raises(RuntimeError, match="worker 'bob' failed in round 0: ZeroDivisionError"):
        fit(fed, FederatedDataModule({"bob": Rows([1.0, 2.0], batch_size=1)}))
    assert_equal(fed.module.x.item(), 0.0)  # type: ignore[union-attr, operator]
