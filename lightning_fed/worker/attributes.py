"""Attributes of a module that cross to workers: what the server's code has changed on it since the fit began.

The weight of a loss that is annealed, a dropout's ``p``, a BatchNorm's ``momentum``, a part that was put into
``eval()``: a worker's copy has them as the server's module has them now. Only plain values cross, tensors, and lists,
tuples and dicts of them; :meth:`Attributes.opaque` names what else was changed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_fed.worker.snapshot import FRAMEWORK, HOOKS

ABSENT = object()
"""In place of the value of an attribute that is not there."""

_PLAIN = (type(None), bool, int, float, str)


@final
class Attributes:
    """The attributes of a module at one moment.

    Args:
        module: The module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._places = _places(module)
        self._at_first = {path: copy.deepcopy(value) for path, value in self._plain()}
        self._opaque_at_first = dict(self._opaque())
        self.before: dict[str, Any] = {}
        """The result of :meth:`changed` when it was last asked."""

    def changed(self) -> dict[str, Any]:
        """Return the plain attributes that differ from what they were, by path; the same dict as long as they stay."""
        now = {
            path: value
            for path, value in self._plain()
            if path not in self._at_first or not _same(value, self._at_first[path])
        }
        if not _same(now, self.before):
            self.before = copy.deepcopy(now)
        return self.before

    def opaque(self) -> list[str]:
        """Return the paths of attributes that have been changed and cannot cross, such as hooks and objects."""
        now = dict(self._opaque())
        return [path for path, thing in now.items() if self._opaque_at_first.get(path) != thing]

    def _plain(self) -> Iterator[tuple[str, Any]]:
        for prefix, part in self._places:
            for key, value in vars(part).items():
                if key not in FRAMEWORK and (type(value) in _PLAIN or _is_plain(value)):
                    yield prefix + key, value

    def _opaque(self) -> Iterator[tuple[str, object]]:
        for prefix, part in self._places:
            for key, value in vars(part).items():
                if key in HOOKS:
                    yield prefix + key, tuple(map(id, value.values()))
                elif key not in FRAMEWORK and type(value) not in _PLAIN and not _is_plain(value):
                    yield prefix + key, id(value)


def set_attributes(module: nn.Module, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Set attributes of a module and its parts.

    Args:
        module: The module.
        attributes: The values by path; :data:`ABSENT` takes an attribute away.

    Returns:
        The values before, to be set by another call.

    Raises:
        ValueError: If the module has no such part.
    """
    before: dict[str, Any] = {}
    for path, value in attributes.items():
        prefix, _, key = path.rpartition(".")
        try:
            part = module.get_submodule(prefix)
        except AttributeError as error:
            raise ValueError(f"the server changed {path!r}, but the worker's module has no part {prefix!r}") from error
        before[path] = part.__dict__.get(key, ABSENT)
        if value is ABSENT:
            part.__dict__.pop(key, None)
        else:
            part.__dict__[key] = copy.deepcopy(value)
    return before


def _places(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts whose attributes are the user's, each with the beginning of their paths."""
    return [(f"{path}." if path else "", part) for path, part in module.named_modules() if not isinstance(part, Metric)]


def _is_plain(value: Any) -> bool:
    """Whether a value is made of plain values and tensors."""
    if isinstance(value, _PLAIN):
        return type(value) in _PLAIN
    if isinstance(value, Tensor):
        return not isinstance(value, nn.Parameter)
    if type(value) in (list, tuple):
        return all(_is_plain(item) for item in value)
    return type(value) is dict and all(type(key) is str and _is_plain(item) for key, item in value.items())


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal; NaN is equal to NaN."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    return bool(one == other or (one != one and other != other))
