"""Kinds of JSON values in the files of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from lightning_fed.reports.run.facts import MissingFactError, need


@final
@dataclass(frozen=True)
class Kind:
    """A kind of values.

    Args:
        words: The description of such a value, after "which must be".
        holds: Whether a value is one.
    """

    words: str
    holds: Callable[[Any], bool]

    def or_null(self) -> Kind:
        """Return the kind that null belongs to besides."""
        return Kind(f"{self.words}, or null", lambda value: value is None or self.holds(value))


@final
@dataclass(frozen=True)
class Fact:
    """A fact that a file must hold.

    Args:
        name: Its name there.
        what: The fact in words, after "does not say".
        kind: What it must be.
    """

    name: str
    what: str
    kind: Kind


def check(content: Any, facts: tuple[Fact, ...], where: object) -> None:
    """Refuse content in which a fact is missing, or is of another kind.

    Args:
        content: What a file says.
        facts: What it must say.
        where: The file, and the line in it.

    Raises:
        MissingFactError: If it does not say it.
    """
    if not isinstance(content, Mapping):
        raise MissingFactError(f"{where} holds {_short(content)} where facts by name belong: {_ADVICE}")
    for fact in facts:
        value = need(content, fact.name, fact.what, where)
        if not fact.kind.holds(value):
            raise MissingFactError(
                f"{where} does not say {fact.what} ({fact.name!r} is {_short(value)} there, which must be "
                f"{fact.kind.words}), and a report does not guess; {_ADVICE}"
            )


_ADVICE = "it was changed, or written by another version of lightning_fed: put back the file that the run has written"


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_time(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def list_of(kind: Kind) -> Kind:
    """Return the kind of lists of values of a kind."""
    return Kind(f"a list, each of {kind.words}", lambda value: isinstance(value, list) and all(map(kind.holds, value)))


def table_of(kind: Kind) -> Kind:
    """Return the kind of values of a kind by name."""
    words = f"a table, each of {kind.words}"
    return Kind(words, lambda value: isinstance(value, dict) and all(map(kind.holds, value.values())))


def one_of(*words: str) -> Kind:
    """Return the kind of one of several words."""
    return Kind(f"one of {', '.join(words)}", lambda value: value in words)


TEXT = Kind("a text that is not empty", lambda value: isinstance(value, str) and bool(value.strip()))
FLAG = Kind("true or false", lambda value: isinstance(value, bool))
NUMBER = Kind("a number", _is_number)
AMOUNT = Kind("a number of at least 0", lambda value: _is_number(value) and value >= 0)
COUNT = Kind("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0)
ROUND = Kind("a whole number of at least -1", lambda value: _is_whole(value) and value >= -1)
TIME = Kind("a time with its zone, such as 2026-11-26T10:00:00+00:00", _is_time)
SCALAR = Kind("a number, a text, a flag or null", lambda value: value is None or isinstance(value, (str, int, float)))
TABLE = Kind("a table", lambda value: isinstance(value, dict))
