"""What an object is, in a line: the call that makes it, as one writes it."""

from __future__ import annotations

import inspect
import re
import reprlib
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_NOT_KEPT = object()


class Shown:
    """Base of what is shown as a call of its class, with the arguments that are not the default's.

    An argument is known if it is kept as an attribute of its name, with or without an underscore before it. No property
    is read, since that may load data.
    """

    @reprlib.recursive_repr()
    def __repr__(self) -> str:
        return call_of(self)


def call_of(thing: object) -> str:
    """Return the call that makes an object, with the arguments that it keeps and that are not the default's.

    >>> from lightning_fed.privacy import CentralDP
    >>> call_of(CentralDP(clip=1.0, noise_multiplier=0.5))
    'CentralDP(clip=1.0, noise_multiplier=0.5)'
    """
    own = getattr(thing, "__dict__", {})
    said = []
    for parameter in parameters_of(type(thing)):
        name = parameter.name
        value = own.get(name, own.get(f"_{name}", _NOT_KEPT))
        if value is not _NOT_KEPT and not _is_same(value, parameter.default):
            said.append(f"{name}={text_of(value)}")
    return f"{type(thing).__name__}({', '.join(said)})"


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


def parameters_of(kind: type) -> tuple[inspect.Parameter, ...]:
    """Return the parameters of a class's constructor; none of one that is made outside of Python."""
    try:
        return tuple(inspect.signature(kind).parameters.values())
    except (ValueError, TypeError):
        return ()


def name_of(code: Any) -> str:
    """Return the name of a function or a class, with those that it stands in.

    >>> name_of(lambda: 0), name_of(len)
    ('lambda', 'len')
    """
    name = str(getattr(code, "__qualname__", type(code).__name__))
    return name.replace("<locals>.", "").replace("<lambda>", "lambda")


def without_address(text: str) -> str:
    """Return the text of an object without the place in memory at which it lies."""
    return _ADDRESS.sub("", text)
