"""Attributes of a module that cross to workers: what the server's code has changed on it since the fit began.

The weight of a loss that is annealed, a dropout's ``p``, a BatchNorm's ``momentum``, a part that was put into
``eval()``, a value of ``hparams`` or of a config object: a worker's copy has them as the server's module has them now.
Only plain values cross: numbers, texts, tensors, arrays, and lists, tuples and dicts of them.
:attr:`Attributes.opaque` names what else was changed.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection

from lightning_fed._lightning import pl
from lightning_fed.wire.attributes import ABSENT, is_plain
from lightning_fed.worker.snapshot import FRAMEWORK, HOOKS, Snapshot, is_compiled, is_computed

_Path: TypeAlias = tuple[str, ...]


@final
class Attributes:
    """The attributes of a module at one moment.

    Args:
        module: The module.
        outside: Objects to which it may refer, and which are not its own.
    """

    def __init__(self, module: nn.Module, outside: Iterable[object] = ()) -> None:
        self._module = module
        self._outside = tuple(outside)
        self._first, self._last = _Picture(module, self._outside), Snapshot(module, self._outside)
        self._changed: dict[str, Any] = {}
        self.opaque: list[str] = []
        """At the last call of :meth:`changed`: the paths of what has changed and cannot cross, such as functions."""

    def changed(self) -> dict[str, Any]:
        """Return the plain attributes that differ from what they were, by path; the same dict as long as they stay.

        An attribute that is not there any more is :data:`~lightning_fed.wire.attributes.ABSENT`.
        """
        if not self._last.is_unchanged():
            now = _Picture(self._module, self._outside)
            changed = {".".join(path): value for path, value in now.changed_since(self._first)}
            if not _same(changed, self._changed):
                self._changed = changed
            self.opaque = [".".join(path) for path in now.opaque_since(self._first)]
            self._last = Snapshot(self._module, self._outside)
        return self._changed


def set_attributes(module: nn.Module, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Set attributes of a module, its parts and its objects.

    Args:
        module: The module.
        attributes: The values by path; :data:`~lightning_fed.wire.attributes.ABSENT` takes an attribute away.

    Returns:
        The values before, to be set by another call.

    Raises:
        ValueError: If the module has no such part, or what lies there is none of its attributes: the server may be
            anyone, and from an attribute that is a function or a module of Python every object can be reached.
    """
    before: dict[str, Any] = {}
    for name, value in attributes.items():
        *path, key = name.split(".")
        try:
            thing = _at(module, path)
            _refuse_frameworks(thing, key)
            holder = _entries(thing)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(
                f"the server changed {name!r}, but the worker's module has no part {'.'.join(path)!r} with an "
                f"attribute {key!r} that it may set"
            ) from error
        new = copy.deepcopy(value) if is_plain(value) else value
        if isinstance(holder, list):
            before[name] = holder[int(key)]
            holder[int(key)] = new
            continue
        before[name] = holder.get(key, ABSENT)
        if value is ABSENT:
            holder.pop(key, None)
        else:
            holder[key] = new
    return before


