from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedAvg, FedProx
from lightning_fed.engines import Engine, Sequential

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])


def after_a_round(mu: float, engine: Any, values: list[float] | None = None) -> float:
    module = Scalar(lr=0.1)
    workers = {"only": Rows(values or [1.0] * 3, batch_size=1)}
    fit(FederatedModule(module, algorithm=FedProx(mu), engine=engine), FederatedDataModule(workers))
    return module.x.item()


@engines
def test_three_steps_by_hand(engine: Any) -> None:
    # 0 -> 0.1; gradient (0.1 - 1) + (0.1 - 0) = -0.8 -> 0.18; (0.18 - 1) + 0.18 = -0.64 -> 0.244
    assert after_a_round(1.0, engine) == pytest.approx(0.244)


@engines
def test_mu_zero_is_fedavg(engine: Any) -> None:
    module = Scalar(lr=0.1)
    fit(
        FederatedModule(module, algorithm=FedAvg(), engine=engine),
        FederatedDataModule({"only": Rows([1.0] * 3, batch_size=1)}),
    )
    assert after_a_round(0.0, engine) == module.x.item()


def test_the_larger_mu_the_closer_they_stay() -> None:
    moved = [after_a_round(mu, "sequential", [1.0] * 20) for mu in (0.0, 0.1, 1.0, 5.0)]
    assert moved == sorted(moved, reverse=True)


class Unused(Scalar):
    """A parameter that takes no part has no gradient, and the proximal term gives it none."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.idle = torch.nn.Parameter(torch.tensor(5.0))


@engines
def test_a_parameter_that_takes_no_part_stays(engine: Any) -> None:
    module = Unused()
    workers = {"only": Rows([1.0] * 3, batch_size=1)}
    fit(FederatedModule(module, algorithm=FedProx(1.0), engine=engine), FederatedDataModule(workers))
    assert (module.x.item(), module.idle.item()) == (pytest.approx(0.244), 5.0)


class Hooked(Scalar):
    """A module with a hook, so that steps go the long way."""

    seen: list[float]

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        assert self.x.grad is not None
        self.seen.append(self.x.grad.item())


def test_hooks_see_the_gradient_with_the_proximal_term() -> None:
    Hooked.seen = []
    module = Hooked(lr=0.1)
    federated = FederatedModule(module, algorithm=FedProx(1.0), engine="sequential")
    fit(federated, FederatedDataModule({"only": Rows([1.0] * 3, batch_size=1)}))
    assert isinstance(federated.engine, Engine)
    # x - 1 + (x - 0), at 0, 0.1 and 0.18
    assert Hooked.seen == pytest.approx([-1.0, -0.8, -0.64])
    assert module.x.item() == pytest.approx(0.244)
    assert isinstance(federated.engine, Sequential)


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="mu=-1 must be at least 0"):
        FedProx(-1)


def test_it_lowers_the_spread_of_different_workers() -> None:
    """Two workers whose optima lie far apart end closer to where they began."""
    values = {"a": [10.0] * 5, "b": [-10.0] * 5}

    def spread(mu: float) -> float:
        far: list[float] = []

        class Watch(pl.Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
                far.append(pl_module.last_report.loss)

        module = Scalar(lr=0.1)
        workers = {name: Rows(v, batch_size=1) for name, v in values.items()}
        fit(FederatedModule(module, algorithm=FedProx(mu)), FederatedDataModule(workers), callbacks=[Watch()])
        return far[-1]

    assert spread(1.0) > spread(0.0)  # the mean loss over the local steps falls less
