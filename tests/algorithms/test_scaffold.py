from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from helpers import Rows, assert_equal, fit
from spy import Spy, length, tensor_bytes
from toy import LR, Drifting, G, Turns, fedavg_ends_at, run

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import FedAvg, Result, Scaffold
from lightning_fed.state import OwnState
from lightning_fed.wire import GlobalModel, Job, LocalTraining

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])

ZERO = torch.zeros(1, dtype=torch.float64)


def control(federated: FederatedModule, *workers: str) -> list[float]:
    """The controls of workers, 0 for those that have none yet."""
    rows = federated.own_state["control"]
    return [rows.get(worker, ZERO).item() for worker in workers]


# ---- the paper's toy ------------------------------------------------------------------------------------------------


def test_the_formula_is_that_of_the_reference() -> None:
    assert fedavg_ends_at(2) == pytest.approx(0.05556 * G, abs=1e-5)


@engines
@pytest.mark.parametrize("steps", [2, *(pytest.param(more, marks=pytest.mark.slow) for more in (3, 5, 10))])
def test_fedavg_drifts_and_scaffold_does_not(steps: int, engine: Any) -> None:
    assert run(FedAvg(), steps, 60, engine=engine)[0] == pytest.approx(fedavg_ends_at(steps), abs=1e-4)
    assert abs(fedavg_ends_at(steps)) > 0.05
    assert run(Scaffold(), steps, 80, engine=engine)[0] == pytest.approx(0.0, abs=1e-6)


def test_with_one_local_step_there_is_no_drift_and_scaffold_is_fedavg() -> None:
    assert fedavg_ends_at(1) == pytest.approx(0)
    assert_equal(run(Scaffold(), 1, 7)[0], run(FedAvg(), 1, 7)[0])


# ---- by hand --------------------------------------------------------------------------------------------------------


@engines
def test_two_rounds_by_hand(engine: Any) -> None:
    """Two steps in each round, from x = 1."""
    # Round 1, no control yet: f1' = 2x + 1 gives 1 -> 0.7 -> 0.46, mean gradient 2.7; f2' = -1 gives 1 -> 1.2.
    x, federated = run(Scaffold(), 2, 1, engine=engine)
    assert x == pytest.approx((0.46 + 1.2) / 2)
    assert control(federated, "f1", "f2") == pytest.approx([2.7, -1.0])
    assert federated.server_state["control"].item() == pytest.approx(0.85)
    # Round 2: gradient - c_i + c.
    y, gradients = x, []
    for _ in range(2):
        gradients.append(2 * y + 1)
        y -= LR * (gradients[-1] - 2.7 + 0.85)
    z = x - 2 * LR * (-1 + 1 + 0.85)
    x, federated = run(Scaffold(), 2, 2, engine=engine)
    assert x == pytest.approx((y + z) / 2)
    assert control(federated, "f1", "f2") == pytest.approx([sum(gradients) / 2, -1.0])


@engines
def test_the_control_is_option_two_of_the_paper(engine: Any) -> None:
    """``c_i - c + (x - y_i)/(Kη)`` for SGD, from the updates themselves, when c_i and c are not 0."""
    spy = Spy(UniformMean())
    federated = FederatedModule(Drifting(), algorithm=Scaffold(), aggregator=spy, local_steps=3, engine=engine)
    before, c = {"f1": 0.0, "f2": 0.0}, 0.0
    for number in range(4):
        fit(federated, FederatedDataModule({"f1": Rows([1.0]), "f2": Rows([2.0])}), max_steps=1)
        for worker, delta in spy.deltas(cohort=0).items():
            option_two = before[worker] - c + delta.item() / (3 * LR)
            assert control(federated, worker) == pytest.approx([option_two])
            assert (before[worker] == 0.0) == (number == 0)
        before = {worker: control(federated, worker)[0] for worker in before}
        c = federated.server_state["control"].item()
        spy.seen.clear()


