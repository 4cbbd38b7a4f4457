from __future__ import annotations

from typing import Any

import pytest
import torch
from cohorts import job, stack
from helpers import assert_equal
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed.aggregation import Aggregator, NormalizedMean, UniformMean, WeightedMean
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, Job, Updates


def mean(sent: Job, *stacks: Updates) -> Aggregate:
    aggregator = WeightedMean()
    return aggregator.finish(aggregator.fold(iter(stacks), sent), Processes())


def test_by_hand() -> None:
    # (1 * 2 + 3 * 6) / 4 = 5
    sent = job({"w": torch.zeros(1)})
    assert mean(sent, stack(torch.tensor([[2.0], [6.0]]), [1, 3])).delta.tolist() == [5.0]
    ones = [stack(torch.tensor([[value]]), [weight]) for value, weight in ((2.0, 1), (6.0, 3))]
    assert mean(sent, *ones).delta.tolist() == [5.0]


def test_float_buffers_are_averaged_and_others_take_the_maximum() -> None:
    buffers = {"mean": torch.tensor(0.0), "n": torch.tensor(10), "seen": torch.tensor(False)}
    came_back = {"mean": torch.tensor([4.0, 8.0]), "n": torch.tensor([12, 11]), "seen": torch.tensor([False, True])}
    aggregate = mean(job({"w": torch.zeros(1)}, buffers), stack(torch.zeros(2, 1), [3, 1], came_back))
    assert {name: value.item() for name, value in aggregate.buffers.items()} == {"mean": 5.0, "n": 12, "seen": True}


def test_of_others_the_largest_of_the_workers_is_taken_even_below_the_global_one() -> None:
    """A place in a queue comes round to its beginning, and a flag is lowered."""
    buffers = {"place": torch.tensor([6, 1]), "first": torch.tensor(True)}
    came_back = {"place": torch.tensor([[2, 0], [0, 3]]), "first": torch.tensor([False, False])}
    aggregate = mean(job({"w": torch.zeros(1)}, buffers), stack(torch.zeros(2, 1), [3, 1], came_back))
    assert {n: b.tolist() for n, b in aggregate.buffers.items()} == {"place": [2, 3], "first": False}
    negative = {"place": torch.tensor([[-9, -5]]), "first": torch.tensor([True])}
    aggregate = mean(job({"w": torch.zeros(1)}, buffers), stack(torch.zeros(1, 1), [3], negative))
    assert {n: b.tolist() for n, b in aggregate.buffers.items()} == {"place": [-9, -5], "first": True}


def test_complex_buffers_are_averaged() -> None:
    aggregate = mean(
        job({"w": torch.zeros(1)}, {"rotation": torch.tensor([1j])}),
        stack(torch.zeros(2, 1), [1, 3], {"rotation": torch.tensor([[4j], [8j]])}),
    )
    assert aggregate.buffers["rotation"].tolist() == [7j]


def test_what_was_sent_is_not_written_to() -> None:
    sent = job({"w": torch.zeros(1)}, {"n": torch.tensor(1), "mean": torch.tensor(1.0)})
    update = stack(torch.ones(1, 1), [2], {"n": torch.tensor([5]), "mean": torch.tensor([3.0])})
    mean(sent, update)
    assert (sent.model.parameters["w"].item(), sent.model.buffers["n"].item(), sent.model.buffers["mean"].item()) == (
        0,
        1,
        1,
    )
    assert (update.delta.item(), update.buffers["n"].item(), update.buffers["mean"].item()) == (1, 5, 3)


@pytest.mark.parametrize("together", [True, False])
def test_half_precision_accumulates_in_float32(together: bool) -> None:
    # 300 updates of 1: a bfloat16 sum stops at 256.
    sent = job({"w": torch.zeros(1, dtype=torch.bfloat16)}, {"mean": torch.zeros((), dtype=torch.bfloat16)})

    def half(n: int) -> Updates:
        ones = torch.ones(n, dtype=torch.bfloat16)
        return stack(ones.view(n, 1), [1] * n, {"mean": ones})

    aggregate = mean(sent, half(300)) if together else mean(sent, *(half(1) for _ in range(300)))
    assert aggregate.delta.dtype == aggregate.buffers["mean"].dtype == torch.float32
    assert (aggregate.delta.item(), aggregate.buffers["mean"].item()) == (1.0, 1.0)


def test_double_precision_stays_double() -> None:
    tiny = torch.tensor([[1 + 1e-12], [1 - 3e-12]], dtype=torch.float64)
    aggregate = mean(job({"w": torch.zeros(1, dtype=torch.float64)}), stack(tiny, [3, 1]))
    torch.testing.assert_close(aggregate.delta, torch.ones(1, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.usefixtures("double")
@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 500), st.integers(0, 2**16)), min_size=1, max_size=8), st.data())
def test_stacks_of_one_equal_one_stack_of_many_however_it_is_cut(
    workers: list[tuple[int, int]], data: st.DataObject
) -> None:
    weight = [float(w) for w, _ in workers]
    values = torch.stack([torch.randn(2, 3, generator=torch.Generator().manual_seed(seed)) for _, seed in workers])
    cut = data.draw(st.integers(0, len(workers)))
    sent = job({"w": torch.zeros(2, 3)}, {"b": torch.zeros(2, 3), "n": torch.tensor(0)})

    def part(i: int, j: int) -> Updates:
        return stack(values[i:j].flatten(1), weight[i:j], {"b": values[i:j], "n": torch.arange(len(weight))[i:j]})

    n = len(weight)
    whole = mean(sent, part(0, n))
    for parts in ([part(i, i + 1) for i in range(n)], [part(i, j) for i, j in ((0, cut), (cut, n)) if i < j]):
        again = mean(sent, *parts)
        assert_equal(again.delta, whole.delta)
        assert_equal(again.buffers, whole.buffers)
    expected = (values * torch.tensor(weight).view(-1, 1, 1)).sum(0) / sum(weight)
    assert_equal(whole.delta, expected.flatten())


@pytest.mark.parametrize(
    "aggregator", [WeightedMean(), UniformMean(), NormalizedMean()], ids=lambda a: type(a).__name__
)
def test_workers_that_weigh_nothing_are_not_counted_and_alone_change_nothing(aggregator: Aggregator[Any]) -> None:
    sent = job({"w": torch.zeros(1)}, {"mean": torch.tensor(7.0), "n": torch.tensor(3)})
    idle_buffers = {"mean": torch.tensor([1.0]), "n": torch.tensor([9])}
    idle = stack(torch.zeros(1, 1), [0], idle_buffers, steps=[0])
    busy = stack(torch.full((1, 1), 4.0), [2], {"mean": torch.tensor([5.0]), "n": torch.tensor([4])}, steps=[1])

    def of(*stacks: Updates) -> Aggregate:
        return aggregator.finish(aggregator.fold(iter(stacks), sent), Processes())

    both = of(idle, busy)
    assert (both.delta.item(), both.buffers["mean"].item(), both.buffers["n"].item(), both.changes) == (4, 5, 4, True)
    alone = of(idle)
    assert (alone.delta.item(), alone.buffers["mean"].item(), alone.buffers["n"].item(), alone.changes) == (
        0,
        7,
        3,
        False,
    )
