"""The suites pass what is right (other files run them over all of ours), and see what is wrong."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import Rows, fit
from torch import Tensor

import lightning_fed.testing
from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import (
    Aggregator,
    Bucketing,
    Bulyan,
    CenteredClipping,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NearestNeighborMixing,
    NormalizedMean,
    TrimmedMean,
    UniformMean,
    WeightedMean,
)
from lightning_fed.algorithms import Algorithm, Result, Send, Train
from lightning_fed.core.processes import Processes
from lightning_fed.core.rng import derive
from lightning_fed.core.tree import Tensors
from lightning_fed.selection import Availability, CohortSampler, Response, Sizes
from lightning_fed.state import OwnTables
from lightning_fed.testing import (
    ALGORITHM_CHECKS,
    check_aggregator,
    check_algorithm,
    check_availability,
    check_sampler,
    check_transform,
)
from lightning_fed.transforms import ClipNorm, UpdateTransform, WorkerMomentum
from lightning_fed.wire import Aggregate, Job, Penalty, Updates

CHECKS: dict[str, Callable[[Any], None]] = {check.__name__: check for check in ALGORITHM_CHECKS}


class Plain(Algorithm):
    """FedAvg, to be broken in one way each."""

    def aggregator(self) -> Aggregator[Any]:
        return WeightedMean()


class ForgetsErrors(Plain):
    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        yield from (result for result in train(job, workers) if isinstance(result, Updates))


class ForgetsErrorsOnTheWay(Plain):
    """The same at the server."""

    def visit(self, send: Send, job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        yield from (result for result in send(job, cohort) if isinstance(result, Updates))


class TrainsTwice(Plain):
    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        yield from train(job, workers)
        yield from train(job, workers[:1])


class VisitsTwice(Plain):
    def visit(self, send: Send, job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        yield from send(job, cohort)
        yield from send(job, cohort[:1])


class Undeclared(Plain):
    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        for result in train(job, workers):
            if isinstance(result, Updates):
                own.stage("mine", result.workers, result.delta)
            yield result


class SendsUndeclared(Plain):
    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        for result in train(job, workers):
            yield replace(result, extra={"mine": result.delta}) if isinstance(result, Updates) else result


class StagesFirst(Plain):
    tables: ClassVar[tuple[str, ...]] = ("mine",)

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        own.stage("mine", workers, torch.zeros(len(workers), 1))
        yield from train(job, workers)


class Counts(Plain):
    """Remembers in itself, at the workers."""

    def __init__(self) -> None:
        self.rounds = 0

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        self.rounds += 1
        for result in train(job, workers):
            if isinstance(result, Updates):
                result = replace(result, delta=result.delta * 0.9**self.rounds)
            yield result


class CountsAtTheServer(Plain):
    """Remembers in itself, at the server."""

    def __init__(self) -> None:
        self.rounds = 0

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        self.rounds += 1
        return replace(aggregate, delta=aggregate.delta * 0.9**self.rounds)


class Decays(Plain):
    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        for result in train(job, workers):
            if isinstance(result, Updates):
                result = replace(result, delta=result.delta + 0.1 * job.model.vector)
            yield result


class Climbs(Plain):
    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        return replace(aggregate, delta=-0.1 * aggregate.delta)


class ByPlace(Plain):
    """Counts the first of a stack more, which depends on the engine and on the order."""

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        for result in train(job, workers):
            if isinstance(result, Updates):
                weight = result.weight.clone()
                weight[0] *= 3
                result = replace(result, weight=weight)
            yield result


class FirstOfTheCohort(Plain):
    """Pulls the first worker of the cohort only."""

    def visit(self, send: Send, job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        push = Penalty(linear={cohort[0]: torch.ones_like(job.model.vector)} if cohort else {})
        yield from send(replace(job, penalty=push), cohort)


class AssignsToItself(Plain):
    """Changes the server's part before the round has succeeded."""

    def assign(self, job: Job, server: Tensors) -> Job:
        server["rounds"] = server.get("rounds", torch.zeros(1)) + 1
        return job


class AssignsInPlace(Plain):
    """Writes to what :meth:`conclude` has put there, so that a round that raises has changed it too."""

    def assign(self, job: Job, server: Tensors) -> Job:
        for tensor in server.values():
            tensor += 1
        return job

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        server["rounds"] = server.get("rounds", torch.zeros(1)).clone()
        return aggregate


def test_what_is_right_passes() -> None:
    check_algorithm(Plain)


