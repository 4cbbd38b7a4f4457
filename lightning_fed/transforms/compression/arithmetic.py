"""Arithmetic whose last bit depends on the numbers alone, and on no device, number of rows or thread."""

from __future__ import annotations

import torch
from torch import Tensor

_TOGETHER = 2**18
"""How many numbers are transformed at a time: twice as many lie in a processor's cache."""


def hadamard(rows: Tensor) -> Tensor:
    """Return the Walsh–Hadamard transforms of rows: sums and differences only, in a fixed order.

    Not a product with a matrix: that adds in an order of the library's own, and is no faster.

    Args:
        rows: ``[m, p]``, p a power of two.

    Returns:
        ``[m, p]``; ``√p`` times as long as the rows. Twice transformed, a row is p times itself.

    >>> hadamard(torch.tensor([[3.0, 1.0, 0.0, 0.0]]))
    tensor([[4., 2., 4., 2.]])
    """
    p = rows.shape[1]
    high = 1 << (p.bit_length() // 2)  # a row is seen as a square, or half of one, so that what is added lies in a row
    low = p // high
    out = torch.empty_like(rows)
    together = max(_TOGETHER // p, 1)
    for some, to in zip(torch.split(rows, together), torch.split(out, together), strict=True):
        first = _along_columns(some.reshape(-1, high, low))
        second = _along_columns(first.transpose(1, 2).contiguous())
        to.view(-1, high, low).copy_(second.transpose(1, 2))
    return out


def _along_columns(squares: Tensor) -> Tensor:
    """Transform the columns of matrices ``[m, p, w]``."""
    m, p, w = squares.shape
    here, there, half = squares, torch.empty_like(squares), p // 2
    spare = torch.empty_like(squares) if p > 2 else there
    while half:
        pairs, sums = here.view(m, p // (2 * half), 2, half * w), there.view(m, p // (2 * half), 2, half * w)
        torch.add(pairs[:, :, 0], pairs[:, :, 1], out=sums[:, :, 0])
        torch.sub(pairs[:, :, 0], pairs[:, :, 1], out=sums[:, :, 1])
        here, there = there, spare if here is squares else here
        half //= 2
    return here


def row_sums(rows: Tensor) -> Tensor:
    """Return the sums over the last dimension, in halves: the order of additions is that of a tree.

    Args:
        rows: ``[..., m]``, m at least 1.

    >>> row_sums(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([6.])
    """
    width = rows.shape[-1]
    while width > 1:
        half = (width + 1) // 2
        sums = rows[..., :half].clone()
        sums[..., : width - half] += rows[..., half:]
        rows, width = sums, half
    return rows[..., 0]
