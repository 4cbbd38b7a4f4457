"""Whether runs may be compared: they must be about the same data, dealt out and evaluated in the same way.

What is dealt out by a seed may differ between the runs of a group, as long as every group has the same: then a
difference at equal seeds is still one between settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_fed.core.configs import Scalar
from lightning_fed.reports.comparison.groups import Group, key_of, plain, telling
from lightning_fed.reports.comparison.run import Run


def differences(groups: Sequence[Group]) -> Iterator[str]:
    """Go through what differs between runs although it must not.

    Args:
        groups: The groups.

    Yields:
        What it is, with two runs that differ in it: ``partition is IID() in a, and Shards() in b``.
    """
    runs = [run for group in groups for run in group.runs]
    facts = list(dict.fromkeys(fact for run in runs for fact in run.facts))
    pairs = {fact: pair for fact in facts if (pair := _unlike(runs, fact)) and not _follows_seeds(groups, fact)}
    for fact in telling(list(pairs), [run.facts for run in runs]):
        one, other = pairs[fact]
        yield f"{fact} is {_short(one.facts[fact])} in {one.path}, and {_short(other.facts[fact])} in {other.path}"


def _unlike(runs: Sequence[Run], fact: str) -> tuple[Run, Run] | None:
    """Two runs that differ in a fact; what a run does not say may be anything."""
    known = [run for run in runs if run.facts.get(fact) is not None]
    return next(((known[0], run) for run in known if run.facts[fact] != known[0].facts[fact]), None)


def _follows_seeds(groups: Sequence[Group], fact: str) -> bool:
    """Whether every group has the same values of a fact at the same seeds, and more than one seed."""
    key = key_of([run for group in groups for run in group.runs])
    tables = [{key(run): run.facts.get(fact) for run in group.runs} for group in groups]
    return len(tables[0]) > 1 and all(table == tables[0] for table in tables[1:])


def _short(value: Scalar) -> str:
    text = plain(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
