"""The contract of algorithms."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import torch

from lightning_fed.algorithms import Algorithm, Result
from lightning_fed.core.tree import finite_rows
from lightning_fed.module import FederatedModule
from lightning_fed.selection import Availability, Response
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.state import OwnState
from lightning_fed.testing.workload import (
    ROUNDING,
    TARGETS,
    Points,
    fit,
    job_of,
    layered,
    made_up,
    memory,
    trained,
    workers,
)
from lightning_fed.wire import Job, Updates, WorkerError

Make: TypeAlias = Callable[[], Algorithm]

_ENGINES: tuple[Literal["sequential", "vectorized"], ...] = ("sequential", "vectorized")


def check_algorithm(make: Make) -> None:
    """Check an algorithm against its contract: all of :data:`ALGORITHM_CHECKS`.

    The module is :class:`~lightning_fed.testing.Layered`, whose layers are called ``body``, ``norm`` and ``head``, and
    whose workers train by SGD with lr 0.1 and momentum 0.5.

    Args:
        make: Makes the algorithm.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    for check in ALGORITHM_CHECKS:
        check(make)


def every_worker_comes_back_once(make: Make) -> None:
    """Each worker's update, or its error, comes back once; extra vectors and own state are declared."""
    algorithm = make()
    job = job_of(layered(), algorithm.extra)
    names = [f"w{i}" for i in range(5)]
    own = OwnState(algorithm.tables)
    own.begin(cohort=0, last=None)

    def train(job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        for name in cohort:
            yield WorkerError(name, job.round, "made up") if name == "w3" else made_up(job, [name])

    def send(job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        yield from algorithm.at_worker(train, job, cohort, own.scope())

    results = list(algorithm.visit(send, algorithm.assign(job, {}), names))
    came = [name for result in results if isinstance(result, Updates) for name in result.workers]
    failed = [result.worker for result in results if isinstance(result, WorkerError)]
    assert sorted(came) == ["w0", "w1", "w2", "w4"], f"visit() gave updates of {came} for {names}, of which w3 failed"
    assert failed == ["w3"], f"visit() gave errors of {failed}, but w3 failed, once"
    for result in results:
        if isinstance(result, Updates):
            n = len(result.workers)
            assert result.delta.shape == (n, job.model.layout.size), f"delta has shape {tuple(result.delta.shape)}"
            assert set(result.extra) == set(algorithm.extra), f"extra holds {set(result.extra)}, not {algorithm.extra}"
            assert bool(finite_rows(result.delta).all()), "finite updates became infinite"
    assert all("w3" not in rows for rows in own.staged().values()), "something was staged for a worker that failed"


def engines_agree(make: Make) -> None:
    """Both engines yield the same model, loss and state, up to rounding."""
    one, other = (trained(make(), engine=engine, module=layered(0.01).double()) for engine in _ENGINES)
    _same_but_for_rounding(one, other)


def a_shared_optimum_is_a_fixed_point(make: Make) -> None:
    """If no worker has a gradient, the global model stays the same, bit for bit, on both engines."""
    for engine in _ENGINES:
        module = layered()
        torch.nn.init.zeros_(module.head.weight)  # the prediction is then the bias, for any input
        targets = torch.arange(float(TARGETS))
        module.head.bias.data.copy_(targets)
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        trained(make(), module=module, population={f"w{i}": Points(i, targets) for i in range(6)}, engine=engine)
        torch.testing.assert_close(dict(module.named_parameters()), before, rtol=0, atol=0)


def the_loss_falls(make: Make) -> None:
    """The workers' loss is lower after 10 rounds than after the first one."""
    first, last = (trained(make(), rounds, engine="sequential").last_report.loss for rounds in (1, 10))
    assert last < first, f"the loss went from {first:.4f} to {last:.4f} in 10 rounds"


def settings_are_not_changed(make: Make) -> None:
    """An algorithm holds settings only: everything else is in the state, or resuming would lose it."""
    algorithm = make()
    before = copy.deepcopy(vars(algorithm))
    trained(algorithm)
    assert vars(algorithm) == before, f"a run changed the algorithm's own {_changed(before, vars(algorithm))}"


def a_worker_that_fails_is_named(make: Make) -> None:
    """A failure ends the run with the worker's name, and the round changes nothing; or the worker is left out."""
    population = {**workers(3), "bad": Points(3, torch.full((TARGETS,), float("nan")))}
    data = FederatedDataModule(population)
    federated = FederatedModule(layered(), algorithm=make())
    before = copy.deepcopy(federated.module.state_dict())
    named = None
    try:
        fit(federated, data, rounds=1)
    except WorkerError as error:
        named = error.worker
    assert named == "bad", f"'bad' failed, but {'no worker' if named is None else repr(named)} was named"
    torch.testing.assert_close(federated.module.state_dict(), before, rtol=0, atol=0)
    assert memory(federated) == {"server": {}, "workers": {}}, "a round that failed was remembered"

    dropped = trained(make(), 2, population=population, cohort_size=None, on_worker_error="drop")
    assert [failure.worker for failure in dropped.last_report.failures] == ["bad"]
    assert sorted(dropped.last_report.workers) == ["w0", "w1", "w2"]
    for table, rows in memory(dropped)["workers"].items():
        assert "bad" not in rows, f"table {table!r} has a row for a worker that failed in every round"


def a_round_that_nobody_answers_changes_nothing(make: Make) -> None:
    """A round whose workers are all absent or lost leaves model and state unchanged for the next round."""

    @final
    class OnlyAtFirst(Availability):
        def respond(self, worker: str, number: int, seed: int) -> Response:
            return Response() if number == 0 else Response("lost" if worker == "w1" else "absent")

    one = trained(make(), 1)
    three = trained(make(), 3, availability=OnlyAtFirst())
    torch.testing.assert_close(three.module.state_dict(), one.module.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(memory(three), memory(one), rtol=0, atol=0)


def a_resumed_run_is_the_same(make: Make) -> None:
    """Two rounds, a checkpoint, and two more equal four rounds bit for bit: model, buffers, state."""
    whole = trained(make(), 4)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "half.ckpt")
        half = FederatedModule(layered(), algorithm=make())
        fit(half, FederatedDataModule(workers(), cohort_size=5), rounds=2).save_checkpoint(path)
        resumed = FederatedModule(layered(), algorithm=make())
        fit(resumed, FederatedDataModule(workers(), cohort_size=5), rounds=4, resume=path)
    torch.testing.assert_close(resumed.module.state_dict(), whole.module.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(memory(resumed), memory(whole), rtol=0, atol=0)


def the_order_of_workers_does_not_matter(make: Make) -> None:
    """A cohort in another order yields the same, up to rounding; not required of an indivisible algorithm."""
    if not make().divisible:
        return
    backwards = dict(reversed(workers().items()))
    one, other = (
        trained(make(), module=layered().double(), population=p, cohort_size=None) for p in (workers(), backwards)
    )
    _same_but_for_rounding(one, other)


def _same_but_for_rounding(one: FederatedModule, other: FederatedModule) -> None:
    """In double precision, as BatchNorm over batches of two blows rounding up a thousandfold."""
    tolerance = ROUNDING[torch.float64]
    for a, b in (
        (other.module.state_dict(), one.module.state_dict()),
        (memory(other), memory(one)),
        (other.last_report.loss, one.last_report.loss),
    ):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def _changed(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


ALGORITHM_CHECKS: tuple[Callable[[Make], None], ...] = (
    every_worker_comes_back_once,
    engines_agree,
    a_shared_optimum_is_a_fixed_point,
    the_loss_falls,
    settings_are_not_changed,
    a_worker_that_fails_is_named,
    a_round_that_nobody_answers_changes_nothing,
    a_resumed_run_is_the_same,
    the_order_of_workers_does_not_matter,
)
"""The parts of :func:`check_algorithm`; each takes what makes the algorithm."""
