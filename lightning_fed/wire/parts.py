"""Parts of a run as plain data: the class of an algorithm, a transform or a promise, and its arguments.

Code never crosses. What a server sends is a name and plain arguments, and a node looks the name up among the classes
that are installed there and that it allows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from lightning_fed.core.shown import parameters_of
from lightning_fed.wire.errors import WireError

Description: TypeAlias = dict[str, Any]
"""A part: ``{"class": its name, "arguments": {name: plain value, list, or part}}``."""

_MAX_DEPTH = 5


def description_of(part: object) -> Description:
    """Describe a part by its class and the arguments of its constructor.

    Args:
        part: An object that keeps the arguments of its constructor as attributes of the same names, as a dataclass
            does, with or without an underscore before them. They are plain values, lists of such, or parts themselves.

    Raises:
        ValueError: If the arguments cannot be found, or one of them is no plain value.

    >>> from lightning_fed.algorithms import FedProx
    >>> description_of(FedProx(mu=0.1))
    {'class': 'FedProx', 'arguments': {'mu': 0.1}}
    """
    return _described(part, type(part).__name__, _MAX_DEPTH)


def part_from(description: object, known: Mapping[str, type]) -> Any:
    """Build a part from its description.

    Args:
        description: The description, not trusted: nothing but a known class is called.
        known: The classes that may be made, by name.

    Raises:
        WireError: If the class is not known, or its constructor refuses the arguments.

    >>> from lightning_fed.algorithms import FedProx
    >>> part_from({"class": "FedProx", "arguments": {"mu": 0.1}}, {"FedProx": FedProx})
    FedProx(mu=0.1)
    """
    return _made(description, known, _MAX_DEPTH)


def name_of_class(kind: type) -> str:
    """Return the name by which a class crosses: without its module for classes of lightning_fed, else with it.

    >>> from lightning_fed.algorithms import FedProx
    >>> name_of_class(FedProx), name_of_class(dict)
    ('FedProx', 'builtins.dict')
    """
    is_ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return kind.__qualname__ if is_ours else f"{kind.__module__}.{kind.__qualname__}"


def _described(part: object, path: str, depth: int) -> Description:
    kind = type(part)
    arguments = {}
    for parameter in parameters_of(kind):
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        own = vars(part) if hasattr(part, "__dict__") else {}
        name = parameter.name if parameter.name in own else f"_{parameter.name}"
        if name not in own:
            raise ValueError(
                f"{path} keeps no attribute {parameter.name!r}, so that the argument of its constructor cannot be sent "
                "to nodes; keep each argument under its own name, as a dataclass does"
            )
        arguments[parameter.name] = _value(own[name], f"{path}.{parameter.name}", depth)
    return {"class": name_of_class(kind), "arguments": arguments}


def _value(value: Any, path: str, depth: int) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    if depth and type(value) in (list, tuple):
        return [_value(each, path, depth - 1) for each in value]
    if depth and isinstance(value, Mapping) and all(type(key) is str for key in value):
        parts = {key: _value(each, f"{path}[{key!r}]", depth - 1) for key, each in value.items()}
        return {"class": name_of_class(dict), "arguments": parts}
    if depth and hasattr(value, "__dict__") and not callable(value):
        return _described(value, path, depth - 1)
    raise ValueError(
        f"{path}={value!r} cannot be sent to nodes: only numbers, strings, True, False, None, lists and "
        "mappings of them, and objects made of them, cross; take one of these"
    )


def _made(value: object, known: Mapping[str, type], depth: int) -> Any:
    if isinstance(value, list):
        return [_made(each, known, depth - 1) for each in value] if depth else _refuse_depth()
    if not isinstance(value, dict):
        return value
    if not depth:
        _refuse_depth()
    name, arguments = value.get("class"), value.get("arguments")
    if value.keys() != {"class", "arguments"} or not isinstance(name, str) or not isinstance(arguments, dict):
        raise WireError("a part of the run is described by its class and its arguments: send it again")
    if name not in known:
        raise WireError(
            f"there is no {name[:100]!r} at this node; install it there, and name it to the node: Node(parts=[...])"
        )
    made = {key: _made(each, known, depth - 1) for key, each in arguments.items()}
    try:
        return known[name](**made)
    except (TypeError, ValueError) as error:
        raise WireError(f"{name} cannot be made of the arguments that were sent: {error}") from error


def _refuse_depth() -> Any:
    raise WireError(f"a part of the run is nested more than {_MAX_DEPTH} deep: send it again")
