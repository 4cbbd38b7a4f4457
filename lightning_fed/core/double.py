"""Arithmetic on stacks of workers in float64, a block of columns at a time: exact, and the memory of one block."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# A block stays in a processor's cache; an accelerator needs more numbers at once.
_ON_CPU, _ELSEWHERE = 2**17, 2**24


def blocks(rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield float64 copies of blocks of columns, with their positions.

    Args:
        rows: ``[n, m]``.
    """
    numbers = _ON_CPU if rows.device.type == "cpu" else _ELSEWHERE
    width = max(numbers // max(len(rows), 1), 1)
    for first in range(0, rows.shape[1], width):
        columns = slice(first, first + width)
        yield columns, rows[:, columns].to(torch.float64, copy=True)


def row_norms(rows: Tensor) -> Tensor:
    """Return the L2 norm of each row, to ten digits for any dtype, length and magnitude.

    In float32, a sum of ten million squares is up to 2 % too small, and squares overflow from 10¹⁹ on.

    Args:
        rows: ``[n, m]``.

    Returns:
        float64 ``[n]``, on the rows' device; not finite where a number is not.

    >>> row_norms(torch.tensor([[3e30, 4e30], [0.0, 0.0]]))
    tensor([5.0000e+30, 0.0000e+00], dtype=torch.float64)
    """
    norms = _norms(rows)
    if rows.dtype == torch.float64 and not bool(((norms > 1e-140) & (norms < 1e150)).all()):
        # Squares of float64 numbers have overflowed or underflowed; squares of narrower numbers cannot.
        largest = rows.abs().amax(dim=1) if rows.shape[1] else norms
        safe = torch.where(largest > 0, largest, 1.0)
        norms = _norms(rows / safe.unsqueeze(1)) * safe
    return norms


def _norms(rows: Tensor) -> Tensor:
    parts = [torch.linalg.vector_norm(block, dim=1) for _, block in blocks(rows)]
    if not parts:
        return torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norms


def scaled_rows(rows: Tensor, scales: Tensor) -> Tensor:
    """Return ``scaleᵢ · rowᵢ`` in the rows' dtype, rounded towards zero: no norm exceeds that of the exact product.

    Rounding to the nearest number may lengthen a vector: by 2⁻⁹ of its length in bfloat16, and by any factor if the
    products are subnormal.

    Args:
        rows: ``[n, m]``.
        scales: float64 ``[n]``.

    >>> scaled_rows(torch.tensor([[3.0, -4.0]]), torch.tensor([0.5], dtype=torch.float64))
    tensor([[ 1.5000, -2.0000]])
    """
    scaled = torch.empty_like(rows)
    by = scales.to(rows.device).unsqueeze(1)
    for columns, block in blocks(rows):
        exact = block.mul_(by)
        nearest = exact.to(rows.dtype)
        beyond = nearest.to(torch.float64).abs() > exact.abs()
        scaled[:, columns] = torch.where(beyond, torch.nextafter(nearest, torch.zeros_like(nearest)), nearest)
    return scaled
