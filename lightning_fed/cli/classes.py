"""The classes that an option may be given by name: those of its type in this package, torch and Lightning."""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Iterator

_OURS = "lightning_fed."
_PACKAGES = (_OURS, "torch.", "pytorch_lightning.", "lightning.")
_READABLE = 25


_ROOMS = ("datasets", "models", "callbacks", "aggregation", "transforms", "optim", "selection", "privacy", "secure")
"""The packages of ours in which all classes are that a config may name."""


def import_rooms() -> None:
    """Import every package that has classes for a config, so that each is found by its name alone."""
    for room in _ROOMS:
        importlib.import_module(f"{_OURS}{room}")


def classes_of(kind: object) -> dict[str, type]:
    """Return the classes for which a type stands.

    Args:
        kind: A class, or a type with classes in it: a union, a list, a callable that returns one.

    Returns:
        The concrete public subclasses that are imported by name, in the order of the names; not those of the user's.
    """
    found = {name: each for base in _bases(kind) for each in _subclasses(base) for name in _public_names(each)}
    return dict(sorted(found.items()))


def names_of(kind: object) -> list[str]:
    """Return the names of the classes for which a type stands, unless they are too many to be read."""
    names = list(classes_of(kind))
    return names if len(names) <= _READABLE else []


def path_of(kind: type) -> str:
    """Return the shortest path by which a class is imported; empty if it is within a function or another class.

    >>> import torch
    >>> path_of(torch.optim.Adam)
    'torch.optim.Adam'
    """
    parts = kind.__module__.split(".")
    modules = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
    homes = [module for module in modules if vars(sys.modules[module]).get(kind.__name__) is kind]
    return f"{homes[0]}.{kind.__name__}" if homes else ""


def _bases(kind: object) -> Iterator[type]:
    inner = typing.get_args(kind)
    if isinstance(kind, type) and not inner:
        if kind.__module__.startswith(_PACKAGES):
            yield kind
    else:
        for each in inner:
            yield from _bases(each)


def _subclasses(kind: type) -> Iterator[type]:
    """Yield all subclasses, at any depth; if there are none, the class itself."""
    below: list[type] = kind.__subclasses__()
    if not below:
        yield kind
    for each in below:
        if each.__subclasses__() and not inspect.isabstract(each):
            yield each
        yield from _subclasses(each)


def _public_names(kind: type) -> list[str]:
    """The names under which a class is offered: of ours, those in an ``__all__`` of a room."""
    module = kind.__module__
    if inspect.isabstract(kind) or not module.startswith(_PACKAGES):
        return []
    if module.startswith(_OURS):
        rooms = [room for path, room in sys.modules.items() if path.startswith(_OURS) and "testing" not in path]
        return [name for room in rooms for name in vars(room).get("__all__", ()) if vars(room).get(name) is kind]
    path = path_of(kind)
    return [kind.__name__] if path and "._" not in path else []
