"""States of torchmetrics objects that leave workers, and their merge over workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors

States: TypeAlias = "Mapping[str, Tensors]"
"""``{"sum" | "min" | "max": {name: tensor}}``: each state under the operation by which it merges."""

MERGE: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "sum": torch.add,
    "min": torch.minimum,
    "max": torch.maximum,
}
"""How two states become one."""


def neutral(kind: str, like: Tensor) -> Tensor:
    """Return the neutral state: merged with another state, it leaves that one as it is.

    Args:
        kind: The operation by which it merges.
        like: A state of its shape and dtype.

    >>> neutral("sum", torch.ones(1)), neutral("max", torch.ones(1)), neutral("min", torch.ones(1, dtype=torch.uint8))
    (tensor([0.]), tensor([-inf]), tensor([255], dtype=torch.uint8))
    """
    if kind == "sum":
        return torch.zeros_like(like)
    if like.dtype == torch.bool:
        return torch.full_like(like, kind == "min")
    if like.is_floating_point():
        return torch.full_like(like, math.inf if kind == "min" else -math.inf)
    limits = torch.iinfo(like.dtype)
    return torch.full_like(like, limits.max if kind == "min" else limits.min)


def merged_rows(states: States) -> States:
    """Merge the states of n workers. Float states are summed in float64: the order of workers hardly matters.

    Args:
        states: ``[n, ...]`` each.

    >>> merged_rows({"sum": {"total": torch.tensor([1, 2])}, "max": {"most": torch.tensor([1, 2])}})
    {'sum': {'total': tensor(3)}, 'max': {'most': tensor(2)}}
    """
    return {kind: {name: _over_rows(kind, rows) for name, rows in own.items()} for kind, own in states.items()}


def merged_states(states: States, others: States) -> States:
    """Merge two sets of states; a state that only one of them has stays as it is.

    Args:
        states: Some.
        others: Some more.
    """
    table = {kind: dict(own) for kind, own in states.items()}
    for kind, theirs in others.items():
        own = table.setdefault(kind, {})
        for name, tensor in theirs.items():
            own[name] = MERGE[kind](own[name], tensor) if name in own else tensor
    return table


def _over_rows(kind: str, rows: Tensor) -> Tensor:
    if kind == "sum":
        return rows.sum(dim=0, dtype=torch.float64 if rows.is_floating_point() else None)
    return rows.amin(dim=0) if kind == "min" else rows.amax(dim=0)
