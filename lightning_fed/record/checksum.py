"""Checksums of objects that cannot be described in a line, equal in every process and on every machine."""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections import deque
from enum import Enum
from pathlib import PurePath
from types import CodeType
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from lightning_fed.core.configs import is_seed
from lightning_fed.core.shown import may_be_of_workers, name_of, without_address
from lightning_fed.record.arguments import PLAIN, arguments_of

_MOST_PARTS = 10_000
"""The largest number of parts that count."""
_DEEPEST = 20
_MOST_BYTES = 4_000_000
_SAMPLE = 1_000_000


def checksum(thing: object, hides: bool = False) -> str:
    """Return a checksum of an object's arguments, eight hexadecimal digits.

    Seeds are excluded, and so are trained parameters and buffers that are not arguments, since they follow from seeds.
    For functions that cannot be imported by name the code counts, with its constants and enclosed plain values; for
    tensors and arrays all bytes up to 4 MB, or a million evenly spaced bytes of larger ones; and for collections the
    first 10,000 parts. A repeated object counts as a reference to its first occurrence.

    Args:
        thing: Any object.
        hides: Whether to exclude everything that may be about single workers: texts, collections and code.

    >>> checksum({"a": 1}) == checksum({"a": 1}), checksum(lambda x: x) == checksum(lambda x: x + 1)
    (True, False)
    """
    digest = _Digest(hides)
    digest.add(thing, _DEEPEST)
    return digest.text()


def can_be_imported(function: Any) -> bool:
    """Whether a function can be imported by its name, from a module that is not a script."""
    module = getattr(function, "__module__", None)
    if module is None or module == "__main__":
        return not inspect.isfunction(function)
    place: Any = sys.modules.get(module)
    for word in str(getattr(function, "__qualname__", "")).split("."):
        place = getattr(place, word, None)
    return place is function or not inspect.isfunction(inspect.unwrap(getattr(function, "__func__", function)))


@final
class _Digest:
    """Goes through a thing, and what it consists of."""

    def __init__(self, hides: bool) -> None:
        self._hides = hides
        self._hash = hashlib.sha256()
        self._seen: dict[int, tuple[int, object]] = {}  # by identity: its number, and itself, to keep it
        self._left = _MOST_PARTS

    def text(self) -> str:
        return self._hash.hexdigest()[:8]

    def add(self, thing: Any, depth: int) -> None:
        self._left -= 1
        is_plain = isinstance(thing, (*PLAIN, bytes, Enum)) or inspect.isclass(thing) or inspect.isroutine(thing)
        if not is_plain and id(thing) in self._seen:
            self._put("seen", str(self._seen[id(thing)][0]))
        elif depth and self._left > 0:
            if not is_plain:
                self._seen[id(thing)] = len(self._seen), thing
            self._add(thing, depth - 1)

    def _add(self, thing: Any, depth: int) -> None:
        if isinstance(thing, Enum):
            self._put(type(thing).__name__, thing.name)
        elif isinstance(thing, (*PLAIN, bytes, torch.dtype, torch.device)):
            self._put(type(thing).__name__, repr(thing))
        elif isinstance(thing, PurePath):
            self._put("path", str(thing))
        elif isinstance(thing, np.generic):
            self._put(type(thing).__name__, repr(thing.item()))
        elif isinstance(thing, nn.Parameter):
            self._put("parameter", str(list(thing.shape)))
        elif isinstance(thing, (Tensor, np.ndarray)):
            self._array(thing)
        elif isinstance(thing, functools.partial):
            self._parts("partial", {"": thing.func, **dict(enumerate(thing.args)), **thing.keywords}, depth)
        elif inspect.isclass(thing):
            self._put("class", name_of(thing))
        elif inspect.isroutine(thing):
            self._function(thing, depth)
        elif isinstance(thing, (set, frozenset)):
            self._put(type(thing).__name__, *sorted(without_address(repr(part)) for part in thing))
        elif isinstance(thing, dict):
            self._parts(type(thing).__name__, thing, depth)
        elif isinstance(thing, (list, tuple, deque)):
            self._parts(type(thing).__name__, dict(enumerate(thing)), depth)
        else:
            self._object(thing, depth)

    def _object(self, thing: Any, depth: int) -> None:
        parts = arguments_of(thing, only_arguments=self._hides)
        if self._hides:
            parts = {name: part for name, part in parts.items() if not may_be_of_workers(part)}
        if isinstance(thing, nn.Module):
            parts |= thing._modules
        if not parts and not has_attributes(thing) and not self._hides:
            self._put(type(thing).__name__, without_address(repr(thing)))
        self._parts(type(thing).__name__, parts, depth)

    def _function(self, function: Any, depth: int) -> None:
        self._put("function", name_of(function))
        if can_be_imported(function) or self._hides:
            return
        function = inspect.unwrap(getattr(function, "__func__", function))
        self._code(function.__code__, depth)
        cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        enclosed = [cell for cell in cells if isinstance(cell, PLAIN) or inspect.isroutine(cell)]
        defaults = (function.__defaults__ or (), function.__kwdefaults__ or {})
        self._parts("enclosed", dict(enumerate((*enclosed, *defaults))), depth)

    def _code(self, code: CodeType, depth: int) -> None:
        self._put("code", code.co_code.hex(), *code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant, depth)
            else:
                self.add(constant, depth)

    def _parts(self, kind: str, parts: Any, depth: int) -> None:
        self._put(kind, str(len(parts)))
        for name, part in parts.items():
            if not is_seed(str(name)):
                self._put("part", f"{type(name).__name__} {without_address(str(name))}")
                self.add(part, depth)

    def _array(self, array: Tensor | np.ndarray[Any, Any]) -> None:
        self._put(type(array).__name__, str(array.dtype), str(list(array.shape)))
        try:
            if isinstance(array, Tensor):
                array = array.detach().cpu().contiguous().flatten()
                values = array.view(torch.uint8).numpy()
            elif array.dtype.hasobject:
                self._put(*map(repr, array.flatten().tolist()[:_MOST_PARTS]))
                return
            else:
                values = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):  # sparse, quantized, on no device
            return
        if len(values) > _MOST_BYTES:
            values = values[np.linspace(0, len(values) - 1, _SAMPLE).astype(np.int64)]
        self._hash.update(values.tobytes())

    def _put(self, *words: str) -> None:
        for word in words:
            encoded = word.encode("utf-8", "surrogatepass")
            self._hash.update(len(encoded).to_bytes(8, "big") + encoded)


def has_attributes(thing: object) -> bool:
    """Whether an object has attributes of its own, other than slots."""
    try:
        vars(thing)
    except TypeError:
        return False
    return True


def _is_empty(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return True
    return False