WRONG: list[tuple[type[Algorithm], str]] = [
    (ForgetsErrors, "every_worker_comes_back_once"),
    (ForgetsErrorsOnTheWay, "every_worker_comes_back_once"),
    (TrainsTwice, "every_worker_comes_back_once"),
    (VisitsTwice, "every_worker_comes_back_once"),
    (SendsUndeclared, "every_worker_comes_back_once"),
    (StagesFirst, "every_worker_comes_back_once"),
    (ByPlace, "engines_agree"),
    (Decays, "a_shared_optimum_is_a_fixed_point"),
    (Climbs, "the_loss_falls"),
    (Counts, "settings_are_not_changed"),
    (CountsAtTheServer, "settings_are_not_changed"),
    (Counts, "a_resumed_run_is_the_same"),
    (CountsAtTheServer, "a_resumed_run_is_the_same"),
    (ForgetsErrors, "a_worker_that_fails_is_named"),
    (ForgetsErrorsOnTheWay, "a_worker_that_fails_is_named"),
    (AssignsToItself, "a_round_that_nobody_answers_changes_nothing"),
    (AssignsInPlace, "a_round_that_nobody_answers_changes_nothing"),
    (FirstOfTheCohort, "the_order_of_workers_does_not_matter"),
]


@pytest.mark.parametrize(("wrong", "check"), WRONG)
def test_what_is_wrong_with_an_algorithm_is_seen(wrong: type[Algorithm], check: str) -> None:
    with pytest.raises(AssertionError):
        CHECKS[check](wrong)


def test_every_check_sees_something() -> None:
    assert {check for _, check in WRONG} == set(CHECKS)


def test_a_table_that_is_not_declared_is_named() -> None:
    with pytest.raises(ValueError, match=r"staged in the table 'mine', but `tables` names \[\]; add it"):
        check_algorithm(Undeclared)


# ---- aggregators ----------------------------------------------------------------------------------------------------

AGGREGATORS: list[Callable[[], Aggregator[Any]]] = [
    WeightedMean,
    UniformMean,
    NormalizedMean,
    Median,
    lambda: TrimmedMean(2),
    lambda: Krum(2),
    lambda: MultiKrum(2),
    lambda: MultiKrum(2, 3),
    lambda: Bulyan(2),
    GeometricMedian,
    lambda: GeometricMedian(iterations=3, tolerance=0, weighted=True, start="mean", nu=1e-6),
    lambda: CenteredClipping(radius=100.0, iterations=2),  # else equal updates are clipped
    lambda: Bucketing(Krum(1)),
    lambda: Bucketing(CenteredClipping(radius=100.0)),
    lambda: NearestNeighborMixing(GeometricMedian(), attackers=2),
    lambda: NearestNeighborMixing(Bucketing(TrimmedMean(1)), attackers=2),
]


@pytest.mark.parametrize("make", AGGREGATORS, ids=lambda make: repr(make()))
def test_our_aggregators(make: Callable[[], Aggregator[Any]]) -> None:
    check_aggregator(make)


class Wrapped(Aggregator[Any]):
    """A weighted mean, to be broken in one way each."""

    def fold(self, updates: Iterable[Updates], job: Job) -> Any:
        return WeightedMean().fold(updates, job)

    def finish(self, partial: Any, processes: Processes) -> Aggregate:
        return WeightedMean().finish(partial, processes)


class Writes(Wrapped):
    def fold(self, updates: Iterable[Updates], job: Job) -> Any:
        return super().fold((replace(u, delta=u.delta.mul_(1.0).add_(0.0).clamp_(max=0.1)) for u in updates), job)


class LastWins(Wrapped):
    def fold(self, updates: Iterable[Updates], job: Job) -> Any:
        return super().fold([list(updates)[-1]], job)


class FirstRowOfEachStack(Wrapped):
    def fold(self, updates: Iterable[Updates], job: Job) -> Any:
        return super().fold((u.rows(torch.arange(len(u.workers)) == 0) for u in updates), job)


class Sum(Wrapped):
    def finish(self, partial: Any, processes: Processes) -> Aggregate:
        aggregate = super().finish(partial, processes)
        return replace(aggregate, delta=aggregate.delta * 2, extra={n: 2 * e for n, e in aggregate.extra.items()})


class ForgetsExtra(Wrapped):
    def finish(self, partial: Any, processes: Processes) -> Aggregate:
        aggregate = super().finish(partial, processes)
        return replace(aggregate, extra={name: torch.zeros_like(e) for name, e in aggregate.extra.items()})


class ForgetsBuffers(Wrapped):
    def finish(self, partial: Any, processes: Processes) -> Aggregate:
        return replace(super().finish(partial, processes), buffers={})


