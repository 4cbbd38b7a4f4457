"""A number that is computed at first use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_NO_NUMBER = torch.tensor(math.nan)  # the shared storage, which no operation uses


@final
class Later(Tensor):
    """A scalar tensor whose value is computed at first use, for values that are expensive and rarely read.

    All operations, including copies and pickles, use a plain tensor of its value.

    Args:
        compute: Computes the value; called at most once.

    >>> number = Later(lambda: 1.5)
    >>> float(number), number + 1
    (1.5, tensor(2.5000))
    """

    _compute: Callable[[], float]

    def __new__(cls, compute: Callable[[], float]) -> Later:
        placeholder: Later = torch.Tensor._make_subclass(cls, _NO_NUMBER)
        placeholder.__dict__["_compute"] = compute
        return placeholder

    def __init__(self, compute: Callable[[], float]) -> None:
        pass

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = pytree.tree_map_only(Later, Later._plain, (args, kwargs or {}))
        return func(*args, **kwargs)

    def _plain(self) -> Tensor:
        own = self.__dict__
        if "_value" not in own:
            own["_value"] = torch.tensor(own["_compute"]())
        value: Tensor = own["_value"]
        return value