class _Picture:
    """References of a module, by path: containers, whose entries are looked into; plain values; and the rest."""

    def __init__(self, module: nn.Module, outside: tuple[object, ...]) -> None:
        self._containers: dict[_Path, object] = {}  # what must stay for their entries to be set one by one
        self._plain: dict[_Path, Any] = {}
        self._rest: dict[_Path, object] = {}
        foreign, found = set(map(id, outside)), {id(module): module}
        pending: list[tuple[_Path, Any]] = [((), module)]
        while pending:
            path, container = pending.pop()
            self._containers[path] = (type(container), len(container) if type(container) is list else None)
            for key, value in _children(container):
                place = (*path, key)
                if id(value) in foreign:
                    continue
                if is_plain(value):
                    self._plain[place] = copy.deepcopy(value)
                elif _can_be_looked_into(value) and id(value) not in found:
                    found[id(value)] = value
                    pending.append((place, value))
                else:
                    self._rest[place] = value
        outside = tuple(found.values())
        self._snapshots = {
            path: Snapshot(value, outside) for path, value in self._rest.items() if type(value) is not _Hooks
        }

    def changed_since(self, first: _Picture) -> Iterator[tuple[_Path, Any]]:
        """Go through the plain values that differ, and what is gone."""
        for path, value in self._plain.items():
            if self._stands(path[:-1], first) and not (path in first._plain and _same(value, first._plain[path])):
                yield path, value
        yield from ((path, ABSENT) for path in self._gone_since(first) if not first._is_part(path))

    def opaque_since(self, first: _Picture) -> Iterator[_Path]:
        """Go through the paths of what cannot cross and differs."""
        for path, kind in self._containers.items():
            if first._containers.get(path) != kind and self._stands(path[:-1], first):
                yield path
        for path, thing in self._rest.items():
            snapshot = first._snapshots.get(path)
            is_same = _is(thing, first._rest.get(path, ABSENT)) and (snapshot is None or snapshot.is_unchanged())
            if not is_same and self._stands(path[:-1], first):
                yield path
        yield from (path for path in self._gone_since(first) if first._is_part(path))

    def _gone_since(self, first: _Picture) -> Iterator[_Path]:
        for path in (*first._containers, *first._plain, *first._rest):
            is_here = path in self._containers or path in self._plain or path in self._rest
            if not is_here and self._stands(path[:-1], first):
                yield path

    def _stands(self, path: _Path, first: _Picture) -> bool:
        """Whether a container is still of the same kind, and all that it lies in."""
        around = (path[:i] for i in range(len(path) + 1))
        return all(p in self._containers and self._containers[p] == first._containers.get(p) for p in around)

    def _is_part(self, path: _Path) -> bool:
        """Whether a module lies there: to take it away is more than to change an attribute."""
        kind: Any = self._containers.get(path)
        return kind is not None and issubclass(kind[0], nn.Module)


_ATOMS = (FunctionType, MethodType, ModuleType, type, partial, Enum, Tensor, Metric, MetricCollection, pl.Trainer)


def _can_be_looked_into(value: Any) -> bool:
    """Whether the entries of a value can be set one by one on the copy of a worker."""
    if isinstance(value, _ATOMS):
        return False
    if isinstance(value, dict):
        return all(type(key) is str and "." not in key for key in value)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return type(value) is list
    return isinstance(value, nn.Module) or type(getattr(value, "__dict__", None)) is dict


class _Hooks(tuple[Any, ...]):
    """The hooks of one kind of a module; they belong to whoever has put them there."""


def _is(one: object, other: object) -> bool:
    """Whether two are the same object, or tuples of the same ones."""
    if isinstance(one, tuple) and type(one) is type(other):
        return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
    return one is other


def _entries(container: Any) -> Any:
    """Return the container that holds the entries of something that can be looked into."""
    return container if isinstance(container, (dict, list)) else vars(container)


def _children(container: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(container, nn.Module):
        yield from container._modules.items()
        for key, value in vars(container).items() if not is_compiled(container) else ():
            if key in HOOKS:
                yield key, _Hooks(value.values())
            elif key not in FRAMEWORK and not is_computed(vars(container), key):
                yield key, value
    elif isinstance(container, list):
        yield from ((str(i), value) for i, value in enumerate(container))
    else:
        yield from list(_entries(container).items())


def _at(module: nn.Module, path: list[str]) -> Any:
    """Return the object at a path."""
    thing: Any = module
    for key in path:
        if isinstance(thing, nn.Module) and key in thing._modules:
            thing = thing._modules[key]
        else:
            _refuse_frameworks(thing, key)
            entries = _entries(thing)
            thing = entries[int(key) if isinstance(entries, list) else key]
        if not _can_be_looked_into(thing):
            raise ValueError(f"{key!r} is a {type(thing).__name__}, which is not looked into")
    return thing


def _refuse_frameworks(thing: object, key: str) -> None:
    """Refuse what torch and Lightning keep on a module, such as its parameters, its hooks and its Trainer."""
    if isinstance(thing, nn.Module) and (key in FRAMEWORK or key in HOOKS or key in thing._modules):
        raise ValueError(f"{key!r} is no attribute of the user's")


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal; NaN is equal to NaN."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (np.ndarray, np.generic)):
        equal_nan = one.dtype.kind in "fc"
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=equal_nan)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return bool(one == other or (one != one and other != other))
