from __future__ import annotations

from typing import Any

import pytest
from helpers import Rows, Scalar, assert_equal, fit
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import Median
from lightning_fed.aggregation.normalized import effective_steps
from lightning_fed.algorithms import Algorithm, FedAvg, FedNova, QFedAvg

pytestmark = pytest.mark.usefixtures("double")

LR = 0.05
WORKERS = {"few": ([4.0], 2), "many": ([-1.0], 10)}  # the optimum, and how many steps


def end(algorithm: Algorithm, engine: Any = "sequential") -> float:
    """Where 400 rounds end for workers ``½(x - e)²`` that take different numbers of steps."""
    module = Scalar(lr=LR)
    workers = {name: Rows(optimum * steps, batch_size=1) for name, (optimum, steps) in WORKERS.items()}
    fit(FederatedModule(module, algorithm=algorithm, engine=engine), FederatedDataModule(workers), max_steps=400)
    return module.x.item()


def fixed_point(divide: bool) -> float:
    """``Σ pᵢ aᵢ eᵢ / Σ pᵢ aᵢ`` with ``aᵢ = 1 - (1 - η)^τᵢ``, each divided by its steps or not."""
    pulls = [(1 - (1 - LR) ** steps) * steps / (steps if divide else 1) for _, steps in WORKERS.values()]
    return sum(p * e[0] for p, (e, _) in zip(pulls, WORKERS.values(), strict=True)) / sum(pulls)


TRUE = sum(e[0] * n for e, n in WORKERS.values()) / sum(n for _, n in WORKERS.values())


@pytest.mark.parametrize("engine", ["sequential", pytest.param("vectorized", marks=pytest.mark.slow)])
def test_fedavg_ends_beside_the_optimum_and_fednova_close_to_it(engine: Any) -> None:
    assert end(FedAvg(), engine) == pytest.approx(fixed_point(divide=False), abs=1e-4)
    assert end(FedNova(), engine) == pytest.approx(fixed_point(divide=True), abs=1e-4)
    assert abs(fixed_point(divide=True) - TRUE) < abs(fixed_point(divide=False) - TRUE) / 2


def test_with_equal_steps_it_is_fedavg() -> None:
    ends = []
    for algorithm in (FedAvg(), FedNova()):
        module = Scalar(lr=0.1)
        workers = {"a": Rows([1.0, 2.0, 3.0], batch_size=1), "b": Rows([7.0] * 3, batch_size=1)}
        fit(FederatedModule(module, algorithm=algorithm), FederatedDataModule(workers), max_steps=3)
        ends.append(module.x.item())
    assert_equal(ends[0], ends[1])


@given(steps=st.integers(1, 60), momentum=st.floats(0, 0.95), shrinkage=st.floats(0.001, 0.5))
def test_effective_steps_are_the_papers_closed_forms(steps: int, momentum: float, shrinkage: float) -> None:
    closed = (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
    assert effective_steps(steps, momentum=momentum) == pytest.approx(closed)
    assert effective_steps(steps, shrinkage=shrinkage) == pytest.approx((1 - (1 - shrinkage) ** steps) / shrinkage)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": 1.0}, "momentum=1.0 must lie in"),
        ({"mu": -1.0}, "mu=-1.0 must be at least 0"),
        ({"mu": 0.1}, "needs the workers' learning rate"),
    ],
)
def test_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FedNova(**options)


@pytest.mark.parametrize("algorithm", [FedNova(), QFedAvg(q=1.0, lr=0.1)], ids=lambda a: type(a).__name__)
def test_an_aggregator_that_takes_the_place_of_its_mean_is_warned_of(algorithm: Any) -> None:
    with pytest.warns(
        UserWarning, match=rf"what {type(algorithm).__name__} does lies in its mean .* aggregator=Median"
    ):
        FederatedModule(Scalar(), algorithm=algorithm, aggregator=Median())
    FederatedModule(Scalar(), algorithm=algorithm, aggregator=algorithm.aggregator())  # its own is no mistake
