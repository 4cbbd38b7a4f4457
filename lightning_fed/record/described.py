"""Objects as flat tables of plain values: what each was built with, so that two that differ are told apart.

There is no list of known classes: an object is described by the arguments of its constructor, as far as it keeps them
as attributes of the same names. So an algorithm, a sampler or a population of a user's own is described like ours.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fed._lightning import pl
from lightning_fed.core.shown import name_of, parameters_of, without_address

Scalar: TypeAlias = bool | int | float | str | None

_PLAIN = (bool, int, float, str, type(None))
_LONGEST = 200
_DEEPEST = 4
_NOT_KEPT = object()


def described(name: str, thing: Any, without: Collection[str] = ()) -> dict[str, Scalar]:
    """Describe what a setting is set to.

    Args:
        name: The setting's name.
        thing: A plain value; a list, a tuple or a dict of such things; a function or a class; or an object.
        without: Arguments of its constructor that are left out.

    Returns:
        Under the name itself the value, or for an object its class with the arguments that are not the default's; under
        ``name/argument`` every argument. Values are plain, none holds an address, and a long one is cut, with a
        checksum at its end.

    >>> from lightning_fed.selection import RandomAvailability
    >>> described("availability", RandomAvailability(absent=0.1))["availability"]
    'RandomAvailability(absent=0.1)'
    >>> described("size", (2, 3))
    {'size': '[2, 3]'}
    """
    return _rows(name, thing, _DEEPEST, without)


def _rows(name: str, thing: Any, depth: int, without: Collection[str] = ()) -> dict[str, Scalar]:
    rows: dict[str, Scalar] = {name: _value(thing, depth, without)}
    for part, value in _parts(thing, without).items() if depth else ():
        rows |= _rows(f"{name}/{part}", value, depth - 1)
    return rows


def _value(thing: Any, depth: int, without: Collection[str] = ()) -> Scalar:
    """Return one plain value for a thing."""
    return thing if isinstance(thing, _PLAIN) and not isinstance(thing, Enum) else _short(_text(thing, depth, without))


def _text(thing: Any, depth: int, without: Collection[str] = ()) -> str:
    if isinstance(thing, Enum):
        return thing.name
    if isinstance(thing, (*_PLAIN, torch.dtype, torch.device)):
        return repr(thing)
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, np.generic):
        return repr(thing.item())
    if isinstance(thing, (Tensor, np.ndarray)):
        return f"{type(thing).__name__}{list(thing.shape)}"
    if isinstance(thing, functools.partial):
        return _call(_text(thing.func, depth), _parts(thing), {}, depth)
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return name_of(thing)
    if type(thing) in (list, tuple, set, frozenset):
        parts = [_text(part, depth - 1) for part in thing] if depth else ["..."]
        return f"[{', '.join(sorted(parts) if isinstance(thing, (set, frozenset)) else parts)}]"
    if type(thing) is dict:
        return (
            f"{{{', '.join(f'{key}: {_text(value, depth - 1)}' for key, value in thing.items())}}}"
            if depth
            else "{...}"
        )
    if type(thing).__module__ == "builtins":
        return without_address(repr(thing))
    defaults = {p.name: p.default for p in parameters_of(type(thing))}
    kept = _parts(thing, without)
    return _call(type(thing).__name__, kept, defaults, depth) if depth else type(thing).__name__


def _call(name: str, arguments: Mapping[str, Any], defaults: Mapping[str, Any], depth: int) -> str:
    """Return a call as one writes it, without the arguments that are the default's."""
    said = {key: _text(value, depth - 1) for key, value in arguments.items()}
    own = [
        f"{key}={text}"
        for key, text in said.items()
        if key not in defaults or defaults[key] is inspect.Parameter.empty or text != _text(defaults[key], depth - 1)
    ]
    return f"{name}({', '.join(own)})" if own else name


def _parts(thing: Any, without: Collection[str] = ()) -> dict[str, Any]:
    """Return the parts that a thing was built with, by name."""
    if isinstance(thing, (*_PLAIN, Tensor, np.ndarray, np.generic, Path, torch.dtype, torch.device)):
        return {}
    if isinstance(thing, functools.partial):
        return {**{str(place): value for place, value in enumerate(thing.args)}, **thing.keywords}
    if inspect.isclass(thing) or inspect.isroutine(thing):
        return {}
    if type(thing) in (list, tuple):
        return {str(place): part for place, part in enumerate(thing) if not isinstance(part, _PLAIN)}
    if type(thing) is dict:
        return {str(key): value for key, value in thing.items()}
    if type(thing).__module__ == "builtins":
        return {}
    return {name: value for name, value in arguments_of(thing).items() if name not in without}


def arguments_of(thing: object) -> dict[str, Any]:
    """Return the arguments that an object was built with, as far as it keeps them.

    An argument is kept as an attribute of its name, with or without an underscore before it, or as a field of a
    dataclass that is an attribute. Where one is not kept, the plain values among the attributes stand in for it.

    Args:
        thing: The object. Of a datamodule or a mapping no property is read, since that may load data.
    """
    own = _attributes(thing)
    inner: dict[str, Any] = {}
    for value in own.values():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner |= _attributes(value)
    is_data = isinstance(thing, (Mapping, pl.LightningDataModule))
    found: dict[str, Any] = {}
    misses = False
    for parameter in parameters_of(type(thing)):
        name = parameter.name
        value = next((place[key] for place in (own, inner) for key in (name, f"_{name}") if key in place), _NOT_KEPT)
        if value is _NOT_KEPT and not is_data:
            value = _read(thing, name)
        if value is not _NOT_KEPT:
            found[name] = value
        misses |= value is _NOT_KEPT and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    if misses and not isinstance(thing, (pl.LightningDataModule, nn.Module)):
        known = {key.lstrip("_") for key in found}
        for key, value in own.items():
            if isinstance(value, _PLAIN) and key.lstrip("_") not in known:
                found[key.lstrip("_")] = value
    return found


def _attributes(thing: object) -> dict[str, Any]:
    try:
        return dict(vars(thing))
    except TypeError:  # it has slots only
        return {}


def _read(thing: object, name: str) -> Any:
    """Read an attribute that lies in no dictionary: a slot, a property, or one of the class."""
    try:
        inspect.getattr_static(thing, name)
        return getattr(thing, name)
    except Exception:  # whatever a property of the user's raises
        return _NOT_KEPT


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... #{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
