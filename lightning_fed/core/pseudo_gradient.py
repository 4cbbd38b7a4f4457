"""The interface between a round and Lightning's automatic optimization.

Automatic optimization calls ``backward()`` on a loss. :func:`pseudo_gradient` makes a loss whose *value* is the
cohort's mean loss and whose *gradient* is the aggregated update. Clipping, accumulation, schedulers, scalers and DDP
then treat a round like any other batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor


class _PseudoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Tensor, deltas: Sequence[Tensor], *parameters: Tensor) -> Tensor:
        ctx.deltas = deltas
        ctx.dtypes = [p.dtype for p in parameters]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *((gradient * d).to(dtype) for d, dtype in zip(ctx.deltas, ctx.dtypes, strict=True)))


def pseudo_gradient(loss: Tensor, parameters: Sequence[Tensor], deltas: Sequence[Tensor]) -> Tensor:
    """Make a loss with a given value and given gradients.

    Args:
        loss: The value; a scalar.
        parameters: The leaves that receive gradients.
        deltas: One gradient per parameter, of the same shape.

    Returns:
        A scalar that is equal to ``loss`` and whose ``backward()`` adds each delta to its parameter's ``grad``.

    >>> w = torch.zeros(2, requires_grad=True)
    >>> loss = pseudo_gradient(torch.tensor(0.5), [w], [torch.tensor([1.0, -2.0])])
    >>> loss.backward()
    >>> loss.item(), w.grad
    (0.5, tensor([ 1., -2.]))
    """
    return cast(Tensor, _PseudoGradient.apply(loss, deltas, *parameters))  # type: ignore[no-untyped-call]
