from __future__ import annotations

import math

import pytest
import torch

from lightning_fed.core.tree import copy_, difference, finite_rows, wide


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.complex64, torch.complex64),
    ],
)
def test_accumulation_is_at_least_float32(dtype: torch.dtype, expected: torch.dtype) -> None:
    assert wide(dtype) == expected


def test_difference_of_half_precision_is_exact() -> None:
    # In bfloat16 256 - 1.0078125 would be 255.
    a, b = torch.tensor([256.0]), torch.tensor([1.0078125])
    (delta,) = difference({"w": a.bfloat16()}, {"w": b.bfloat16()}).values()
    assert delta.item() == 254.9921875


def test_copy_keeps_identity_dtype_and_grad_flag() -> None:
    target = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    copy_({"w": target}, {"w": torch.tensor([1.0, 2.0])})
    assert (target.tolist(), target.dtype, target.requires_grad) == ([1.0, 2.0], torch.bfloat16, True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_only_the_row_with_a_bad_number_is_not_finite(bad: float) -> None:
    tensors = {"a": torch.zeros(3, 2), "b": torch.zeros(3, 2, 2), "n": torch.tensor([1, 2, 3])}
    tensors["b"][1, 0, 1] = bad
    assert finite_rows(tensors, 3).tolist() == [True, False, True]


def test_infinities_that_cancel_are_seen() -> None:
    assert finite_rows({"a": torch.tensor([[math.inf, -math.inf], [0.0, 0.0]])}, 2).tolist() == [False, True]


def test_a_sum_that_overflows_is_finite_if_its_terms_are() -> None:
    large = torch.full((2, 4), 3e38)
    assert not large.sum().isfinite()
    assert finite_rows({"a": large}, 2).all()
    assert finite_rows({"a": torch.full((2, 4), 6e4, dtype=torch.float16)}, 2).all()


def test_nothing_or_integers_alone_are_finite() -> None:
    assert finite_rows({}, 2).tolist() == [True, True]
    assert finite_rows({"n": torch.tensor([1, 2])}, 2).tolist() == [True, True]
