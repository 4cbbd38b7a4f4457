"""Arithmetic on tensors by name.

The ``torch._foreach_*`` functions are those that torch's optimizers are made of: one call for all tensors, where
a loop over names pays Python's cost for each.
"""

from __future__ import annotations

import cmath

import torch
from torch import Tensor

from lightning_fed.core.types import Tensors


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to accumulate in: at least float32, whatever the model's.

    >>> wide(torch.bfloat16), wide(torch.float32), wide(torch.float64)
    (torch.float32, torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


_WIDE = (torch.float32, torch.float64)


def widened(tensor: Tensor) -> Tensor:
    """The same values, in a dtype wide enough to accumulate in."""
    return tensor.to(wide(tensor.dtype))


def difference(a: Tensors, b: Tensors) -> Tensors:
    """``a − b``, name by name, in at least float32.

    >>> difference({"w": torch.tensor([3.0])}, {"w": torch.tensor([1.0])})
    {'w': tensor([2.])}
    """
    if not a:
        return {}
    wide_a, wide_b = ([t[name] if t[name].dtype in _WIDE else widened(t[name]) for name in a] for t in (a, b))
    with torch.no_grad():
        return dict(zip(a, torch._foreach_sub(wide_a, wide_b), strict=True))


def copy_(target: Tensors, source: Tensors) -> None:
    """Copy ``source`` into ``target`` in place, name by name."""
    if target:
        with torch.no_grad():
            torch._foreach_copy_(list(target.values()), [source[name] for name in target])


def add_weighted_(total: Tensors, weight: Tensor, stacks: Tensors) -> None:
    """``total += Σᵢ wᵢ · stackᵢ`` in place, name by name.

    Args:
        total: ``{name: [...]}``.
        weight: ``[n]``.
        stacks: ``{name: [n, ...]}``; may have more names.
    """
    if not total:
        return
    with torch.no_grad():
        if len(weight) == 1:
            # Shapes of [1, ...] broadcast to a view of the total, so no row has to be taken out.
            ones = [value.unsqueeze(0) for value in total.values()]
            torch._foreach_add_(ones, [stacks[name] for name in total], alpha=float(weight))
        else:
            for name, value in total.items():
                value.add_(torch.tensordot(weight.to(value), stacks[name].to(value.dtype), dims=1))


def finite_rows(tensors: Tensors, rows: int) -> Tensor:
    """Say for each of n stacked workers whether all of its numbers are finite.

    Args:
        tensors: ``{name: [n, ...]}``; integer tensors count as finite.
        rows: n.

    Returns:
        bool ``[n]``, on the CPU.
    """
    finite = torch.ones(rows, dtype=torch.bool)
    floating = [value for value in tensors.values() if value.is_floating_point() or value.is_complex()]
    # A sum is finite only if all numbers are. One pass without a temporary: 40 µs for 200,000 numbers, where isfinite
    # takes 410. If it is not, it may only have overflowed, so then every number is looked at.
    if floating and not cmath.isfinite(torch.stack([value.sum() for value in floating]).sum().item()):
        for value in floating:
            finite &= torch.isfinite(value).reshape(rows, -1).all(dim=1).cpu()
    return finite
