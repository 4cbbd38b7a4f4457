"""Frozen parameters that user code moves: a teacher that follows the student.

By hand: the loss of ``Follower`` is (x − mean)²/2, so that with lr 1 a step goes to the batch's mean; after each step
the teacher goes half of the way to the student.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit
from spy import Spy, length, tensor_bytes

from lightning_fed import FederatedDataModule, FederatedModule, RoundError, WorkerError
from lightning_fed.aggregation import Median
from lightning_fed.algorithms import Ditto, FedPer
from lightning_fed.privacy import CentralDP
from lightning_fed.wire import decode_job

pytestmark = pytest.mark.usefixtures("double")


class Follower(Scalar):
    """A teacher that moves after each step; ``torch.vmap`` cannot run the hook."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = torch.nn.Parameter(torch.tensor(0.0), requires_grad=False)

    def on_train_batch_end(self, *_: Any) -> None:
        self.follow()

    def follow(self) -> None:
        with torch.no_grad():
            self.teacher.mul_(0.5).add_(self.x, alpha=0.5)


class FollowsInStep(Follower):
    """A teacher that moves before each step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.follow()
        return super().training_step(batch, batch_idx)

    on_train_batch_end = Scalar.on_train_batch_end


def people(**rows: list[float]) -> FederatedDataModule:
    return FederatedDataModule({name: Rows(values, batch_size=1) for name, values in rows.items()})


def by_hand(rounds: int, follows_first: bool, **rows: list[float]) -> tuple[float, float]:
    """The global student and teacher: means over workers, weighted by their rows."""
    x = teacher = 0.0
    total = sum(map(len, rows.values()))
    for _ in range(rounds):
        ends = []
        for values in rows.values():
            student, own = x, teacher
            for value in values:
                own = (own + student) / 2 if follows_first else own
                student = value
                own = own if follows_first else (own + student) / 2
            ends.append((len(values), student, own))
        x = sum(n * student for n, student, _ in ends) / total
        teacher = sum(n * own for n, _, own in ends) / total
    return x, teacher


ROWS = {"a": [4.0], "b": [8.0, 2.0], "c": [6.0], "d": [1.0, 5.0]}


def test_the_numbers_by_hand() -> None:
    """b's teacher goes from 0 to 4 and 3; a's to 2; so (1·2 + 2·3)/3 in the first round."""
    assert by_hand(1, False, a=[4.0], b=[8.0, 2.0]) == (pytest.approx(8 / 3), pytest.approx(8 / 3))


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("engine", ["auto", "sequential"])
def test_the_global_teacher_is_the_mean_whatever_the_order(engine: Any, order: int) -> None:
    rows = dict(list(ROWS.items())[::order])
    for rounds in (1, 3):
        fit(FederatedModule(module := Follower(), engine=engine), people(**rows), max_epochs=rounds)
        assert_equal((module.x.item(), module.teacher.item()), by_hand(rounds, False, **rows))
        assert not module.teacher.requires_grad


@pytest.mark.parametrize("engine", ["auto", "sequential", "vectorized"])
def test_a_teacher_that_moves_in_the_step_is_stacked_too(engine: Any) -> None:
    for rounds in (1, 3):
        fit(FederatedModule(module := FollowsInStep(), engine=engine), people(**ROWS), max_epochs=rounds)
        assert_equal((module.x.item(), module.teacher.item()), by_hand(rounds, True, **ROWS))


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_what_a_worker_sends_does_not_depend_on_others_data(engine: Any) -> None:
    class Pulled(FollowsInStep):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + self.x * self.teacher

    sent = []
    for alices in (1.0, 500.0):
        spy = Spy()
        fit(FederatedModule(Pulled(), aggregator=spy, engine=engine), people(alice=[alices, 2.0], bob=[3.0, 4.0, 5.0]))
        sent.append(spy.updates()["bob"])
    assert sent[0] == sent[1]


def test_it_travels_only_once_it_has_moved() -> None:
    for kind, moves in ((Follower, 1), (type("Still", (Follower,), {"follow": lambda self: None}), 0)):
        spy = Spy()
        fed = FederatedModule(kind(), aggregator=spy)
        fit(fed, people(a=[4.0], b=[8.0]), max_epochs=2)
        assert [list(decode_job(spy.jobs(cohort)["a"]).model.buffers) for cohort in (0, 1)] == [[], ["teacher"] * moves]
        assert tensor_bytes(spy.jobs(1)["a"]) - tensor_bytes(spy.jobs(0)["a"]) == 8 * moves
        assert fed.last_report.bytes_down == length(spy.jobs(1))


def test_the_median_of_one_that_begins_to_move_counts_workers_where_it_has_not() -> None:
    """One of five workers moves it at first, so its median stays where it was."""

    class Alone(Follower):
        def follow(self) -> None:
            if self.x > 20:
                super().follow()

    rows = {"a": [4.0], "b": [8.0], "c": [600.0], "d": [5.0], "e": [6.0]}
    fit(FederatedModule(module := Alone(), aggregator=Median()), people(**rows), max_epochs=2)
    assert module.teacher.item() == 0.0


@pytest.mark.parametrize("algorithm", [Ditto(lam=0.5), FedPer(personal=["[ot]*"])], ids=["ditto", "fedper"])
def test_one_that_moves_is_never_a_workers_own(algorithm: Any) -> None:
    """The pattern fits ``own`` and ``teacher``, which goes half of the way to 6 in each round: to 3, 4.5 and 5.25."""

    class Two(Follower):
        def __init__(self) -> None:
            super().__init__()
            self.own = torch.nn.Parameter(torch.tensor(0.0))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) + (self.own - batch[0].mean()) ** 2

    fed = FederatedModule(module := Two(), algorithm)
    fit(fed, people(a=[4.0], b=[8.0]), max_epochs=3)
    assert module.teacher.item() == 5.25
    assert [fed.personal_module(worker).teacher.item() for worker in ("a", "b")] == [5.25, 5.25]


def test_a_robust_aggregator_takes_its_median() -> None:
    rows = {"a": [4.0], "b": [8.0], "c": [600.0]}
    fit(FederatedModule(module := Follower(), aggregator=Median()), people(**rows))
    assert (module.x.item(), module.teacher.item()) == (8.0, 4.0)


@pytest.mark.parametrize(("kind", "engine"), [(Follower, "sequential"), (FollowsInStep, "vectorized")])
def test_it_is_refused_under_a_promise(kind: type[Follower], engine: Any) -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5)
    data = people(a=[4.0, 5.0], b=[8.0, 9.0])
    refused = "ValueError: CentralDP: local training moves 'teacher', which is not trained"
    with pytest.raises(WorkerError, match=f"^worker 'a' failed in round 0: {refused}"):
        fit(FederatedModule(kind(), privacy=promise, engine=engine), data)
    with pytest.raises(RoundError, match=f"worker 'b' failed in round 0: {refused}"):
        fit(FederatedModule(kind(), privacy=promise, engine=engine, on_worker_error="drop"), data)
