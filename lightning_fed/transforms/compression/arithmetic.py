"""Arithmetic that is exact to the last bit on every device, for any number of rows and threads."""

from __future__ import annotations

import torch
from torch import Tensor


def hadamard(rows: Tensor) -> Tensor:
    """Return the Walsh–Hadamard transforms of rows: sums and differences only, in a fixed order.

    A matrix product would add in an order that the library chooses, and is not faster.

    Args:
        rows: ``[m, p]``, p a power of two.

    Returns:
        ``[m, p]``; ``√p`` times as long as the rows. Transforming twice multiplies a row by p.

    >>> hadamard(torch.tensor([[3.0, 1.0, 0.0, 0.0]]))
    tensor([[4., 2., 4., 2.]])
    """
    m, p = rows.shape
    high = 1 << (p.bit_length() // 2)  # a row is viewed as a matrix, so additions run over long contiguous pieces
    columns = _along_columns(rows.reshape(m, high, p // high))
    both = _along_columns(columns.transpose(1, 2).contiguous())
    return both.transpose(1, 2).reshape(m, p)


def _along_columns(matrices: Tensor) -> Tensor:
    """Transform the columns of matrices ``[m, p, w]``."""
    m, p, w = matrices.shape
    here, there, spare, half = matrices, torch.empty_like(matrices), torch.empty_like(matrices), p // 2
    while half:
        shape = m, p // (2 * half), 2, half * w
        (one, other), (sums, differences) = here.view(shape).unbind(2), there.view(shape).unbind(2)
        torch.add(one, other, out=sums)
        torch.sub(one, other, out=differences)
        here, there, half = there, spare if here is matrices else here, half // 2
    return here


def row_sums(rows: Tensor) -> Tensor:
    """Return the sums over the last dimension, added pairwise in the order of a binary tree.

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
