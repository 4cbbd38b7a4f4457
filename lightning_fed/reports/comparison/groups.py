"""Groups of runs that differ only in seeds, with names that show the differences between groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from lightning_fed.core.configs import Scalar
from lightning_fed.reports.comparison.run import Run

_CHECKSUM = "checksum"
_WORDS_OF_CONFIGS = ("class_path", "init_args", "dict_kwargs")


@final
@dataclass(frozen=True)
class Group:
    """Runs of the same settings.

    Args:
        differs: Settings in which it differs from the other groups, by name.
        runs: One run for each seed, in the order of the seeds.
        replaced: Runs that are left out, since a later one has the same seeds.
    """

    differs: Mapping[str, Scalar]
    runs: Sequence[Run]
    replaced: Sequence[Run] = ()

    @property
    def label(self) -> str:
        """Its name in a legend."""
        return ", ".join(said(name, value) for name, value in self.differs.items()) or "all runs"


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """Divide runs into groups, in the order in which they are given.

    Args:
        runs: The runs.
    """
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    members: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        members.setdefault(tuple(repr(run.settings.get(name)) for name in names), []).append(run)
    shown = telling(names, [group[0].settings for group in members.values()])
    return [_group({name: group[0].settings.get(name) for name in shown}, group) for group in members.values()]


def key_of(runs: Sequence[Run]) -> Callable[[Run], object]:
    """Return a function that maps runs of equal seeds to one key, made of the seeds that all runs have.

    A run whose initial weights had no seed has a key of its own.

    Args:
        runs: The runs.
    """
    names = [name for name in runs[0].seeds if all(name in run.seeds for run in runs)]

    def key(run: Run) -> object:
        seeds = tuple(run.seeds[name] for name in names)
        return run.path if not seeds or None in seeds else seeds

    return key


def telling(names: Sequence[str], tables: Sequence[Mapping[str, Scalar]]) -> list[str]:
    """Return the names under which tables differ, without those that only repeat another one.

    ``algorithm/mu`` repeats what ``algorithm: FedProx(mu=0.1)`` says, and so does ``model.algorithm.class_path`` of a
    config; a name repeats another whose words are among its own, and whose values tell all tables apart that its do.

    Args:
        names: All names, the more telling ones first.
        tables: The tables; what one does not have is None.
    """
    columns = {name: [repr(table.get(name)) for table in tables] for name in names}
    differ = [name for name in names if len(set(columns[name])) > 1]
    # A checksum is said only where nothing else tells as much.
    worded = [name for name in differ if _words(name)[-1] != _CHECKSUM]
    together = [repr([columns[name][position] for name in worded]) for position in range(len(tables))]
    differ = [name for name in differ if name in worded or not _tells_as_much(together, columns[name])]
    return [
        name
        for position, name in enumerate(differ)
        if not any(
            _has_words_of(name, other)
            and _tells_as_much(columns[other], columns[name])
            and (len(_words(other)) < len(_words(name)) or differ.index(other) < position)
            for other in differ
            if other != name
        )
    ]


def said(name: str, value: Scalar) -> str:
    """Return a setting as it is said: a class names itself.

    >>> said("algorithm", "FedProx(mu=0.1)"), said("local_epochs", 5)
    ('FedProx(mu=0.1)', 'local_epochs=5')
    """
    return value if isinstance(value, str) and value[:1].isupper() else f"{name}={plain(value)}"


def plain(value: Scalar) -> str:
    """Return a value as it is shown.

    >>> plain(None), plain(True), plain(0.12520653814999466), plain(100000)
    ('–', 'true', '0.125207', '100000')
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _group(differs: Mapping[str, Scalar], runs: Sequence[Run]) -> Group:
    newest: dict[object, Run] = {}
    for run in sorted(runs, key=lambda run: run.started):
        newest[run.seed or run.path] = run
    kept = [run for run in runs if any(run is other for other in newest.values())]
    kept.sort(key=lambda run: tuple((name, isinstance(value, str), value or 0) for name, value in run.seed))
    return Group(differs, kept, [run for run in runs if not any(run is other for other in kept)])


def _words(name: str) -> list[str]:
    return [word for word in name.replace("/", ".").split(".") if word not in _WORDS_OF_CONFIGS]


def _has_words_of(name: str, other: str) -> bool:
    """Whether all words of the other name are in this one, in their order: ``model/lr`` in ``model.module.lr``."""
    words = iter(_words(name))
    return all(word in words for word in _words(other))


def _tells_as_much(column: Sequence[str], other: Sequence[str]) -> bool:
    """Whether groups of one value in this column have one value in the other column too."""
    return len(set(zip(column, other, strict=True))) == len(set(column))
