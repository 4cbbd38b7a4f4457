"""Arithmetic on tensors by name, and on stacks of workers.

The ``torch._foreach_*`` functions, which torch's optimizers use, process all tensors in one call, which is faster than
a loop over names.
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
        # For a single update this is faster than a matrix product.
        total.view(-1).add_(stack.reshape(-1).to(total.dtype), alpha=weight.item())
        return
    # A matrix-vector product: a product of two matrices would follow torch.set_float32_matmul_precision, with which a
    # user may lower the precision of the model's own products.
    total.view(-1).addmv_(stack.reshape(len(stack), -1).to(total.dtype).t(), weight.to(total))


def finite_rows(stack: Tensor) -> Tensor:
    """Return for each of n stacked workers whether all of its numbers are finite.

    Args:
        stack: ``[n, ...]``; integers are finite.

    Returns:
        bool ``[n]``, on the CPU.
    """
    rows = stack.reshape(stack.shape[0], -1)
    if not (rows.is_floating_point() or rows.is_complex()):
        return torch.ones(len(rows), dtype=torch.bool)
    # A finite sum implies finite numbers, in one pass without a temporary, which is faster than isfinite. An infinite
    # sum may only have overflowed, so every number is checked then.
    finite = rows.sum(dim=1).isfinite().cpu()
    if not finite.all():
        suspects = (~finite).nonzero().flatten()
        finite[suspects] = torch.isfinite(rows[suspects.to(rows.device)]).all(dim=1).cpu()
    return finite
