"""The attributes of a module in a message: values that code could hide in do not cross, and none changes its type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor

from lightning_fed.wire.container import Packed, crosses
from lightning_fed.wire.errors import WireError
from lightning_fed.wire.header import Numbers

_MAX_DEPTH = 100
_MAX_BITS = 4096


@final
class Attributes:
    """The attributes of a module as JSON, with fractions and tensors beside it.

    JSON's own values stand for None, bool, int, str and list; an object with one field says what else it is.

    Args:
        attributes: Values by path.

    Raises:
        TypeError: If one cannot cross.
    """

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self.numbers: list[float] = []
        self.tensors: list[Tensor] = []
        self.tree = {name: self._node(value, name, _MAX_DEPTH) for name, value in attributes.items()}

    def _node(self, value: Any, path: str, depth: int) -> object:
        # Exact types: of a namedtuple, an enum or an array's number only the value would arrive.
        kind = type(value)
        if value is None or kind in (bool, str) or (kind is int and value.bit_length() <= _MAX_BITS):
            return value
        if kind is float:
            self.numbers.append(value)
            return {"float": None}
        if kind is Tensor and crosses(value):
            self.tensors.append(value)
            return {"tensor": len(self.tensors) - 1}
        if depth and kind in (list, tuple):
            nodes = [self._node(each, f"{path}[{i}]", depth - 1) for i, each in enumerate(value)]
            return nodes if kind is list else {"tuple": nodes}
        if depth and kind is dict and all(type(key) is str for key in value):
            return {"dict": {key: self._node(each, f"{path}[{key!r}]", depth - 1) for key, each in value.items()}}
        raise TypeError(
            f"the attribute {path} is a {kind.__module__}.{kind.__qualname__} that cannot cross to a worker: make it "
            "None, a bool, int, float, str, a dense tensor, or a list, tuple or dict (with str keys) of them"
            f"{'' if depth else f', nested at most {_MAX_DEPTH} deep'}"
        )


def attributes_from(tree: object, packed: Packed, numbers: Numbers) -> dict[str, Any]:
    """The inverse of :class:`Attributes`."""

    def value(node: object, depth: int) -> Any:
        if node is None or isinstance(node, bool | int | str):
            return node
        if isinstance(node, dict) and len(node) == 1:
            ((tag, content),) = node.items()
            if tag == "float" and content is None:
                return numbers.next()
            if tag == "tensor" and type(content) is int:
                return packed.take(f"attributes/{content}")
            if tag == "tuple" and isinstance(content, list) and depth:
                return tuple(value(each, depth - 1) for each in content)
            if tag == "dict" and isinstance(content, dict) and depth:
                return {key: value(each, depth - 1) for key, each in content.items()}
        if isinstance(node, list) and depth:
            return [value(each, depth - 1) for each in node]
        raise WireError(
            "the header's field 'attributes' holds no value of ours: the message was altered, send it again"
        )

    if not isinstance(tree, dict):
        raise WireError("the header's field 'attributes' is no JSON object: the message was altered, send it again")
    return {name: value(node, _MAX_DEPTH) for name, node in tree.items()}
