"""Sums of squares in float64, and products that are rounded towards zero."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_fed.core.double import blocks, row_norms, scaled_rows


def test_blocks_are_copies_that_cover_all_columns_once() -> None:
    rows = torch.arange(3 * 200_000.0).view(3, -1)
    seen = torch.zeros(200_000)
    for columns, block in blocks(rows):
        assert block.dtype == torch.float64
        torch.testing.assert_close(block, rows[:, columns].double(), rtol=0, atol=0)
        block.zero_()
        seen[columns] += 1
    assert seen.unique().tolist() == [1.0]
    assert float(rows[2, -1]) == 599_999.0
    assert not list(blocks(torch.zeros(2, 0)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_norms_by_hand(dtype: torch.dtype) -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-5.0, 12.0]], dtype=dtype)
    assert row_norms(rows).tolist() == [5.0, 0.0, 13.0]
    assert row_norms(torch.zeros(2, 0, dtype=dtype)).tolist() == [0.0, 0.0]


def test_of_twenty_million_equal_numbers() -> None:
    rows = torch.full((1, 20_000_000), 0.1)
    assert float(row_norms(rows)) == pytest.approx(float(rows[0, 0]) * math.sqrt(2e7), rel=1e-10)


@pytest.mark.parametrize("scale", [1e-310, 1e-170, 1e170, 1e300])
def test_squares_that_float64_cannot_hold(scale: float) -> None:
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64) * scale
    assert row_norms(rows).tolist() == pytest.approx([5 * scale, 0.0], rel=1e-10, abs=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_has_no_finite_norm(bad: float, dtype: torch.dtype) -> None:
    norms = row_norms(torch.tensor([[bad, 1.0], [3.0, 4.0]], dtype=dtype))
    assert norms.isfinite().tolist() == [False, True]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_products_are_never_longer_and_as_near_as_the_dtype_allows(dtype: torch.dtype) -> None:
    rows = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    scales = torch.tensor([1 / 3, 1.0, 1e-6, 0.0], dtype=torch.float64)
    exact = rows.double() * scales.unsqueeze(1)
    scaled = scaled_rows(rows, scales)
    assert scaled.dtype == dtype
    assert (scaled.double().abs() <= exact.abs()).all()
    torch.testing.assert_close(scaled[1], rows[1], rtol=0, atol=0)
    kind = torch.finfo(dtype)
    torch.testing.assert_close(scaled.double(), exact, rtol=kind.eps, atol=kind.smallest_normal * kind.eps)
