from __future__ import annotations

from typing import Any

import pytest
from helpers import Rows, Scalar, assert_equal, fit
from spy import Spy
from toy import fedavg_ends_at, run

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import FedAvg, FedDyn

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])

LR, ALPHA = 0.1, 0.5
OPTIMA = {"a": 1.0, "b": -3.0, "c": 7.0}


def paper(cohorts: list[list[str]], steps: int) -> tuple[float, dict[str, float], float]:
    """Algorithm 1, line by line, for workers ``½(x - e)²``; gives the model, the workers' gradients, and h."""
    w, h = 0.0, 0.0
    gradients = dict.fromkeys(OPTIMA, 0.0)
    for cohort in cohorts:
        local = {}
        for k in cohort:
            theta = w
            for _ in range(steps):
                theta -= LR * ((theta - OPTIMA[k]) - gradients[k] + ALPHA * (theta - w))
            gradients[k] -= ALPHA * (theta - w)
            local[k] = theta
        h -= ALPHA / len(OPTIMA) * sum(theta - w for theta in local.values())
        w = sum(local.values()) / len(cohort) - h / ALPHA
    return w, gradients, h


@engines
@pytest.mark.parametrize("cohort_size", [3, 2])
@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_as_the_paper_says(engine: Any, cohort_size: int, rounds: int) -> None:
    module = Scalar(lr=LR)
    federated = FederatedModule(module, algorithm=FedDyn(ALPHA), local_steps=3, engine=engine)
    workers = {name: Rows([optimum]) for name, optimum in OPTIMA.items()}
    data = FederatedDataModule(workers, cohort_size=cohort_size, sampler=RoundRobin())
    fit(federated, data, max_steps=rounds)
    order = list(OPTIMA) * rounds
    cohorts = [order[r * cohort_size : (r + 1) * cohort_size] for r in range(rounds)]
    w, gradients, h = paper(cohorts, steps=3)
    assert module.x.item() == pytest.approx(w)
    remembered = federated.own_state["gradient"]
    assert [remembered[name].item() if name in remembered else 0.0 for name in OPTIMA] == pytest.approx(
        list(gradients.values())
    )
    assert federated.server_state["way"].item() == pytest.approx(h / ALPHA)


def test_two_rounds_by_hand() -> None:
    """One worker with optimum 1, one step, lr 0.1, alpha 0.5."""
    # 0 -> 0.1, g = -0.05, h/alpha = -0.1, so the server goes to 0.1 + 0.1 = 0.2.
    # 0.2 -> 0.2 - 0.1 (-0.8 + 0.05) = 0.275, h/alpha = -0.175, so to 0.45.
    for rounds, expected in ((1, 0.2), (2, 0.45)):
        module = Scalar(lr=0.1)
        data = FederatedDataModule({"only": Rows([1.0])})
        fit(FederatedModule(module, algorithm=FedDyn(0.5)), data, max_steps=rounds)
        assert module.x.item() == pytest.approx(expected)


@engines
@pytest.mark.parametrize("steps", [2, 5])
def test_it_ends_at_the_common_optimum_where_fedavg_does_not(steps: int, engine: Any) -> None:
    x, federated = run(FedDyn(alpha=1.0), steps, 80, engine=engine)
    assert x == pytest.approx(0.0, abs=1e-5)
    assert abs(fedavg_ends_at(steps)) > 0.05
    # Then each worker remembers its own gradient there: 1 and -1.
    assert [federated.own_state["gradient"][name].item() for name in ("f1", "f2")] == pytest.approx(
        [1.0, -1.0], abs=1e-4
    )


def test_without_a_penalty_the_first_rounds_updates_are_fedavgs_but_not_the_servers_step() -> None:
    """The server's step h/alpha does not depend on alpha, so with alpha -> 0 it is not FedAvg."""
    ends, deltas = [], []
    for algorithm in (FedAvg(), FedDyn(1e-12)):
        module, spy = Scalar(lr=LR), Spy(UniformMean())
        federated = FederatedModule(module, algorithm=algorithm, aggregator=spy, local_steps=3)
        fit(federated, FederatedDataModule({name: Rows([optimum]) for name, optimum in OPTIMA.items()}))
        ends.append(module.x.item())
        deltas.append(spy.deltas(cohort=0))
    assert_equal(deltas[1], deltas[0])
    assert_equal(ends[1], 2 * ends[0])


def test_workers_count_equally() -> None:
    module = Scalar(lr=1.0)
    fit(FederatedModule(module, algorithm=FedDyn(0.1)), FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0] * 9)}))
    assert module.x.item() == pytest.approx(2 * 2.0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha={alpha} must be positive; without the penalty it is FedAvg"):
        FedDyn(alpha)
