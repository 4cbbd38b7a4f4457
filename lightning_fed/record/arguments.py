"""The constructor arguments of an object, if it stores them."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from torch import nn

from lightning_fed._lightning import pl
from lightning_fed.core.shown import parameters_of

Scalar: TypeAlias = bool | int | float | str | None

PLAIN = (bool, int, float, str, type(None))
_NOT_KEPT = object()


def arguments_of(thing: object, only_arguments: bool = False) -> dict[str, Any]:
    """Return the constructor arguments of an object, if it stores them.

    An argument is stored as an attribute of its name, with or without a leading underscore, or as a field of a
    dataclass that is an attribute. If an argument is not stored, or a constructor accepts any keyword, the other
    attributes replace it: for a module only public plain values, since the others may be weights or counters, and for a
    datamodule none, since they may be data. Trained parameters are always excluded.

    Args:
        thing: The object. Properties of a datamodule or a mapping are not read, since they may load data.
        only_arguments: Whether to use no other attributes.
    """
    own = _attributes(thing)
    inner: dict[str, Any] = {}
    for value in own.values():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner |= _attributes(value)
    is_data = isinstance(thing, (Mapping, pl.LightningDataModule))
    found: dict[str, Any] = {}
    parameters = parameters_of(type(thing))
    misses = False
    for parameter in parameters:
        name = parameter.name
        value = next((place[key] for place in (own, inner) for key in (name, f"_{name}") if key in place), _NOT_KEPT)
        if value is _NOT_KEPT and not is_data:
            value = _read(thing, name)
        if value is not _NOT_KEPT:
            found[name] = value
        misses |= value is _NOT_KEPT
    if not only_arguments and not isinstance(thing, pl.LightningDataModule) and (misses or not parameters):
        known = {key.lstrip("_") for key in found}
        for key, value in own.items():
            if key.lstrip("_") not in known and _stands_in(thing, key, value, bool(parameters)):
                found[key.lstrip("_")] = value
    unsaid = getattr(type(thing), "no_settings", ())
    return {name: value for name, value in found.items() if name not in unsaid and not isinstance(value, nn.Parameter)}


def _stands_in(thing: object, name: str, value: object, for_an_argument: bool) -> bool:
    if isinstance(thing, nn.Module):
        return not name.startswith("_") and name not in _of_any_module() and _is_plain(value)
    if isinstance(thing, Mapping) and not isinstance(value, PLAIN):
        return False
    # Private attributes of a class without arguments are implementation details.
    return for_an_argument or not name.startswith("_")


def _is_plain(value: object, depth: int = 4) -> bool:
    if isinstance(value, PLAIN):
        return True
    if type(value) is dict and depth:
        return all(_is_plain(part, depth - 1) for part in value.values())
    return type(value) in (list, tuple) and depth > 0 and all(_is_plain(part, depth - 1) for part in _parts(value))


def _parts(value: object) -> Iterable[Any]:
    assert isinstance(value, Iterable)
    return value


@functools.lru_cache(maxsize=1)
def _of_any_module() -> frozenset[str]:
    """Names that every module has."""
    return frozenset(vars(pl.LightningModule()))


def _attributes(thing: object) -> dict[str, Any]:
    try:
        own = dict(vars(thing))
    except TypeError:  # it has slots only
        return {}
    if isinstance(thing, pl.LightningModule):
        own = {**thing.hparams, **own}
    if isinstance(thing, nn.Module):
        own |= {**thing._parameters, **thing._buffers, **thing._modules}
    return own


def _read(thing: object, name: str) -> Any:
    """Read an attribute outside of the instance dictionary: a slot, a property, or a class attribute."""
    try:
        found = inspect.getattr_static(thing, name)
        return _NOT_KEPT if inspect.isroutine(found) else getattr(thing, name)
    except Exception:  # any error of a user's property
        return _NOT_KEPT