@engines
def test_with_another_local_optimizer_the_control_is_still_the_mean_gradient(engine: Any) -> None:
    """With momentum the way is not the sum of the gradients, so option II by the way would be another number."""
    module = Drifting(momentum=0.9)
    federated = FederatedModule(module, algorithm=Scaffold(), local_steps=2, engine=engine)
    fit(federated, FederatedDataModule({"f1": Rows([1.0])}))
    # 1 -> 1 - 0.3 = 0.7; gradients 3 and 2.4
    assert control(federated, "f1") == pytest.approx([2.7])
    assert module.x.item() == pytest.approx(0.7 - LR * (0.9 * 3 + 2.4))


# ---- the server's control -------------------------------------------------------------------------------------------


@engines
def test_under_full_participation_c_is_the_mean_of_all_controls(engine: Any) -> None:
    for rounds in (1, 2, 5):
        _, federated = run(Scaffold(), 3, rounds, engine=engine)
        assert federated.server_state["control"].item() == pytest.approx(sum(control(federated, "f1", "f2")) / 2)


def test_otherwise_it_moves_by_the_part_that_took_part() -> None:
    """``c += |S|/N · mean(c_i' - c_i)``, so c stays the mean over all N, where absent ones have 0 or what they had."""
    for rounds in (1, 2, 3, 4):
        _, federated = run(Scaffold(), 3, rounds, cohort_size=1, sampler=Turns())
        assert federated.server_state["control"].item() == pytest.approx(sum(control(federated, "f1", "f2")) / 2)
    _, federated = run(Scaffold(), 1, 1, cohort_size=1, sampler=Turns())
    # f1' = 3 at x = 1, and one of two took part
    assert federated.server_state["control"].item() == pytest.approx(3.0 / 2)


def test_a_worker_that_did_not_take_part_keeps_its_control() -> None:
    _, one = run(Scaffold(), 3, 1, cohort_size=1, sampler=Turns())
    _, two = run(Scaffold(), 3, 2, cohort_size=1, sampler=Turns())
    assert control(one, "f1") == control(two, "f1")
    assert (set(one.own_state["control"]), set(two.own_state["control"])) == ({"f1"}, {"f1", "f2"})


# ---- equivalences ---------------------------------------------------------------------------------------------------


@engines
def test_with_one_worker_it_is_fedavg(engine: Any) -> None:
    ends = []
    for algorithm in (FedAvg(), Scaffold()):
        module = Drifting()
        federated = FederatedModule(module, algorithm=algorithm, local_steps=4, engine=engine)
        fit(federated, FederatedDataModule({"f1": Rows([1.0])}), max_steps=5)
        ends.append(module.x.item())
    assert_equal(ends[0], ends[1])


def test_workers_count_equally() -> None:
    module = Drifting()
    federated = FederatedModule(module, algorithm=Scaffold())
    fit(federated, FederatedDataModule({"f1": Rows([1.0]), "f2": Rows([2.0] * 9)}))
    assert module.x.item() == pytest.approx((0.7 + 1.1) / 2)


def test_what_is_sent_besides_is_counted_as_traffic() -> None:
    spies = {}
    for algorithm in (FedAvg(), Scaffold()):
        spies[type(algorithm)] = spy = Spy(UniformMean())
        federated = FederatedModule(Drifting(), algorithm=algorithm, aggregator=spy)
        fit(federated, FederatedDataModule({"f1": Rows([1.0]), "f2": Rows([2.0])}))
        assert federated.last_report.bytes_down == length(spy.jobs())
        assert federated.last_report.bytes_up == length(spy.updates())
    for worker in ("f1", "f2"):  # besides x, one double in each direction
        for plain, more in (
            (spies[FedAvg].jobs(), spies[Scaffold].jobs()),
            (spies[FedAvg].updates(), spies[Scaffold].updates()),
        ):
            assert tensor_bytes(more[worker]) == tensor_bytes(plain[worker]) + 8


def test_the_gradient_stays_with_the_worker_and_the_job_asks_for_it() -> None:
    asked: list[Job] = []

    def train(job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        asked.append(job)
        return iter(())

    parameters = {"x": torch.zeros((), dtype=torch.float64)}
    job = Scaffold().assign(Job(0, 0, 0, GlobalModel(parameters), LocalTraining(), extra=Scaffold.extra), {})
    list(Scaffold().at_worker(train, job, ["a"], OwnState(Scaffold.tables).scope()))
    assert asked == [dataclasses.replace(job, penalty=asked[0].penalty, wants_gradient=True)]
