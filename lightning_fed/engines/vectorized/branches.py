"""Control flow by data, in a step of n workers.

Under ``torch.vmap`` a tensor has no value, so ``if mask.all():`` is an error. Below vmap there is one for each worker,
and mostly all are alike: a batch has padding, a loss is finite. Then that is the tensor's value. Where they differ, the
step is taken anew by those that go one way, and by those that go the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.overrides import TorchFunctionMode

from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized.vmap import rows_of


@final
class WaysPartError(Exception):
    """Workers of a step go different ways.

    Args:
        rows: The rows that go each way.
    """

    def __init__(self, rows: list[list[int]]) -> None:
        super().__init__("workers go different ways through training_step")
        self.rows = rows


@final
class Branches(TorchFunctionMode):
    """Context in which a tensor that stands for one worker's has a value, if it is the same for all n workers.

    Raises:
        WaysPartError: If it decides something, and decides otherwise for some workers.
        UnvectorizableError: If it is a number, and not the same one for all.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _READS and args and isinstance(args[0], Tensor):
            with temporarily_clear_interpreter_stack():  # or torch 2.4 would give rows without values
                rows = rows_of(args[0])
                if rows is not None and (rows[0].numel() == 1 or func is Tensor.tolist):
                    return _common(func, rows)
        return func(*args, **(kwargs or {}))


_DECISIONS = (Tensor.__bool__, Tensor.is_nonzero, torch.is_nonzero)
_READS = frozenset((*_DECISIONS, Tensor.item, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.tolist))


def _common(func: Callable[..., Any], rows: Tensor) -> Any:
    """Return what a function returns for each of some rows; ``[n, ...]``."""
    if func in _DECISIONS:
        ways = (rows != 0).flatten().tolist()
        if any(ways) and not all(ways):
            raise WaysPartError([[i for i, way in enumerate(ways) if way is one] for one in (True, False)])
        return ways[0]
    # By their texts: NaN is itself there.
    if len({repr(value) for value in rows.tolist()}) > 1:
        raise UnvectorizableError(
            f"training_step reads a number out of a tensor, by {func.__name__}(), that is not the same for all workers",
            only_together=True,
        )
    return func(rows[0])
