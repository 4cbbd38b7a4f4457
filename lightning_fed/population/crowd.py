"""A short description of a population: its number of workers, and their numbers of examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from statistics import median

_ASKED = 100
_NAMED = 5


def crowd(workers: Sized, size_at: Callable[[int], int]) -> str:
    """Describe a population without building a worker; of a large one, only some sizes are read.

    Args:
        workers: The population.
        size_at: Returns the number of examples of the worker at a position.

    >>> crowd(["bob", "alice"], [3, 8].__getitem__)
    '2 workers with 3 to 8 examples each (median 5.5)'
    """
    try:
        count = len(workers)
    except Exception as error:  # any error of a user's population
        return f"workers that cannot be counted: {type(error).__name__}"
    positions = range(count) if count <= _ASKED else [place * count // _ASKED for place in range(_ASKED)]
    try:
        sizes = [size_at(position) for position in positions]
    except Exception:  # a description must not cause a failure
        sizes = []
    holding = f" with {of_sizes(sizes)}" if sizes else ""
    return how_many(count) + holding + (f", of {_ASKED} that were asked" if holding and count > _ASKED else "")


def named(names: Sequence[str]) -> str:
    """Describe workers by their names, or by those of the first.

    >>> named(["bob", "alice"])
    '2 workers: bob, alice'
    """
    return f"{how_many(len(names))}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"


def how_many(count: int) -> str:
    """Return a number of workers as text."""
    return f"{count} worker{'s' if count != 1 else ''}"


def of_sizes(sizes: Sequence[int]) -> str:
    """Describe numbers of examples.

    >>> of_sizes([3, 17, 80]), of_sizes([5, 5])
    ('3 to 80 examples each (median 17)', '5 examples each')
    """
    least, most = min(sizes), max(sizes)
    if least == most:
        return f"{least} example{'s' if least != 1 else ''} each"
    return f"{least} to {most} examples each (median {median(sizes):g})"
