"""The vote on each coordinate's sign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from private import job, updates

from lightning_fed.aggregation import MajorityVote
from lightning_fed.core.processes import Processes
from lightning_fed.transforms import Compressed, Sign
from lightning_fed.wire import Updates


def voted(stacks: Sequence[Updates], scale: float = 0.5) -> list[float]:
    vote = MajorityVote(scale)
    aggregate = vote.finish(vote.fold(iter(stacks), job(stacks[0].delta.shape[1])), Processes())
    numbers: list[float] = aggregate.delta.tolist()
    return numbers


ROWS = [[9.0, 1.0, -1.0, 0.0], [-0.1, 2.0, -5.0, 0.0], [-0.1, -9.0, 0.0, 3.0]]


def test_a_vote_by_hand() -> None:
    """However far the first worker goes, it has one vote; 0 abstains."""
    assert voted([updates(ROWS)]) == [-0.5, 0.5, -0.5, 0.5]
    assert voted([updates(ROWS[:1]), updates(ROWS[1:])], scale=2.0) == [-2.0, 2.0, -2.0, 2.0]


def test_a_tie_moves_nothing() -> None:
    assert voted([updates([[1.0], [-3.0]])]) == [0.0]


def test_numbers_of_examples_do_not_count_but_those_without_any() -> None:
    weights = torch.tensor([100.0, 1.0, 1.0], dtype=torch.float64)
    assert voted([updates(ROWS, weight=weights)]) == [-0.5, 0.5, -0.5, 0.5]
    weights = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert voted([updates(ROWS, weight=weights)]) == [0.5, 0.5, -0.5, 0.0]


@pytest.mark.parametrize(("attackers", "right"), [(4, 1.0), (5, -1.0)])
def test_fewer_than_half_turn_nothing(attackers: int, right: float) -> None:
    rows = torch.ones(9, 3)
    rows[:attackers] *= -1e6
    assert voted([updates(rows)], scale=1.0) == [right] * 3


def test_signs_of_one_bit_give_the_same_vote() -> None:
    there = job(300)
    stack = updates(torch.randn(5, 300, generator=torch.Generator().manual_seed(0)))
    transform = Compressed(Sign(), error_feedback=False)
    left = transform.worker(stack, there, None)  # type: ignore[arg-type]  # it remembers nothing
    assert not torch.equal(left.delta, stack.delta)
    assert voted([left]) == voted([stack])


def test_what_is_sent_besides_is_voted_on_and_buffers_are_averaged() -> None:
    there = job(1, {"mean": torch.tensor(0.0)}, extra=("control",))
    stack = updates([[1.0], [1.0], [-5.0]], buffers={"mean": torch.tensor([1.0, 2.0, 6.0])})
    stack = replace(stack, extra={"control": torch.tensor([[-1.0], [-2.0], [9.0]])})
    vote = MajorityVote(0.1)
    aggregate = vote.finish(vote.fold(iter([stack]), there), Processes())
    assert aggregate.extra["control"].tolist() == pytest.approx([-0.1])
    assert float(aggregate.buffers["mean"]) == pytest.approx(3.0)
