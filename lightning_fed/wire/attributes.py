"""The attributes of a module in a message: values that could contain code do not cross, and types are preserved."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from lightning_fed.wire.container import Packed, crosses
from lightning_fed.wire.errors import WireError
from lightning_fed.wire.header import Numbers

_MAX_DEPTH = 100
_MAX_BITS = 4096
_JSON: TypeAlias = "bool | int | str | list[Any] | dict[str, Any] | None"


class Absent(Enum):
    """The type of :data:`ABSENT`."""

    ABSENT = 0


ABSENT: Final = Absent.ABSENT
"""In place of the value of an attribute that has been taken away."""


@final
class Attributes:
    """The attributes of a module as JSON, with fractions and tensors beside it.

    JSON's own values stand for None, bool, int, str and list; an object with one field names any other type.

    Args:
        attributes: Values by path; :data:`ABSENT` for a removed attribute.

    Raises:
        TypeError: If a value cannot cross.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.numbers: list[float] = []
        self.tensors: list[Tensor] = []
        self.tree = {
            name: {"absent": None} if value is ABSENT else self._node(value, name, _MAX_DEPTH)
            for name, value in attributes.items()
        }

    def _node(self, value: Any, path: str, depth: int) -> _JSON:
        # Exact types: of a namedtuple or an enum only the value would arrive.
        kind = type(value)
        if value is None or kind in (bool, str) or (kind is int and value.bit_length() <= _MAX_BITS):
            return value  # type: ignore[no-any-return]
        if kind in (float, complex):
            self.numbers += [value] if kind is float else [value.real, value.imag]
            return {kind.__name__: None}
        if kind is Tensor and crosses(value) and not value.requires_grad:
            return {"tensor": self._added(value)}
        if (kind is np.ndarray or isinstance(value, np.generic)) and (array := _as_tensor(value)) is not None:
            return {"array" if kind is np.ndarray else "scalar": self._added(array)}
        if depth and kind in (list, tuple):
            nodes = [self._node(each, f"{path}[{i}]", depth - 1) for i, each in enumerate(value)]
            return nodes if kind is list else {"tuple": nodes}
        if depth and kind is dict and all(type(key) is str for key in value):
            return {"dict": {key: self._node(each, f"{path}[{key!r}]", depth - 1) for key, each in value.items()}}
        raise TypeError(
            f"the attribute {path} is a {kind.__module__}.{kind.__qualname__} that cannot cross to a worker: make it "
            "None, a bool, int, float, complex, str, a dense tensor without gradients, a NumPy array of numbers, or a "
            f"list, tuple or dict (with str keys) of them{'' if depth else f', nested at most {_MAX_DEPTH} deep'}"
        )

    def _added(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1


def is_plain(value: object) -> bool:
    """Whether a value can cross as an attribute.

    >>> is_plain({"beta": [0.5, torch.zeros(2)]}), is_plain(print)
    (True, False)
    """
    if value is None or type(value) in (bool, str, float):
        return True
    try:
        Attributes({"": value})
    except TypeError:
        return False
    return value is not ABSENT


def attributes_from(tree: object, packed: Packed, numbers: Numbers, device: torch.device) -> dict[str, Any]:
    """The inverse of :class:`Attributes`; the tensors are on a device."""

    def value(node: object, depth: int) -> Any:
        if node is None or isinstance(node, bool | int | str):
            return node
        if isinstance(node, dict) and len(node) == 1:
            ((tag, content),) = node.items()
            if tag == "float" and content is None:
                return numbers.next()
            if tag == "complex" and content is None:
                return complex(numbers.next(), numbers.next())
            if tag in ("tensor", "array", "scalar") and type(content) is int:
                tensor = packed.take(f"attributes/{content}")
                return tensor.to(device) if tag == "tensor" else _as_array(tensor, scalar=tag == "scalar")
            if tag == "tuple" and isinstance(content, list) and depth:
                return tuple(value(each, depth - 1) for each in content)
            if tag == "dict" and isinstance(content, dict) and depth:
                return {key: value(each, depth - 1) for key, each in content.items()}
        if isinstance(node, list) and depth:
            return [value(each, depth - 1) for each in node]
        raise _altered("holds no value of ours")

    if not isinstance(tree, dict):
        raise _altered("is no JSON object")
    return {name: ABSENT if node == {"absent": None} else value(node, _MAX_DEPTH) for name, node in tree.items()}


def _as_tensor(value: np.ndarray[Any, Any] | np.generic) -> Tensor | None:
    """The numbers of an array as a tensor; None if torch has no such numbers (texts, dates, objects, other bytes)."""
    try:
        tensor = torch.from_numpy(np.array(value, order="C"))
    except (TypeError, ValueError):
        return None
    return tensor if crosses(tensor) else None


def _as_array(tensor: Tensor, scalar: bool) -> Any:
    try:
        array = tensor.numpy()
    except TypeError as error:  # NumPy has no bfloat16
        raise _altered("holds no value of ours") from error
    if scalar and array.ndim:
        raise _altered("holds no value of ours")
    return array[()] if scalar else array


def _altered(what: str) -> WireError:
    return WireError(f"the header's field 'attributes' {what}: the message was altered, send it again")
