"""Description of an object in one line: the call that makes it, as source code."""

from __future__ import annotations

import inspect
import re
import reprlib
from collections.abc import Iterable
from enum import Enum
from functools import partial
from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor, nn

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NOT_KEPT = object()
_OURS = __name__.partition(".")[0]


class Shown:
    """Base of classes whose repr is a call of the class, with the arguments that differ from the defaults.

    An argument is shown if an attribute stores it under its name, with or without a leading underscore. Properties are
    not read, since they may load data.
    """

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        return call_of(self)


def call_of(thing: object, hides: bool = False) -> str:
    """Return the call that makes an object, with the stored arguments that differ from the defaults.

    Args:
        thing: The object.
        hides: Whether arguments that may be about single workers are left out.

    >>> from lightning_fed.privacy import CentralDP
    >>> call_of(CentralDP(clip=1.0, noise_multiplier=0.5))
    'CentralDP(clip=1.0, noise_multiplier=0.5)'
    """
    own = getattr(thing, "__dict__", {})
    said = []
    for parameter in parameters_of(type(thing)):
        name = parameter.name
        value = own.get(name, own.get(f"_{name}", _NOT_KEPT))
        if value is _NOT_KEPT or _is_same(value, parameter.default):
            continue
        if not hides:
            said.append(f"{name}={text_of(value)}")
        elif is_of_no_worker(type(thing), name, value):
            said.append(f"{name}={private_text_of(value)}")
    return f"{type(thing).__name__}({', '.join(said)})"


def private_text_of(value: Any) -> str:
    """Return a value as :func:`text_of` does, without parts that may be about single workers."""
    if isinstance(value, (*_PLAIN, type(None), Enum, list)) or inspect.isroutine(value) or inspect.isclass(value):
        return text_of(value)
    return call_of(value, hides=True)


def text_of(value: Any) -> str:
    """Return a value as short text without an address: functions and classes by name, tensors by shape.

    >>> text_of(len), text_of(list(range(100))), text_of(object())
    ('len', '[0, 1, 2, 3, 4, 5, ...]', '<object object>')
    """
    if isinstance(value, partial):
        return f"{text_of(value.func)}(...)"
    if inspect.isclass(value) or inspect.isroutine(value):
        return name_of(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return f"{type(value).__name__}{list(value.shape)}"
    text = without_address(_SHORT.repr(value))
    return text if "\n" not in text else f"{type(value).__name__}(...)"


def _shortener() -> reprlib.Repr:
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 200
    return shortener


_SHORT = _shortener()


def _is_same(value: Any, default: Any) -> bool:
    return value is default or (type(value) is type(default) and isinstance(value, _PLAIN) and value == default)


_PLAIN = (bool, int, float, str, tuple)


def may_be_of_workers(value: object) -> bool:
    """Whether a value is a text or a collection, which may hold workers' names or their sizes.

    >>> may_be_of_workers("bob"), may_be_of_workers([3, 5]), may_be_of_workers(0.5)
    (True, True, False)
    """
    return isinstance(value, (Iterable, PurePath)) and not isinstance(value, (Enum, nn.Module))


def is_of_no_worker(kind: type, argument: str, value: object) -> bool:
    """Whether an argument cannot be about single workers, and may be shown under a promise.

    Numbers and arguments of this package's classes cannot; a text or a collection of a user's own class may hold
    workers' names, or their sizes. The arguments of an object are checked recursively.

    Args:
        kind: The class with the argument.
        argument: The argument's name.
        value: The argument's value.
    """
    return not may_be_of_workers(value) or any(
        base.__module__.partition(".")[0] == _OURS and argument in (p.name for p in parameters_of(base))
        for base in kind.__mro__
    )


def parameters_of(kind: type) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a class's constructor; empty for a class that is not written in Python."""
    try:
        return tuple(inspect.signature(kind).parameters.values())
    except (ValueError, TypeError):
        return ()


def name_of(code: Any) -> str:
    """Return the qualified name of a function or a class.

    >>> name_of(lambda: 0), name_of(len)
    ('lambda', 'len')
    """
    name = str(getattr(code, "__qualname__", type(code).__name__))
    return name.replace("<locals>.", "").replace("<lambda>", "lambda")


def without_address(text: str) -> str:
    """Return the text of an object without its address in memory."""
    return _ADDRESS.sub("", text)
