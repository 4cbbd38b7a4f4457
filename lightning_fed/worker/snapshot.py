"""All that Python code can change on a module besides its tensors, taken down and set back.

A worker's training may set attributes of the module and its parts, append to lists, register hooks, or draw from a
generator that the module keeps. None of that may reach the next worker. The objects that a module consists of are found
once; to look whether one has changed is then a comparison of a dict with a shallow copy of it. Globals and attributes
of classes are the program's and not the module's: they are left alone.
"""

from __future__ import annotations

import copy
import random
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric, MetricCollection

from lightning_fed._lightning import pl

FRAMEWORK = (frozenset(vars(nn.Module())) | frozenset(vars(pl.LightningModule()))) - {"training"}
"""The attributes that torch and Lightning themselves keep on a module."""

HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
"""The attributes in which a module keeps the hooks that are registered on it."""

_Path: TypeAlias = tuple[str, ...]


def is_computed(attributes: Mapping[str, Any], name: str) -> bool:
    """Whether an attribute of a module is computed anew in every pass, from parameters that are named after it.

    So do ``torch.nn.utils.weight_norm``, ``spectral_norm`` and ``prune`` keep a layer's ``weight``: a hook that runs
    before the layer computes it from ``weight_g`` and ``weight_v``, or ``weight_orig``.

    Args:
        attributes: The ``vars`` of the module.
        name: The attribute's name.
    """
    return (
        isinstance(attributes[name], Tensor)
        and bool(attributes.get("_forward_pre_hooks"))
        and any(parameter.startswith(f"{name}_") for parameter in attributes.get("_parameters", ()))
    )


@final
class Snapshot:
    """Contents of a module's objects at one moment; without parameters and buffers, which are set back elsewhere.

    Of torchmetrics objects the states are left out: they are reset.

    Args:
        module: The module; or another object.
        outside: Objects to which it may refer, and which are not its own.
    """

    def __init__(self, module: object, outside: tuple[object, ...] = ()) -> None:
        parts = module.modules() if isinstance(module, nn.Module) else ()
        tensors = (t for part in parts for own in (part._parameters, part._buffers) for t in own.values())
        seen = {*map(id, outside), *map(id, tensors)}
        pending: list[tuple[_Path, Any]] = [((), module)]
        self._paths: list[_Path] = []
        self._containers: list[Any] = []
        self._copies: list[Any] = []  # of these
        self._others: list[tuple[_Path, Any, Any, _Kind]] = []
        self._alive: list[Any] = []  # so that no id is given twice
        while pending:
            path, thing = pending.pop()
            if id(thing) in seen or isinstance(thing, (*_ATOMS, pl.Trainer)):
                continue
            seen.add(id(thing))
            self._alive.append(thing)
            kind = next((kind for kind in _KINDS if isinstance(thing, kind.type)), None)
            if kind is not None:
                self._others.append((path, thing, kind.save(thing), kind))
            else:
                container = thing if isinstance(thing, _CONTAINERS) else getattr(thing, "__dict__", None)
                if isinstance(thing, MetricCollection):  # it sorts its metrics into groups as it is first updated
                    pass
                elif isinstance(container, _CONTAINERS):
                    self._paths.append(path)
                    self._containers.append(container)
                    self._copies.append(copy.copy(container))
                elif slots := _slots_of(thing):
                    self._others.append((path, thing, slots, _WITH_SLOTS))
            pending.extend(parts_of(path, thing))

    def is_unchanged(self) -> bool:
        """Whether nothing has changed since."""
        try:
            # One comparison of lists: values that are the same objects are not looked into, and most are.
            if self._containers != self._copies:
                return False
        except Exception:  # a tensor or an array was put in the place of another, and they cannot be compared as truth
            return False
        return all(kind.same(thing, before) for _, thing, before, kind in self._others)

    def changed(self) -> list[str]:
        """Return the paths of the attributes that have changed since, such as ``"net.dropout.p"``."""
        names: dict[str, None] = {}
        for path, container, before in zip(self._paths, self._containers, self._copies, strict=True):
            if isinstance(container, dict):
                keys = [
                    k for k in {**before, **container} if not _same(container.get(k, _NOTHING), before.get(k, _NOTHING))
                ]
                kept = [k for k in keys if k not in FRAMEWORK and not (k in container and is_computed(container, k))]
                names.update(dict.fromkeys(".".join((*path, _named(key))) for key in kept))
            elif not _same(container, before):
                names[".".join(path)] = None
        for path, thing, before, kind in self._others:
            if not kind.same(thing, before):
                names[".".join(path)] = None
        return list(names)

    def set_back(self) -> None:
        """Make every object what it was."""
        for container, before in zip(self._containers, self._copies, strict=True):
            if not _same(container, before):
                container.clear()
                (container.extend if isinstance(container, (list, deque)) else container.update)(before)
        for _, thing, before, kind in self._others:
            if not kind.same(thing, before):
                kind.set_back(thing, before)


