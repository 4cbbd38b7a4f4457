"""What leaves workers: the steps in their order, with one worker in a stack and with many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import pytest
import torch
from private import Seen
from torch import Tensor

from lightning_fed.algorithms import Algorithm, FedAvg, Result, Train
from lightning_fed.privacy import DPFTRL, AdaptiveClip, CentralDP, DistributedDP, LocalDP, Privacy, RecordDP
from lightning_fed.state import OwnState, OwnTables
from lightning_fed.transforms import UpdateTransform
from lightning_fed.wire import Aggregate, GlobalModel, Job, LocalTraining, Updates, WorkerError
from lightning_fed.worker.outbox import Outbox, tables_of

NAMES = ("a", "b", "c")


def job(**options: Any) -> Job:
    """Cohort 5 in round 7, of a model with two parameters and a buffer at 9."""
    model = GlobalModel({"x": torch.zeros(2)}, {"seen": torch.tensor(9.0)})
    promise = {"bound": 10.0, "noise_multiplier": 1.0}
    return Job(7, 5, 0, model, LocalTraining(), promise=promise, **options)


def trained(delta: Sequence[Sequence[float]], **changes: Any) -> Updates:
    """What local training gives of workers a, b and c: numbers that differ from worker to worker."""
    n = len(delta)
    numbers = torch.arange(1.0, n + 1, dtype=torch.float64)
    plain = Updates(
        cohort=5,
        workers=NAMES[:n],
        delta=torch.tensor(delta),
        buffers={"seen": 100 + numbers.float()},
        examples=10 * numbers,
        weight=10 * numbers,
        loss=numbers / 10,
        steps=2 * numbers,
        metrics={"acc": numbers / 100},
    )
    return replace(plain, **changes)


def together(updates: Updates) -> list[Updates]:
    return [updates]


def one_by_one(updates: Updates) -> list[Updates]:
    n = len(updates.workers)
    return [updates.rows(torch.arange(n) == row) for row in range(n)]


Cut: TypeAlias = Callable[[Updates], list[Updates]]
cuts = pytest.mark.parametrize("cut", [together, one_by_one])


def leaving(outbox: Outbox, stacks: Iterable[Result], job: Job) -> list[Result]:
    """What comes out for stacks that come out of local training."""
    given = list(stacks)
    workers = [name for stack in given if isinstance(stack, Updates) for name in stack.workers]
    return list(outbox(lambda job, workers: iter(given), job, workers))


def rows(results: Iterable[Result], of: Callable[[Updates], Tensor] = lambda u: u.delta) -> dict[str, Any]:
    """A number of each worker that came out, or its row."""
    stacks = [result for result in results if isinstance(result, Updates)]
    return {name: row for stack in stacks for name, row in zip(stack.workers, of(stack).tolist(), strict=True)}


class Plus(Algorithm):
    """Adds a number to every update at the worker, and 0 for what is not finite: the check comes before it."""

    def __init__(self, number: float = 1.0) -> None:
        self.number = number
        self.jobs: list[Job] = []

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        self.jobs.append(job)
        for result in train(job, workers):
            if isinstance(result, Updates):
                result = replace(result, delta=result.delta.nan_to_num() + self.number)
            yield result

    def aggregator(self) -> Any:
        return FedAvg().aggregator()


class Affine(UpdateTransform):
    """Multiplies and adds at the worker; at the server the other way round."""

    def __init__(self, factor: float, number: float) -> None:
        self.factor, self.number = factor, number
        self.seen: list[Updates] = []
        self.buffers: list[float] = []

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        self.seen.append(updates)
        return replace(updates, delta=self.factor * updates.delta + self.number)

    def server(self, aggregate: Aggregate) -> Aggregate:
        self.buffers.append(aggregate.buffers["seen"].item())
        return replace(aggregate, delta=(aggregate.delta - self.number) / self.factor)


# ---- the order of the steps ------------------------------------------------------------------------------------------


@cuts
def test_algorithm_then_transforms_in_order_then_the_promise(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    """``(x + 1) · 2 + 1 + 3``, clipped to a norm of 10; in any other order the numbers are others."""
    Seen(monkeypatch, factor=0.0)
    outbox = Outbox(Plus(1.0), [Affine(2.0, 1.0), Affine(1.0, 3.0)], LocalDP(clip=10.0, noise_multiplier=1.0))
    # a: (3, 5.5) + 1 -> (4, 6.5) * 2 + 1 -> (9, 14) + 3 -> (12, 17); b: (1, 1.5) -> (2, 2.5) -> (5, 6) -> (8, 9)
    # c: (-1, 0) -> (0, 1) -> (1, 3) -> (4, 6), which is within the bound
    results = rows(leaving(outbox, cut(trained([[3.0, 5.5], [1.0, 1.5], [-1.0, 0.0]])), job()))
    for name, (x, y) in {"a": (12, 17), "b": (8, 9), "c": (4, 6)}.items():
        scale = min(1.0, 10 / math.hypot(x, y))
        assert results[name] == pytest.approx([scale * x, scale * y], rel=1e-5)


@cuts
def test_the_finite_check_comes_before_the_algorithm(cut: Cut) -> None:
    """Which here would make a number of NaN."""
    results = leaving(Outbox(Plus()), cut(trained([[0.0, 0.0], [math.nan, 0.0], [1.0, 1.0]])), job())
    assert rows(results) == {"a": [1.0, 1.0], "c": [2.0, 2.0]}
    (error,) = [result for result in results if isinstance(result, WorkerError)]
    assert (error.worker, error.round) == ("b", 7)
    assert str(error).startswith("worker 'b' failed in round 7: its update has NaN or Inf in it")


@cuts
@pytest.mark.parametrize("where", ["delta", "gradient", "seen"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_whatever_of_an_update_is_not_finite_is_an_error(cut: Cut, where: str, bad: float) -> None:
    stack = trained([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], gradient=torch.ones(3, 2))
    {"delta": stack.delta, "gradient": stack.gradient, **stack.buffers}[where][1:] = bad  # type: ignore[index]
    results = leaving(Outbox(), cut(stack), job(wants_gradient=True))
    assert rows(results) == {"a": [1.0, 2.0]}
    errors = [result for result in results if isinstance(result, WorkerError)]
    assert [(error.worker, error.round) for error in errors] == [("b", 7), ("c", 7)]
    assert all("lower the learning rate" in str(error) and 'on_worker_error="drop"' in str(error) for error in errors)


@cuts
def test_a_buffer_that_is_infinite_on_purpose_is_let_through(cut: Cut) -> None:
    sent = replace(job(), model=GlobalModel({"x": torch.zeros(2)}, {"seen": torch.tensor(-math.inf)}))
    stack = trained([[1.0, 2.0], [3.0, 4.0]], buffers={"seen": torch.full((2,), -math.inf)})
    assert rows(leaving(Outbox(), cut(stack), sent)) == {"a": [1.0, 2.0], "b": [3.0, 4.0]}


def test_an_error_of_local_training_passes_all_steps() -> None:
    error = WorkerError("b", 7, "made up")
    outbox = Outbox(Plus(), [Affine(2.0, 0.0)], CentralDP(clip=1.0, noise_multiplier=1.0))
    stack = trained([[0.0, 0.0]])
    assert [getattr(r, "workers", r) for r in leaving(outbox, [stack, error], job())] == [("a",), error]


def test_a_stack_of_which_nothing_is_left_does_not_come_out() -> None:
    transform = Affine(1.0, 0.0)
    results = leaving(Outbox(transforms=[transform]), [trained([[math.nan, 0.0]])], job())
    assert [type(result) for result in results] == [WorkerError]
    assert transform.seen == []


@cuts
def test_every_step_has_the_servers_job_whatever_the_algorithm_trains(cut: Cut) -> None:
    """An algorithm may train by another job, but its update answers the one that the server sent."""

    class Longer(Plus):
        def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
            yield from train(replace(job, seed=99, promise={}), workers)

    class Sees(Affine):
        def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
            jobs.append(job)
            return updates

    jobs: list[Job] = []
    sent = job()
    leaving(Outbox(Longer(), [Sees(1.0, 0.0)]), cut(trained([[0.0, 0.0], [0.0, 0.0]])), sent)
    assert jobs
    assert all(seen is sent for seen in jobs)


# ---- what never leaves -----------------------------------------------------------------------------------------------


@cuts
@pytest.mark.parametrize("promise", [None, CentralDP(clip=1.0, noise_multiplier=1.0, release_metrics=True)])
def test_the_gradient_is_for_the_algorithm_and_does_not_leave(cut: Cut, promise: Privacy | None) -> None:
    class Sends(Plus):
        def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
            for result in train(job, workers):
                assert isinstance(result, Updates)
                assert result.gradient is not None
                yield replace(result, extra={"twice": 2 * result.gradient})

    stack = trained([[0.0, 0.0], [0.0, 0.0]], gradient=torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    results = leaving(Outbox(Sends(), promise=promise), cut(stack), job(wants_gradient=True))
    assert all(isinstance(result, Updates) and result.gradient is None for result in results)
    assert rows(results, lambda u: u.extra["twice"]) == {"a": [2.0, 4.0], "b": [6.0, 8.0]}


@cuts
def test_without_a_promise_all_else_leaves_as_it_is(cut: Cut) -> None:
    stack = trained([[1.0, 2.0], [3.0, 4.0]])
    results = leaving(Outbox(), cut(stack), job())
    assert rows(results) == {"a": [1.0, 2.0], "b": [3.0, 4.0]}
    assert rows(results, lambda u: u.buffers["seen"]) == {"a": 101.0, "b": 102.0}
    for name in ("examples", "weight", "loss", "steps"):
        expected = dict(zip("ab", getattr(stack, name).tolist(), strict=True))
        assert rows(results, lambda u, name=name: getattr(u, name)) == expected
    assert rows(results, lambda u: u.metrics["acc"]) == {"a": 0.01, "b": 0.02}


SHOWN = {"release_metrics": True}
PROMISES: dict[str, Callable[..., Privacy]] = {
    "CentralDP": lambda **options: CentralDP(clip=10.0, noise_multiplier=1.0, **options),
    "AdaptiveClip": lambda **options: CentralDP(clip=AdaptiveClip(), noise_multiplier=1.0, **options),
    "LocalDP": lambda **options: LocalDP(clip=10.0, noise_multiplier=1.0, **options),
    "DistributedDP": lambda **options: DistributedDP(clip=10.0, survivors=2, noise_multiplier=1.0, **options),
    "DPFTRL": lambda **options: DPFTRL(clip=10.0, noise_multiplier=1.0, **options),
    "RecordDP": lambda **options: RecordDP(1.0, sampling_rate=0.1, delta=1e-5, noise_multiplier=1.0, **options),
}
promises = pytest.mark.parametrize("promise", PROMISES.values(), ids=PROMISES)


@cuts
@promises
def test_under_a_promise_nothing_leaves_that_it_does_not_cover(cut: Cut, promise: Callable[..., Privacy]) -> None:
    results = leaving(Outbox(promise=promise()), cut(trained([[0.3, 0.4], [0.6, 0.8]])), job())
    assert list(rows(results)) == ["a", "b"]
    for result in results:
        assert isinstance(result, Updates)
        assert result.metrics == {}
        assert result.loss.isnan().all()
        assert set(result.steps.tolist()) == set(result.examples.tolist()) == set(result.weight.tolist()) == {1.0}
        assert result.buffers["seen"].tolist() == [9.0] * len(result.workers)
        assert result.stays == {"seen"}


@cuts
@promises
def test_what_is_released_on_purpose_leaves_but_buffers_and_weights_do_not(
    cut: Cut, promise: Callable[..., Privacy]
) -> None:
    results = leaving(Outbox(promise=promise(**SHOWN)), cut(trained([[0.3, 0.4], [0.6, 0.8]])), job())
    assert rows(results, lambda u: u.loss) == {"a": 0.1, "b": 0.2}
    assert rows(results, lambda u: u.steps) == {"a": 2.0, "b": 4.0}
    assert rows(results, lambda u: u.examples) == {"a": 10.0, "b": 20.0}
    assert rows(results, lambda u: u.metrics["acc"]) == {"a": 0.01, "b": 0.02}
    assert rows(results, lambda u: u.weight) == {"a": 1.0, "b": 1.0}
    assert rows(results, lambda u: u.buffers["seen"]) == {"a": 9.0, "b": 9.0}


@cuts
def test_a_cap_on_weights_needs_the_number_of_examples_and_nothing_else(cut: Cut) -> None:
    outbox = Outbox(promise=CentralDP(clip=10.0, noise_multiplier=1.0, weight_cap=15))
    results = leaving(outbox, cut(trained([[0.3, 0.4], [0.6, 0.8]])), job())
    assert rows(results, lambda u: u.examples) == {"a": 10.0, "b": 20.0}
    for result in results:
        assert isinstance(result, Updates)
        assert result.metrics == {}
        assert result.loss.isnan().all()
        assert result.steps.tolist() == [1.0] * len(result.workers)


@cuts
def test_names_that_stay_by_an_algorithm_stay_under_a_promise_too(cut: Cut) -> None:
    stack = trained([[0.0, 0.4], [0.0, 0.8]], stays=frozenset({"head"}))
    for result in leaving(Outbox(promise=CentralDP(clip=10.0, noise_multiplier=1.0)), cut(stack), job()):
        assert isinstance(result, Updates)
        assert result.stays == {"head", "seen"}


@cuts
def test_what_came_out_of_local_training_is_not_written_to(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch)
    stack = trained([[30.0, 40.0], [3.0, 4.0]])
    before = {"delta": stack.delta.clone(), "seen": stack.buffers["seen"].clone(), "loss": stack.loss.clone()}
    outbox = Outbox(Plus(), [Affine(2.0, 1.0)], LocalDP(clip=1.0, noise_multiplier=1.0))
    leaving(outbox, cut(stack), job())
    after = {"delta": stack.delta, "seen": stack.buffers["seen"], "loss": stack.loss}
    torch.testing.assert_close(after, before, rtol=0, atol=0)


# ---- what is remembered ----------------------------------------------------------------------------------------------


class Feedback(Affine):
    """Adds what it kept back the last time."""

    tables: ClassVar[tuple[str, ...]] = ("error",)

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        delta = updates.delta + own.rows("error", updates.workers, torch.zeros(2))
        own.stage("error", updates.workers, self.factor * delta)
        return replace(updates, delta=(1 - self.factor) * delta)


class Remembers(Plus):
    tables: ClassVar[tuple[str, ...]] = ("error",)

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        for result in train(job, workers):
            if isinstance(result, Updates):
                own.stage("error", result.workers, result.delta)
            yield result


def test_tables_of_transforms_are_told_apart_by_position() -> None:
    names = tables_of(Remembers(), [Affine(1.0, 0.0), Feedback(0.5, 0.0), Feedback(0.5, 0.0)])
    assert names == ("error", "transforms.1.error", "transforms.2.error")


@cuts
def test_algorithm_and_two_transforms_of_one_kind_remember_apart(cut: Cut) -> None:
    algorithm, transforms = Remembers(), [Feedback(0.5, 0.0), Feedback(0.25, 0.0)]
    own = OwnState(tables_of(algorithm, transforms))
    outbox = Outbox(algorithm, transforms, own=own)
    own.begin(5, last=None)
    # a: (8, 0) is halved, and of (4, 0) a quarter stays; b: half of that
    assert rows(leaving(outbox, cut(trained([[8.0, 0.0], [4.0, 0.0]])), job())) == {"a": [3.0, 0.0], "b": [1.5, 0.0]}
    own.begin(6, last=5)
    kept = {table: {worker: row.tolist()[0] for worker, row in part.items()} for table, part in own.kept().items()}
    assert kept == {
        "error": {"a": 8.0, "b": 4.0},
        "transforms.0.error": {"a": 4.0, "b": 2.0},
        "transforms.1.error": {"a": 1.0, "b": 0.5},
    }
    # a: 0 + 4 is halved, and of 2 + 1 a quarter stays
    assert rows(leaving(outbox, cut(trained([[0.0, 0.0], [0.0, 0.0]])), job())) == {"a": [2.25, 0.0], "b": [1.125, 0.0]}


# ---- at the server ---------------------------------------------------------------------------------------------------


def test_the_server_takes_the_steps_back_in_reverse_order() -> None:
    """x -> 2x + 1 -> 4(2x + 1) + 8, so 20 was 3 before the second and 1 before the first."""
    outbox = Outbox(transforms=[Affine(2.0, 1.0), Affine(4.0, 8.0)])
    (left,) = leaving(outbox, [trained([[1.0, 2.0]])], job())
    assert isinstance(left, Updates)
    assert left.delta.tolist() == [[20.0, 28.0]]
    aggregate = outbox.at_server(Aggregate(left.delta[0], {"seen": torch.tensor(3.0)}), job())
    assert aggregate.delta.tolist() == [1.0, 2.0]
    assert aggregate.buffers["seen"].item() == 3.0


def test_the_promise_was_last_at_the_workers_and_is_first_at_the_server() -> None:
    """It gives back the global buffers, which transforms see then."""
    transforms = [Affine(2.0, 1.0), Affine(4.0, 8.0)]
    outbox = Outbox(transforms=transforms, promise=CentralDP(clip=10.0, noise_multiplier=1.0))
    sent = job()
    aggregate = outbox.at_server(Aggregate(torch.tensor([20.0, 28.0]), {"seen": torch.tensor(8.9)}), sent)
    assert aggregate.delta.tolist() == [1.0, 2.0]
    assert [transform.buffers for transform in transforms] == [[9.0], [9.0]]
    aggregate.buffers["seen"] += 1
    assert sent.model.buffers["seen"].item() == 9.0


class Refuses(UpdateTransform):
    """Takes no update above 5."""

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        if bool((updates.delta > 5).any()):
            raise RuntimeError("too large")
        return updates

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate


def test_a_step_that_raises_is_the_error_of_its_workers_and_not_the_runs() -> None:
    stacks = one_by_one(trained([[1.0, 0.0], [6.0, 0.0], [2.0, 0.0]]))
    results = list(Outbox(transforms=[Refuses()])(lambda *_: iter(stacks), job(), NAMES))
    assert [r.workers if isinstance(r, Updates) else (r.worker, r.round, r.reason) for r in results] == [
        ("a",),
        ("b", 7, "RuntimeError: too large"),
        ("c",),
    ]


def test_an_algorithm_that_raises_at_the_worker_is_the_error_of_those_that_are_left() -> None:
    class Halts(Plus):
        def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
            for result in super().at_worker(train, job, workers, own):
                yield result
                raise RuntimeError("made up")

    stacks = one_by_one(trained([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]))
    results = list(Outbox(algorithm=Halts())(lambda *_: iter(stacks), job(), NAMES))
    assert [r.workers if isinstance(r, Updates) else (r.worker, r.round, r.reason) for r in results] == [
        ("a",),
        ("b", 7, "RuntimeError: made up"),
        ("c", 7, "RuntimeError: made up"),
    ]
