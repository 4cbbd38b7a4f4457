"""State of a worker's schedulers, and settings such as learning rates, as JSON: only what differs from fresh ones.

So functions, and all else in their state that does not change, need no bytes.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_DIGITS = 32
"""As many characters as a number may grow by."""


OTHERS = (
    "local_schedule='continue': what is kept of the workers is of other schedulers or optimizers than "
    "configure_optimizers() returns; go on with those of the run before, or with local_schedule='restart'"
)


def settings_of(optimizers: Sequence[Optimizer], schedulers: Sequence[Any]) -> dict[str, Any]:
    """Return the settings of optimizers and the states of schedulers, as they are now, whatever is done to them later.

    Args:
        optimizers: The optimizers.
        schedulers: Their schedulers.
    """
    groups = [
        [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
        for optimizer in optimizers
    ]
    return _copied({"groups": groups, "schedulers": [scheduler.state_dict() for scheduler in schedulers]})  # type: ignore[no-any-return]


def room_for(fresh: dict[str, Any]) -> int:
    """Return how many bytes what differs from fresh settings may take as JSON.

    Args:
        fresh: The result of :func:`settings_of`.
    """

    def of(value: Any) -> int:
        if isinstance(value, dict):
            return sum(len(str(key)) + _DIGITS + of(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return sum(_DIGITS + of(item) for item in value)
        return _DIGITS + (len(value) if isinstance(value, str) else 0)

    return 256 + of(fresh)


def changes_of(fresh: Any, now: Any) -> dict[str, Any]:
    """Return what of a tree of dicts and lists is not as it was, by key or place; a leaf stands under the key ``"="``.

    Args:
        fresh: The tree as it was.
        now: The tree as it is.

    Raises:
        ValueError: If something has changed to what JSON cannot hold.
    """
    keys = _keys(fresh)
    if keys is not None and keys == _keys(now):
        both = {str(key): changes_of(fresh[key], now[key]) for key in keys}
        return {key: change for key, change in both.items() if change}
    value = now.item() if isinstance(now, Tensor) and now.numel() == 1 else now
    if fresh is now or (fresh.equal(now) if isinstance(fresh, Tensor) and isinstance(now, Tensor) else fresh == now):
        return {}
    plain = list(value) if isinstance(value, tuple) else value
    try:
        readable = json.loads(json.dumps(plain))
    except (TypeError, ValueError):
        readable = None
    if readable != plain and plain == plain:  # a NaN is not equal to itself
        raise ValueError(
            f"local_schedule='continue': a scheduler or optimizer remembers a {type(now).__name__}, which cannot be "
            "kept; take local_schedule='restart', or one that remembers numbers only"
        )
    return {"=": plain}


def changed(fresh: Any, changes: dict[str, Any]) -> Any:
    """Return a tree with what has changed in it, no part of the other: the inverse of :func:`changes_of`.

    Args:
        fresh: The tree as it was.
        changes: The result of :func:`changes_of`.

    Raises:
        ValueError: If something has changed that is not in the tree.
    """
    if "=" in changes:
        value = changes["="]
        if isinstance(fresh, Tensor):
            return torch.full_like(fresh, value)
        return tuple(value) if isinstance(fresh, tuple) else value
    keys = _keys(fresh)
    if keys is None or not changes:
        return _copied(fresh)
    if set(changes) - {str(key) for key in keys}:
        raise ValueError(OTHERS)
    items = {key: changed(fresh[key], changes.get(str(key), {})) for key in keys}
    return items if isinstance(fresh, dict) else type(fresh)(items.values())


def _copied(value: Any) -> Any:
    """Copy all that schedulers change in place: their lists, dicts and tensors, such as a learning rate that is one."""
    if isinstance(value, dict):
        like = copy.copy(value)  # a Counter, for instance
        for key, item in value.items():
            like[key] = _copied(item)
        return like
    if type(value) in (list, tuple):
        return type(value)(_copied(item) for item in value)
    if isinstance(value, Tensor):
        return value.clone()
    return copy.copy(value) if isinstance(value, (set, deque)) else value


def _keys(value: Any) -> list[Any] | None:
    if isinstance(value, dict):
        return list(value)
    return list(range(len(value))) if type(value) in (list, tuple) else None
