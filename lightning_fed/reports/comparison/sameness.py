"""Checks that runs are comparable: the same data, partition and evaluation.

A partition that depends on a seed may differ between the runs of a group, if every group has the same partitions: a
difference at equal seeds is then a difference between settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from lightning_fed.core.configs import Scalar
from lightning_fed.reports.comparison.groups import Group, key_of, plain, telling


def differences(groups: Sequence[Group]) -> list[str]:
    """Return the forbidden differences between runs.

    Args:
        groups: The groups.

    Returns:
        Each with two runs that differ in it: ``partition is IID in a, and Shards in b``. What follows from settings
        is said only if they are the same.
    """
    runs = [run for group in groups for run in group.runs]
    said = list(_differences(groups, {run.path: run.facts for run in runs}))
    return said or list(_differences(groups, {run.path: run.measured for run in runs}))


def _differences(groups: Sequence[Group], facts: Mapping[str, Mapping[str, Scalar]]) -> Iterator[str]:
    names = list(dict.fromkeys(name for table in facts.values() for name in table))
    columns = {name: {path: table.get(name) for path, table in facts.items()} for name in names}
    pairs = {
        name: pair
        for name, column in columns.items()
        if (pair := _unlike(column)) and not _follows_seeds(groups, column)
    }
    for name in telling(list(pairs), list(facts.values())):
        one, other = pairs[name]
        yield f"{name} is {_short(columns[name][one])} in {one}, and {_short(columns[name][other])} in {other}"


def _unlike(column: Mapping[str, Scalar]) -> tuple[str, str] | None:
    """Two runs that differ in a fact; what a run does not say may be anything."""
    known = [(path, value) for path, value in column.items() if value is not None]
    return next(((known[0][0], path) for path, value in known if value != known[0][1]), None)


def _follows_seeds(groups: Sequence[Group], column: Mapping[str, Scalar]) -> bool:
    """Whether every group has the same values of a fact at the same seeds, and more than one seed."""
    key = key_of([run for group in groups for run in group.runs])
    tables = [{key(run): column[run.path] for run in group.runs} for group in groups]
    return len(tables[0]) > 1 and all(table == tables[0] for table in tables[1:])


def _short(value: Scalar) -> str:
    text = plain(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