class Narrow(Wrapped):
    def finish(self, partial: Any, processes: Processes) -> Aggregate:
        aggregate = super().finish(partial, processes)
        return replace(aggregate, delta=aggregate.delta.to(torch.bfloat16))


class Learns(Wrapped):
    def __init__(self) -> None:
        self.rounds = 0

    def fold(self, updates: Iterable[Updates], job: Job) -> Any:
        self.rounds += 1
        return super().fold(updates, job)


class KeepsTheAggregate(Wrapped):
    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        server["before"] = aggregate.delta


class Counts(Wrapped):
    def of_round(self, job: Job, server: Tensors) -> Counts:
        server["rounds"] = torch.ones(())
        return self


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Writes, "updates were changed"),
        (LastWins, "one by one give another delta"),
        (FirstRowOfEachStack, "give another delta"),
        (Sum, "equal updates do not give that update"),
        (ForgetsExtra, "extra goes by another rule"),
        (ForgetsBuffers, "has the buffers set"),
        (Narrow, "of a torch.float32 model is torch.bfloat16"),
        (KeepsTheAggregate, "so it is no copy"),
        (Counts, r"of_round\(\) changed what is remembered"),
        (Learns, "changed the aggregator's settings"),
    ],
)
def test_what_is_wrong_with_an_aggregator_is_said(wrong: type[Aggregator[Any]], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_aggregator(wrong)


def test_too_small_a_cohort_is_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="n=3 workers"):
        check_aggregator(lambda: Krum(2), cohort_size=3)


# ---- samplers and availability --------------------------------------------------------------------------------------


class Fixed(CohortSampler):
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return list(range(cohort_size))


class Unseeded(CohortSampler):
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return random.sample(range(population), cohort_size)


class Reseeds(CohortSampler):
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        random.seed(number)
        return random.sample(range(population), cohort_size)


class Remembers(CohortSampler):
    last = 0

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        self.last += cohort_size
        return [(self.last + i) % population for i in range(cohort_size)]


class Repeats(CohortSampler):
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [0] * cohort_size


class Beyond(CohortSampler):
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [population]


class Positions(CohortSampler):
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return list(torch.arange(cohort_size))  # type: ignore[arg-type]


class Prepared(CohortSampler):
    def prepare(self, sizes: Sizes) -> None:
        self.size = len(sizes())

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        assert self.size == population
        return []


