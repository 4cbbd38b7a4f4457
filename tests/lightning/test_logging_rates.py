"""The learning rates of the workers are drawn beside the server's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers.logger import Logger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.optim import ExponentialDecay
from lightning_fed.privacy import CentralDP
from lightning_fed.wire import WorkerError


class Rates(Logger):
    name, version = "rates", 0

    def __init__(self) -> None:
        self.drawn: dict[str, list[float]] = {}

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            if "lr-" in name:
                self.drawn.setdefault(name, []).append(value)


class TwoGroups(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.y = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.y.sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([{"params": [self.x], "lr": 0.5}, {"params": [self.y], "lr": 0.25}])


def drawn(module: Any, **options: Any) -> dict[str, list[float]]:
    rates = Rates()
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])})
    fit(
        FederatedModule(module, **options),
        data,
        max_epochs=3,
        logger=rates,
        callbacks=[LearningRateMonitor(logging_interval="epoch")],
    )
    return rates.drawn


class Relative(torch.optim.Optimizer):
    """As transformers' Adafactor: by default it has no learning rate, and finds one by itself."""

    def __init__(self, parameters: Any, lr: float | None = None) -> None:
        super().__init__(parameters, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter -= 0.5 * parameter.grad
        return loss


class WithoutRate(Scalar):
    def configure_optimizers(self) -> Any:
        return Relative(self.parameters())


def test_beside_the_servers(engine: Any) -> None:
    rates = drawn(Scalar(lr=0.5), engine=engine, local_lr_schedule=ExponentialDecay(0.5))
    assert rates == {"lr-SGD": [1.0, 1.0, 1.0], "local/lr-SGD": [0.5, 0.25, 0.125]}


def test_each_parameter_group(engine: Any) -> None:
    rates = drawn(TwoGroups(), engine=engine)
    assert rates == {"lr-SGD": [1.0] * 3, "local/lr-Adam/pg1": [0.5] * 3, "local/lr-Adam/pg2": [0.25] * 3}


@pytest.mark.filterwarnings("ignore:CentralDP")
@pytest.mark.parametrize("release", [True, False])
def test_under_a_promise_they_stay_with_the_workers(release: bool) -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1, release_metrics=release)
    assert ("local/lr-SGD" in drawn(Scalar(), privacy=promise)) is release


def test_of_an_optimizer_without_a_rate_nothing_is_drawn() -> None:
    assert drawn(WithoutRate(), engine="sequential") == {"lr-SGD": [1.0] * 3}


def test_a_schedule_of_the_rate_needs_one() -> None:
    with pytest.raises(WorkerError, match=r"the learning rate of Relative is None.*leave out local_lr_schedule"):
        drawn(WithoutRate(), engine="sequential", local_lr_schedule=ExponentialDecay(0.5))
