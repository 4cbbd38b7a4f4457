"""Checks of a constructor's arguments: type and range together, with a message of one sentence.

A number out of range is a ValueError, and so is 2.5 in place of an integer. A value of another type is a TypeError: a
string, a tensor, None, and True, which Python counts among the integers. A NumPy scalar is accepted and returned as a
Python number, which JSON and checkpoints can hold.
"""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def whole(
    name: str,
    value: object,
    *,
    least: int | None = None,
    most: int | None = None,
    owner: object = None,
    says: str = "",
) -> int:
    """Return an integer, checked to lie in a range.

    Args:
        name: The argument's name.
        value: Its value.
        least: The smallest number allowed.
        most: The largest.
        owner: The object of the argument, if the message must name its class.
        says: The text of a ValueError after the argument and its value, in place of the range.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not whole, or out of range.

    >>> whole("local_steps", 3, least=1)
    3
    >>> whole("local_steps", 2.5, least=1)
    Traceback (most recent call last):
    ...
    ValueError: local_steps=2.5 must be a whole number of at least 1
    """
    subject = _subject(name, value, owner)
    within = _bounds((least, "at least"), (most, "at most"))
    kind = "a whole number" + (f" of {within}" if within else "")
    if not _is_number(value):
        raise TypeError(f"{subject} must be {kind}, not {_a(value)}")
    if not isinstance(value, numbers.Integral):
        raise ValueError(subject + (says or f" must be {kind}"))
    taken = int(value)
    if (least is not None and taken < least) or (most is not None and taken > most):
        raise ValueError(subject + (says or f" must be {within}"))
    return taken


def number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    owner: object = None,
    says: str = "",
) -> float:
    """Return a finite number, checked to lie in a range.

    Args:
        name: The argument's name.
        value: Its value.
        least: The smallest number allowed.
        above: The exclusive lower bound.
        most: The largest number allowed.
        below: The exclusive upper bound.
        owner: The object of the argument, if the message must name its class.
        says: The text of a ValueError after the argument and its value, in place of the range.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is infinite, not a number (NaN), or out of range.

    >>> number("mu", 0.1, least=0)
    0.1
    >>> number("mu", float("nan"), least=0)
    Traceback (most recent call last):
    ...
    ValueError: mu=nan must be at least 0 and finite
    """
    bounded = (least is not None or above is not None) and (most is not None or below is not None)
    within = _bounds((least, "at least"), (above, "above"), (most, "at most"), (below, "below"))
    within = {"": "finite", "above 0": "positive"}.get(within, within)
    if not bounded and within != "finite":
        within += " and finite"
    subject = _subject(name, value, owner)
    if not _is_number(value):
        raise TypeError(f"{subject} must be a number, {within}, not {_a(value)}")
    taken = _float(value)
    outside = (
        (least is not None and taken < least)
        or (above is not None and taken <= above)
        or (most is not None and taken > most)
        or (below is not None and taken >= below)
    )
    if outside or not math.isfinite(taken):
        raise ValueError(subject + (says or f" must be {within}"))
    return taken


def flag(name: str, value: object, *, owner: object = None) -> bool:
    """Return a bool, and refuse everything else: the string ``"no"`` would count as true.

    Args:
        name: The argument's name.
        value: Its value.
        owner: The object of the argument, if the message must name its class.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{_subject(name, value, owner)} must be True or False, not {_a(value)}")
    return bool(value)


def text(name: str, value: object, *, owner: object = None) -> str:
    """Return a string that is not empty.

    Args:
        name: The argument's name.
        value: Its value.
        owner: The object of the argument, if the message must name its class.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is empty.
    """
    if not isinstance(value, str):
        raise TypeError(f"{_subject(name, value, owner)} must be a string, not {_a(value)}")
    if not value:
        raise ValueError(f"{_subject(name, value, owner)} must be a string that is not empty")
    return value


def one_of(name: str, value: object, choices: Sequence[str], *, owner: object = None, says: str = "") -> str:
    """Return one of some strings.

    Args:
        name: The argument's name.
        value: Its value.
        choices: The strings.
        owner: The object of the argument, if the message must name its class.
        says: The text of a ValueError after the argument and its value, in place of the choices.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is another one; the message says which is nearest.
    """
    within = f" must be one of {', '.join(map(repr, choices))}"
    if not isinstance(value, str):
        raise TypeError(f"{_subject(name, value, owner)}{within}, not {_a(value)}")
    if value not in choices:
        raise ValueError(_subject(name, value, owner) + (says or within) + nearest(value, choices))
    return value


def instance(name: str, value: T, kind: type, example: str) -> T:
    """Return an object of a class.

    Args:
        name: The argument's name.
        value: Its value.
        kind: The class.
        example: Such an object, as source code.

    Raises:
        TypeError: If it is of another class, or a class itself.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {article(kind.__name__)}, such as {example}, not {reprlib.repr(value)}")
    return value


def listed(name: str, value: object, *, what: str) -> tuple[object, ...]:
    """Return the items of a list; a string is refused, although it is iterable.

    Args:
        name: The argument's name.
        value: Its value.
        what: A description of the items, with an example.

    Raises:
        TypeError: If it is not a list.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}={reprlib.repr(value)} must be a list of {what}, not {_a(value)}")
    return tuple(value)


def article(name: str) -> str:
    """Return a noun with its article.

    >>> article("Engine"), article("str")
    ('an Engine', 'a str')
    """
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def nearest(word: str, known: Collection[str]) -> str:
    """Return a suggestion of the known word nearest to an unknown one, as the end of a message; empty without one.

    >>> nearest("FedAvgg", ["FedAvg", "Scaffold"])
    "; did you mean 'FedAvg'?"
    """
    lower = {name.lower(): name for name in known}
    # A short word may have one wrong letter of three.
    found = get_close_matches(word.lower(), lower, n=1, cutoff=0.7 if len(word) > 3 else 0.6)
    return f"; did you mean {lower[found[0]]!r}?" if found else ""


def settle(instance: object, **values: object) -> None:
    """Set fields of a frozen dataclass to the results of their checks.

    Args:
        instance: The dataclass's instance, in its ``__post_init__``.
        values: The fields' values by name.
    """
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))


def _float(value: Any) -> float:
    if type(value) is int and abs(value) < 2**53:  # the repr then shows the given value
        return value
    try:
        return float(value)
    except OverflowError:  # an integer beyond the largest float
        return math.inf


def _bounds(*bounds: tuple[float | None, str]) -> str:
    return " and ".join(f"{words} {bound}" for bound, words in bounds if bound is not None)


def _subject(name: str, value: object, owner: object) -> str:
    said = f"{name}={value.item()!r}" if isinstance(value, np.generic) else f"{name}={reprlib.repr(value)}"
    return said if owner is None else f"{type(owner).__name__}({said})"


def _a(value: object) -> str:
    return "None" if value is None else article(type(value).__name__)