@pytest.mark.parametrize("right", [Fixed, Prepared])
def test_samplers_that_are_right(right: type[CohortSampler]) -> None:
    check_sampler(right)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Unseeded, "moved a generator"),
        (Reseeds, "moved a generator"),
        (Remembers, "does not depend on seed and number alone"),
        (Repeats, "comes twice"),
        (Beyond, r"leave 0\.\.0"),
        (Positions, "not all of type int"),
    ],
)
def test_what_is_wrong_with_a_sampler_is_said(wrong: type[CohortSampler], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_sampler(wrong)


class Says(Availability):
    def __init__(self, *responses: Any) -> None:
        self.responses = responses
        self.asked = 0

    def respond(self, worker: str, number: int, seed: int) -> Any:
        self.asked += 1
        return self.responses[self.asked % len(self.responses)]


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ([Response(), Response("lost")], "does not depend on worker, number and seed alone"),
        ([Response("asleep")], "'asleep' is none of"),  # type: ignore[arg-type]
        ([Response(work=1.5)], "work=1.5 does not lie in"),
        ([("replies", 1.0)], "which is no Response"),
    ],
)
def test_what_is_wrong_with_an_availability_is_said(responses: list[Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_availability(lambda: Says(*responses))


# ---- transforms -----------------------------------------------------------------------------------------------------


class Step(UpdateTransform):
    """Does nothing, to be broken in one way each."""

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return updates

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate


def normal(updates: Updates, job: Job) -> Tensor:
    """Noise that follows from the seed, the cohort and the worker's name, ``[n, size]``."""
    size, dtype = updates.delta.shape[1], updates.delta.dtype
    seeds = [derive(job.seed, job.cohort, "noise", worker) for worker in updates.workers]
    return torch.stack(
        [torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=dtype) for seed in seeds]
    )


class Noise(Step):
    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return replace(updates, delta=updates.delta + normal(updates, job))


class ErrorFeedback(Step):
    """Keeps the sign and a size for each worker, and adds what that has left out to the worker's next update."""

    tables: ClassVar[tuple[str, ...]] = ("error",)

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        wanted = updates.delta + own.rows("error", updates.workers, torch.zeros_like(updates.delta[0]))
        signs = wanted.sign() * wanted.abs().mean(dim=1, keepdim=True)
        own.stage("error", updates.workers, wanted - signs)
        return replace(updates, delta=signs)


class Draws(Step):
    """Draws from the generator of the program."""

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return replace(updates, delta=updates.delta + torch.randn_like(updates.delta))


class ByRow(Step):
    """Leans on a worker's position in the stack, which depends on the engine."""

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        place = torch.arange(len(updates.workers), dtype=updates.delta.dtype).unsqueeze(1)
        return replace(updates, delta=updates.delta + 0.01 * place)


class SeededByRow(Step):
    """The same in its randomness: all rows have one generator."""

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        generator = torch.Generator().manual_seed(derive(job.seed, job.cohort))
        noise = torch.randn(updates.delta.shape, generator=generator, dtype=updates.delta.dtype)
        return replace(updates, delta=updates.delta + noise)


class Centres(Step):
    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return replace(updates, delta=updates.delta - updates.delta.mean(dim=0))


class LeansOnOthers(Step):
    """By so little that only double precision tells it from rounding."""

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return replace(updates, delta=updates.delta - 1e-8 * updates.delta.mean(dim=0))


class InPlace(Step):
    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        updates.delta.mul_(0.5)
        return updates


class InPlaceAtTheServer(Step):
    def server(self, aggregate: Aggregate) -> Aggregate:
        aggregate.delta.mul_(0.5)
        return aggregate


class Double(Step):
    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return replace(updates, delta=updates.delta.double())


class Log(Step):
    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        return replace(updates, delta=updates.delta.log())


class UndeclaredError(ErrorFeedback):
    tables: ClassVar[tuple[str, ...]] = ()


@pytest.mark.parametrize("right", [Step, Noise, ErrorFeedback, WorkerMomentum, lambda: ClipNorm(0.5)])
def test_transforms_that_are_right(right: Callable[[], UpdateTransform]) -> None:
    check_transform(right)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Draws, "the same updates leave otherwise the second time"),
        (ByRow, "alone in a stack leaves another update"),
        (SeededByRow, "alone in a stack leaves another update"),
        (Centres, "depends on another's"),
        (LeansOnOthers, "depends on another's"),
        (InPlace, "updates were changed"),
        (InPlaceAtTheServer, "the aggregate was changed"),
        (Double, r"worker\(\) gave torch.float64"),
        (Log, "NaN or Inf"),
    ],
)
def test_what_is_wrong_with_a_transform_is_said(wrong: type[UpdateTransform], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_transform(wrong)


def test_a_table_of_a_transform_that_is_not_declared_is_named() -> None:
    with pytest.raises(ValueError, match=r"staged in the table 'error', but `tables` names \[\]; add it"):
        check_transform(UndeclaredError)


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_error_feedback_of_a_whole_run_by_hand(engine: Any) -> None:
    """Each of two such transforms has a table of its own, and what a round left out comes with the next one."""

    def run(rounds: int) -> tuple[list[float], list[dict[str, list[float]]]]:
        module = Two()
        federated = FederatedModule(module, transforms=[ErrorFeedback(), ErrorFeedback()], engine=engine)
        fit(federated, FederatedDataModule({"a": Rows([4.0]), "b": Rows([4.0])}), max_steps=rounds)
        tables = federated.own_state.values()
        return module.x.tolist(), [{worker: row.tolist() for worker, row in rows.items()} for rows in tables]

    # The update -(3, 1) goes on as -(2, 2), of which the second transform leaves nothing out.
    x, errors = run(1)
    assert x == [2.0, 2.0]
    assert errors == [{"a": [-1.0, 1.0], "b": [-1.0, 1.0]}, {"a": [0.0, 0.0], "b": [0.0, 0.0]}]
    # With what was left out it is -(4, 0), goes on as -(2, 0), and leaves as -(1, 0): 0 has no sign.
    x, errors = run(2)
    assert x == [3.0, 2.0]
    assert errors == [{"a": [-2.0, 0.0], "b": [-2.0, 0.0]}, {"a": [-1.0, 0.0], "b": [-1.0, 0.0]}]


class Two(pl.LightningModule):
    """Two parameters whose update is -(3, 1) wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(2))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return -(self.x * torch.tensor([3.0, 1.0])).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def test_no_test_framework_is_needed() -> None:
    (folder,) = lightning_fed.testing.__path__
    sources = list(Path(folder).glob("*.py"))
    assert len(sources) > 3
    assert not [path for path in sources if "import pytest" in path.read_text()]
