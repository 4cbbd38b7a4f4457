"""Arithmetic on tensors by name, and on stacks of workers.

The ``torch._foreach_*`` functions are those that torch's optimizers are made of: one call for all tensors, where
a loop over names pays Python's cost for each.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

Tensors: TypeAlias = dict[str, Tensor]
"""Tensors by name, as in ``named_parameters()``."""


def copy_(target: Tensors, source: Tensors) -> None:
    """Copy ``source`` into ``target`` in place, name by name."""
    if target:
        with torch.no_grad():
            torch._foreach_copy_(list(target.values()), [source[name] for name in target])


def add_weighted_(total: Tensor, weight: Tensor, stack: Tensor) -> None:
    """``total += Σᵢ wᵢ · stackᵢ`` in place.

    Args:
        total: ``[...]``; contiguous.
        weight: ``[n]``.
        stack: ``[n, ...]``.
    """
    if len(stack) == 1 and weight.device.type == "cpu":
        # As a product, a single update of 1.6 million numbers takes 470 µs in a round, and so 130.
        total.view(-1).add_(stack.reshape(-1).to(total.dtype), alpha=weight.item())
        return
    # A product of a matrix and a vector: of two matrices it would follow torch.set_float32_matmul_precision, by which a
    # user lets the model's own products be less exact.
    total.view(-1).addmv_(stack.reshape(len(stack), -1).to(total.dtype).t(), weight.to(total))


def finite_rows(stack: Tensor) -> Tensor:
    """Say for each of n stacked workers whether all of its numbers are finite.

    Args:
        stack: ``[n, ...]``; integers are finite.

    Returns:
        bool ``[n]``, on the CPU.
    """
    rows = stack.reshape(stack.shape[0], -1)
    if not (rows.is_floating_point() or rows.is_complex()):
        return torch.ones(len(rows), dtype=torch.bool)
    # A sum is finite only if all numbers are. One pass without a temporary: 10 µs for 200,000 numbers, where isfinite
    # takes 290. If it is not, it may only have overflowed, so then every number is looked at.
    finite = rows.sum(dim=1).isfinite().cpu()
    if not finite.all():
        suspects = (~finite).nonzero().flatten()
        finite[suspects] = torch.isfinite(rows[suspects.to(rows.device)]).all(dim=1).cpu()
    return finite
