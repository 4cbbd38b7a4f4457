"""Workers of a round are counted while it runs, whichever engine trains them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from helpers import Rows, Scalar, fit

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Cyclic, Ditto, FedAvg, Scaffold
from lightning_fed.engines import Engine, Sequential, Vectorized
from lightning_fed.privacy import LocalDP
from lightning_fed.selection import RandomAvailability


def workers(count: int) -> dict[str, Any]:
    return {f"w{number}": Rows([float(number)]) for number in range(count)}


def counted(fed: FederatedModule, data: Any, **options: Any) -> list[tuple[int, int]]:
    """How many workers of how many were done, each time that this was told."""
    seen: list[tuple[int, int]] = []
    progress = fed.cohort_progress
    progress.listener = lambda: seen.append((progress.done, progress.workers))
    fit(fed, data, **options)
    return seen


@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold(), Cyclic(), Ditto(lam=0.1)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("engine", ["sequential", "isolated"], indirect=True)
def test_each_worker_is_told_of_once(engine: Any, algorithm: Any) -> None:
    """Ditto trains each worker twice, and Cyclic keeps all updates until the last one is there."""
    fed = FederatedModule(Scalar(), algorithm, engine=engine)
    assert counted(fed, FederatedDataModule(workers(5)), max_steps=2) == [(n, 5) for n in range(1, 6)] * 2


def test_a_worker_that_is_trained_twice_is_done_after_the_second_time() -> None:
    steps: list[int] = []

    class Stepping(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            steps.append(batch_idx)
            return super().training_step(batch, batch_idx)

    fed, seen = FederatedModule(Stepping(), Ditto(lam=0.1), engine="sequential"), []
    fed.cohort_progress.listener = lambda: seen.append((fed.cohort_progress.done, len(steps)))
    fit(fed, FederatedDataModule(workers(3)))
    assert seen == [(1, 2), (2, 4), (3, 6)], "of six trainings the first three are of the personal models"


def test_a_chunk_is_told_of_at_once() -> None:
    fed = FederatedModule(Scalar(), engine=Vectorized(chunk_size=2))
    assert counted(fed, FederatedDataModule(workers(6))) == [(2, 6), (4, 6), (6, 6)]
    fed = FederatedModule(Scalar(), engine="auto")
    assert counted(fed, FederatedDataModule(workers(6))) == [(6, 6)]


class Foreign(Engine):
    """An engine of a user's own that says nothing, and yields one worker at a time."""

    def __init__(self) -> None:
        self._own = Sequential()

    def setup(self, *arguments: Any) -> None:
        self._own.setup(*arguments)

    def run(self, job: Any, cohort: Any) -> Any:
        for worker in cohort:
            yield from self._own.run(job, [worker])

    def teardown(self) -> None:
        self._own.teardown()


def test_an_engine_that_says_nothing_is_counted_by_what_it_yields() -> None:
    fed = FederatedModule(Scalar(), engine=Foreign())
    assert counted(fed, FederatedDataModule(workers(3))) == [(1, 3), (2, 3), (3, 3)]


class Broken(Rows):
    def train_dataloader(self) -> Any:
        raise RuntimeError("no disk")


@pytest.mark.parametrize("engine", ["sequential", "vectorized", "auto"])
def test_a_worker_that_fails_is_done_too(engine: Any, caplog: Any) -> None:
    data = FederatedDataModule({**workers(4), "broken": Broken([1.0]), "last": Rows([1.0])})
    fed = FederatedModule(Scalar(), engine=engine, on_worker_error="drop")
    seen = counted(fed, data)
    assert seen[-1] == (6, 6)
    assert seen == sorted(set(seen))


def test_workers_that_are_away_are_not_waited_for() -> None:
    data = FederatedDataModule(workers(8), availability=RandomAvailability(absent=0.5))
    fed = FederatedModule(Scalar(), engine="sequential")
    seen = counted(fed, data)
    there = 8 - len(fed.last_report.dropped)
    assert 0 < there < 8
    assert seen == [(n, there) for n in range(1, there + 1)]


def test_nothing_is_counted_where_a_promise_hides_it_or_nobody_listens() -> None:
    fed = FederatedModule(Scalar(), privacy=LocalDP(clip=1.0, noise_multiplier=1.0), engine="sequential")
    assert counted(fed, FederatedDataModule(workers(3)), max_steps=2) == []
    assert (fed.cohort_progress.done, fed.cohort_progress.workers) == (0, 0)
    fed = FederatedModule(Scalar(), engine="sequential")
    fit(fed, FederatedDataModule(workers(3)))
    assert (fed.cohort_progress.done, fed.cohort_progress.workers) == (0, 0)


def test_a_copy_of_a_module_tells_nobody() -> None:
    fed = FederatedModule(Scalar(), engine="sequential")
    seen = counted(fed, FederatedDataModule(workers(2)))
    assert fed.cohort_progress.listener is not None
    twin = copy.deepcopy(fed)
    assert twin.cohort_progress.listener is None
    fit(twin, FederatedDataModule(workers(2)))
    assert len(seen) == 2
