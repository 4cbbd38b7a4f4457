from __future__ import annotations

import math

import pytest
import torch

from lightning_fed.core.tree import add_weighted_, copy_, finite_rows


def test_copy_keeps_identity_dtype_and_grad_flag() -> None:
    target = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    copy_({"w": target}, {"w": torch.tensor([1.0, 2.0])})
    assert (target.tolist(), target.dtype, target.requires_grad) == ([1.0, 2.0], torch.bfloat16, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_only_the_row_with_a_bad_number_is_not_finite(bad: float) -> None:
    stack = torch.zeros(3, 2, 2)
    stack[1, 0, 1] = bad
    assert finite_rows(stack).tolist() == [True, False, True]
    assert finite_rows(stack[:, 0, 1]).tolist() == [True, False, True]


def test_infinities_that_cancel_are_seen() -> None:
    assert finite_rows(torch.tensor([[math.inf, -math.inf], [0.0, 0.0]])).tolist() == [False, True]


def test_a_sum_that_overflows_is_finite_if_its_terms_are() -> None:
    large = torch.full((2, 4), 3e38)
    assert not large.sum().isfinite()
    assert finite_rows(large).all()
    assert finite_rows(torch.full((2, 4), 6e4, dtype=torch.float16)).all()


def test_integers_are_finite() -> None:
    assert finite_rows(torch.tensor([1, 2])).tolist() == [True, True]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_a_weighted_sum_by_hand(shape: tuple[int, ...]) -> None:
    total = torch.full(shape, 10.0)
    add_weighted_(
        total, torch.tensor([2.0, 3.0], dtype=torch.float64), torch.stack([torch.ones(shape), torch.full(shape, 5.0)])
    )
    assert total.unique().tolist() == [27.0]  # 10 + 2 * 1 + 3 * 5


def test_a_weighted_sum_of_one_by_hand() -> None:
    total = torch.tensor([10.0, 20.0])
    add_weighted_(total, torch.tensor([2.0], dtype=torch.float64), torch.tensor([[1.0, 0.5]], dtype=torch.float64))
    assert total.tolist() == [12.0, 21.0]
