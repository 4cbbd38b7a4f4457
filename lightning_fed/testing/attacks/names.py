"""Names of attackers."""

from __future__ import annotations

from collections.abc import Iterable

from lightning_fed.core.arguments import listed, nearest, text
from lightning_fed.population.crowd import named


def check_names(argument: str, names: object) -> tuple[str, ...]:
    """Return names of workers in order, each once.

    Args:
        argument: The argument's name.
        names: A collection of names.

    Raises:
        TypeError: If ``names`` is not a collection of strings.
        ValueError: If ``names`` is empty, or a name is empty.
    """
    given = listed(argument, names, what="names of workers, such as ['w3', 'w7']")
    if not given:
        raise ValueError(f"{argument} is empty: name a worker that attacks, or leave the attack out")
    return tuple(sorted({text(argument, name) for name in given}))


def refuse_unknown(argument: str, names: Iterable[str], workers: Iterable[str]) -> None:
    """Refuse attackers that are not workers.

    Args:
        argument: The argument's name.
        names: The attackers.
        workers: All workers.

    Raises:
        ValueError: Naming one of them, and the worker that it may mean or the first of all.
    """
    known = dict.fromkeys(workers)
    for name in names:
        if name not in known:
            fix = nearest(name, known) or f"; there are {named([*known])}"
            raise ValueError(f"{argument} has {name!r}, which is no worker{fix}")