def _is_dunder(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


def metrics_in(module: nn.Module) -> list[Metric | MetricCollection]:
    """Return all torchmetrics objects of a module, also those in its lists, dicts and other objects.

    Args:
        module: The module.
    """
    found: dict[int, Metric | MetricCollection] = {}  # not by ==, which makes another metric of two
    pending: list[tuple[_Path, Any]] = [((), module)]
    seen: set[int] = set()
    while pending:
        path, thing = pending.pop()
        if id(thing) in seen or isinstance(thing, (*_ATOMS, Tensor, pl.Trainer)):
            continue
        seen.add(id(thing))
        if isinstance(thing, (Metric, MetricCollection)):
            found.update((id(m), m) for m in thing.modules() if isinstance(m, (Metric, MetricCollection)))
        else:
            pending.extend(parts_of(path, thing))
    return list(found.values())


def is_compiled(part: nn.Module) -> bool:
    """Whether a layer is the wrapper that ``torch.compile`` makes of another one.

    Args:
        part: The layer.
    """
    return "_orig_mod" in part._modules


def parts_of(path: _Path, thing: Any) -> Iterator[tuple[_Path, Any]]:
    """Go through the objects that an object refers to, each with its path.

    Args:
        path: The path of the object.
        thing: The object. Of functions what they close over is left out.
    """
    if isinstance(thing, dict):
        yield from (((*path, _named(key)), value) for key, value in thing.items())
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        yield from ((path, value) for value in thing)
    elif isinstance(thing, partial):
        yield from ((path, value) for value in (thing.func, thing.args, thing.keywords))
    elif isinstance(thing, MethodType):
        yield path, thing.__self__
    elif isinstance(thing, (Metric, MetricCollection)):
        yield from ((path, part) for part in thing.modules() if part is not thing)
    elif isinstance(thing, nn.Module):
        for key, value in {"_modules": thing._modules}.items() if is_compiled(thing) else vars(thing).items():
            if key == "_modules":
                yield (*path, key), value
                yield from (((*path, name), part) for name, part in value.items())
            elif key in FRAMEWORK and key not in HOOKS and key not in ("_parameters", "_non_persistent_buffers_set"):
                continue
            elif not is_computed(vars(thing), key):
                yield (*path, key), value
    elif hasattr(thing, "__dict__"):
        yield from (((*path, key), value) for key, value in vars(thing).items())
    else:
        yield from (((*path, key), value) for key, value in _slots_of(thing).items())


def _named(key: Any) -> str:
    """The name of a key in a path: of a tensor, by which optimizers keep their state, no numbers."""
    return str(key) if isinstance(key, (str, int, float, tuple)) else type(key).__name__


def _slots_of(thing: Any) -> dict[str, Any]:
    """The values of an object that keeps them in slots."""
    names = (name for kind in type(thing).__mro__ for name in _as_tuple(vars(kind).get("__slots__", ())))
    return {name: getattr(thing, name) for name in names if not _is_dunder(name) and hasattr(thing, name)}


def _as_tuple(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _set_slots(thing: Any, before: dict[str, Any]) -> None:
    for name in _slots_of(thing).keys() - before.keys():
        delattr(thing, name)
    for name, value in before.items():
        setattr(thing, name, value)


def _settings_of(metric: Metric) -> dict[str, Any]:
    """The attributes of a torchmetrics object besides its states."""
    return {k: v for k, v in vars(metric).items() if k not in metric._defaults and k not in _METRICS_OWN}


def _set_settings(metric: Metric, before: dict[str, Any]) -> None:
    for name in _settings_of(metric).keys() - before.keys():
        del metric.__dict__[name]
    metric.__dict__.update(before)


_METRICS_OWN = frozenset(vars(MeanMetric()))


@final
class _Kind:
    """Functions by which objects of a type are taken down, compared and set back."""

    def __init__(
        self,
        type: Any,
        save: Callable[[Any], Any],
        set_back: Callable[[Any, Any], object],
        same: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        self.type = type
        self.save = save
        self.set_back = set_back
        self.same = same or (lambda thing, before: _same(save(thing), before))


def _set_tensor(thing: Tensor, before: Tensor) -> None:
    with torch.no_grad():
        thing.data = before.clone()


def _set_array(thing: Any, before: Any) -> None:
    thing[...] = before


_KINDS = (
    _Kind(
        Tensor,
        lambda t: t.detach().clone(),
        _set_tensor,
        lambda t, before: t.shape == before.shape and t.dtype == before.dtype and torch.equal(t.detach(), before),
    ),
    _Kind(
        np.ndarray, np.copy, _set_array, lambda a, before: a.shape == before.shape and bool(np.array_equal(a, before))
    ),
    _Kind(torch.Generator, lambda g: g.get_state(), lambda g, before: g.set_state(before)),
    _Kind(random.Random, lambda g: g.getstate(), lambda g, before: g.setstate(before)),
    _Kind(
        np.random.Generator,
        lambda g: g.bit_generator.state,
        lambda g, before: setattr(g.bit_generator, "state", before),
    ),
    _Kind(np.random.RandomState, lambda g: g.get_state(legacy=False), lambda g, before: g.set_state(before)),
    _Kind(bytearray, bytes, lambda b, before: b.__setitem__(slice(None), before)),
    _Kind(array, copy.copy, lambda a, before: a.__setitem__(slice(None), before)),
    _Kind(Metric, _settings_of, _set_settings),
)
_WITH_SLOTS = _Kind(object, _slots_of, _set_slots)
_CONTAINERS = (dict, list, set, deque)
_ATOMS = (
    str,
    bytes,
    int,
    float,
    complex,
    type(None),
    type,
    ModuleType,
    FunctionType,
    torch.dtype,
    torch.device,
)
_NOTHING = object()


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same object or equal; values that cannot be compared are not."""
    if one is other:
        return True
    try:
        if isinstance(one, Tensor) or isinstance(other, Tensor):
            return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
        return bool(one == other)
    except Exception:  # an array in a dict, for instance
        return False
