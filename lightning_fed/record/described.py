"""Objects as flat tables of plain values: their arguments, which distinguish objects that differ.

There is no list of known classes: an object is described by the arguments of its constructor, if it stores them as
attributes of the same names. A user's own algorithm, sampler or population is therefore described like the package's.
Values that do not fit in a line are replaced by checksums.
"""

from __future__ import annotations

import functools
import inspect
import zlib
from collections import deque
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fed.core.shown import is_of_no_worker, name_of, parameters_of, without_address
from lightning_fed.record.arguments import PLAIN, Scalar, arguments_of
from lightning_fed.record.checksum import can_be_imported, checksum, has_attributes

_LONGEST = 200
_DEEPEST = 4
_MOST_PARTS = 1_000
"""The largest number of parts of a collection that are listed."""
_LISTS = (list, set, frozenset, deque)


def described(name: str, thing: Any, without: Collection[str] = (), hides: bool = False) -> dict[str, Scalar]:
    """Describe the value of a setting.

    Args:
        name: The setting's name.
        thing: A plain value; a list, a tuple or a dict of such things; a function or a class; or an object.
        without: Arguments of its constructor to omit.
        hides: Whether to omit everything that may be about single workers: of the arguments of a user's own classes no
            text, no collection and no checksum.

    Returns:
        Under the name itself the value, or for an object its class with the arguments that differ from the defaults;
        under ``name/argument`` every argument. Values are plain and contain no address; a long one is cut, with a
        checksum at its end. Tensors, functions that cannot be imported, modules with submodules and deeply nested
        objects have checksums, too.

    >>> from lightning_fed.selection import RandomAvailability
    >>> described("availability", RandomAvailability(absent=0.1))["availability"]
    'RandomAvailability(absent=0.1)'
    >>> described("size", (2, 3))
    {'size': '[2, 3]'}
    """
    return _Description(hides).rows(name, thing, _DEEPEST, without)


@final
class _Description:
    """Describes objects.

    Args:
        hides: Whether to omit everything that may be about single workers.
    """

    def __init__(self, hides: bool) -> None:
        self._hides = hides

    def rows(self, name: str, thing: Any, depth: int, without: Collection[str] = ()) -> dict[str, Scalar]:
        rows: dict[str, Scalar] = {name: self._value(thing, depth, without)}
        for part, value in self._parts(thing, without).items() if depth else ():
            rows |= self.rows(f"{name}/{part}", value, depth - 1)
        return rows

    def _value(self, thing: Any, depth: int, without: Collection[str] = ()) -> Scalar:
        """Return one plain value for a thing."""
        plain = isinstance(thing, PLAIN) and not isinstance(thing, Enum)
        return thing if plain else _short(self._text(thing, depth, without))

    def _text(self, thing: Any, depth: int, without: Collection[str] = ()) -> str:
        if isinstance(thing, Enum):
            return thing.name
        if isinstance(thing, (*PLAIN, torch.dtype, torch.device)):
            return repr(thing)
        if isinstance(thing, Path):
            return str(thing)
        if isinstance(thing, np.generic):
            return repr(thing.item())
        if isinstance(thing, (Tensor, np.ndarray)):
            shape = f"{type(thing).__name__}{list(thing.shape)}"
            return shape if isinstance(thing, nn.Parameter) else self._marked(shape, thing)
        if isinstance(thing, functools.partial):
            return self._call(self._text(thing.func, depth), self._parts(thing), {}, depth)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            text = name_of(thing)
            return text if inspect.isclass(thing) or can_be_imported(thing) else self._marked(text, thing)
        if isinstance(thing, _LISTS) or type(thing) is tuple:
            kind = "" if type(thing) in (list, tuple, set, frozenset) else type(thing).__name__
            if not depth or len(thing) > _MOST_PARTS:
                return self._marked(f"{kind}[...]", thing)
            parts = [self._text(part, depth - 1) for part in thing]
            return f"{kind}[{', '.join(sorted(parts) if isinstance(thing, (set, frozenset)) else parts)}]"
        if isinstance(thing, dict):
            kind = "" if type(thing) is dict else type(thing).__name__
            if not depth or self._hides or len(thing) > _MOST_PARTS:
                return self._marked(f"{kind}{{...}}", thing)
            return f"{kind}{{{', '.join(f'{key}: {self._text(value, depth - 1)}' for key, value in thing.items())}}}"
        if type(thing).__module__ == "builtins" and not has_attributes(thing):
            return type(thing).__name__ if self._hides else without_address(repr(thing))
        return self._object(thing, depth, without)

    def _object(self, thing: Any, depth: int, without: Collection[str]) -> str:
        name = type(thing).__name__
        if not depth:
            return self._marked(name, thing) if arguments_of(thing) else name
        kept = self._parts(thing, without)
        if not kept and not has_attributes(thing) and not self._hides:
            text = without_address(repr(thing))
            return text if text.startswith(name) else f"{name}({text})"
        defaults = {p.name: p.default for p in parameters_of(type(thing))}
        text = self._call(name, kept, defaults, depth)
        # A submodule is not necessarily an argument, and has arguments of its own.
        return self._marked(text, thing) if isinstance(thing, nn.Module) and any(thing.children()) else text

    def _marked(self, text: str, thing: Any) -> str:
        return text if self._hides else f"{text} #{checksum(thing)}"

    def _call(self, name: str, arguments: Mapping[str, Any], defaults: Mapping[str, Any], depth: int) -> str:
        """Return a call as source code, without the arguments that equal their defaults."""
        said = {key: self._text(value, depth - 1) for key, value in arguments.items()}
        own = [
            f"{key}={text}"
            for key, text in said.items()
            if key not in defaults
            or defaults[key] is inspect.Parameter.empty
            or text != self._text(defaults[key], depth - 1)
        ]
        return f"{name}({', '.join(own)})" if own else name

    def _parts(self, thing: Any, without: Collection[str] = ()) -> dict[str, Any]:
        """Return the constructor arguments of an object, by name."""
        if isinstance(thing, (*PLAIN, Tensor, np.ndarray, np.generic, Path, torch.dtype, torch.device)):
            return {}
        if isinstance(thing, functools.partial):
            given = {**{str(place): value for place, value in enumerate(thing.args)}, **thing.keywords}
            return {} if self._hides else given
        if inspect.isclass(thing) or inspect.isroutine(thing):
            return {}
        if isinstance(thing, (*_LISTS, dict)) and len(thing) > _MOST_PARTS:
            return {}
        if isinstance(thing, (list, deque)) or type(thing) is tuple:
            return {str(place): part for place, part in enumerate(thing) if not isinstance(part, PLAIN)}
        if isinstance(thing, (set, frozenset)):
            return {}
        if isinstance(thing, dict):
            return {} if self._hides else {without_address(str(key)): value for key, value in thing.items()}
        if type(thing).__module__ == "builtins" and not has_attributes(thing):
            return {}
        found = arguments_of(thing, only_arguments=self._hides).items()
        return {
            name: value
            for name, value in found
            if name not in without and not (self._hides and not is_of_no_worker(type(thing), name, value))
        }


def _short(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}... #{zlib.crc32(text.encode('utf-8', 'surrogatepass')):08x}"
