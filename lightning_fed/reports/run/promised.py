"""Facts of a run's promise of privacy, from its ledger and a checkpoint: complete, or refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from lightning_fed.privacy import AUDIENCES, Mechanism
from lightning_fed.privacy.accounting.storage import restored
from lightning_fed.privacy.page import Statement, statements_of
from lightning_fed.reports.run.around import Logs
from lightning_fed.reports.run.facts import MissingFactError, need, need_value
from lightning_fed.reports.run.kinds import COUNT, FLAG, TEXT, TIME, Fact, Kind, check, table_of
from lightning_fed.reports.run.view import View

_OF_A_FIT = {
    "promise": "what was promised",
    "unit": "what is hidden",
    "audience": "from whom it is hidden",
    "relation": "for which neighbours it holds",
    "delta": "for which δ it holds",
    "accountant": "how ε was added up",
    "noise_multiplier": "how much noise was added",
    "population": "how many workers there were",
    "cohort_size": "how many workers took part in a round",
    "sampling": "how cohorts were drawn",
    "insecure": "where the noise came from",
    "release_metrics": "whether metrics of workers were released",
    "least_replies": "how many workers must have replied",
    "versions": "which accountant was used",
    "outside": "what is outside of the guarantee",
    "mechanism": "by which mechanism",
    "time": "when a fit began",
    "stretch": "which releases are a fit's",
}
"""Facts that a line ``run`` of the ledger holds."""
_OF_A_FIT_OR_NONE = {
    "budget": "whether there was a budget",
    "remembers": "whether the algorithm keeps what no noise covers",
}
_OF_A_RELEASE = {
    "stretch": "which fit made a release",
    "bound": "to what a release was clipped",
    "noise_std": "how much noise a release has",
    "mechanism": "by which mechanism a release was made",
    "charges": "what a release was charged",
}
_OF_AN_END = {
    "stretch": "which fit has ended",
    "epsilon": "which ε was claimed",
    "delta": "for which δ it was claimed",
    "accountant": "how the claim was added up",
    "agrees": "whether the accountant agrees",
}
_VERSIONS = Kind(
    "a table with the versions of lightning_fed and dp-accounting",
    lambda value: table_of(TEXT).holds(value) and {"lightning_fed", "dp-accounting"} <= value.keys(),
)
_SIZE = Kind("a number", lambda value: isinstance(value, (int, float)) and not isinstance(value, bool))
_KINDS = {
    **dict.fromkeys(("promise", "unit", "audience", "relation", "accountant", "sampling", "stretch"), TEXT),
    **dict.fromkeys(("population", "cohort_size", "least_replies", "charges"), COUNT),
    **dict.fromkeys(("insecure", "release_metrics", "agrees"), FLAG),
    **dict.fromkeys(("delta", "noise_multiplier", "bound", "noise_std", "epsilon"), _SIZE),
    "time": TIME,
    "versions": _VERSIONS,
}
"""The types of the ledger's facts; ε and bounds may be infinite."""
_OF_A_CHECKPOINT = {
    "delta": "for which δ its account holds",
    "epsilon": "which ε it claims",
    "noise_multiplier": "how much noise was added",
    "insecure": "where the noise came from",
    "stretches": "what was charged",
    "run": "of which run it is",
    "promise": "what was promised",
    "unit": "what is hidden",
    "audience": "from whom it is hidden",
    "kind": "how ε was added up",
}


@final
@dataclass(frozen=True)
class Promised:
    """Facts of a promise.

    Args:
        view: The run.
        ledger: Its ledger's file.
        statement: The statement of ledger and checkpoint.

    Raises:
        MissingFactError: If ledger or checkpoint lacks a required fact.
    """

    view: View
    ledger: Path
    statement: Statement

    def __post_init__(self) -> None:
        record = self.statement.record
        for lines, facts in ((record.runs, _OF_A_FIT), (record.releases, _OF_A_RELEASE), (record.ends, _OF_AN_END)):
            for line in lines:
                for name, what in facts.items():
                    need_value(line, name, what, self.ledger)
                kinds = tuple(Fact(name, facts[name], kind) for name, kind in _KINDS.items() if name in facts)
                check(line, kinds, f"the line {line['kind']!r} in {self.ledger}")
        for line in record.runs:
            for name, what in _OF_A_FIT_OR_NONE.items():
                need(line, name, what, self.ledger)
        if self.last["audience"] not in AUDIENCES:
            raise MissingFactError(
                f"{self.ledger} says that the run hides {self.last['unit']}s from {self.last['audience']!r}, which is "
                "none of lightning_fed.privacy.AUDIENCES, so whom one has to trust cannot be said"
            )
        here = {fit["fit"] for fit in self.view.record.run["fits"]}  # an earlier fit may have promised nothing
        rounds, releases = sum(line["fit"] in here for line in self.view.record.rounds), len(record.releases)
        if releases < rounds:
            raise MissingFactError(
                f"{self.ledger} holds {releases} releases, and {self.view.record.folder} records {rounds} rounds: "
                "lines of the ledger are missing, so what was spent cannot be said"
            )
        if self.view.fact("outcome", "how the run ended") == "completed" and not record.ends:
            raise MissingFactError(
                f"{self.ledger} does not say that a fit has ended (it has no line 'end'), and {self.view.file} says "
                "that it was completed: lines of the ledger are missing"
            )

    @property
    def last(self) -> Mapping[str, Any]:
        """The settings of the last fit."""
        return self.statement.record.runs[-1]

    @property
    def fits(self) -> Sequence[Mapping[str, Any]]:
        """The settings of all fits."""
        return self.statement.record.runs

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """All that is computed from the ledger, ε among it."""
        return self.statement.as_json()

    @cached_property
    def mechanisms(self) -> list[tuple[Mechanism, int]]:
        """The released mechanisms, with the numbers of releases.

        Raises:
            MissingFactError: If one of them does not say how its analysis takes it that cohorts are drawn.
        """
        found = [(restored(charge), int(charge["count"])) for charge in self.facts["charges"]]
        for mechanism, _ in found:
            if not mechanism.participation:
                raise MissingFactError(
                    f"{type(mechanism).__name__} does not say how its analysis takes it that cohorts are drawn: give "
                    "the class a property 'participation' (docs/extending.md)"
                )
        return found

    @property
    def insecure(self) -> bool:
        """Whether the noise of a fit came from a seed."""
        of_a_checkpoint = self.statement.checkpoint is not None and self.statement.checkpoint["insecure"]
        return of_a_checkpoint or any(fit["insecure"] for fit in self.fits)

    @cached_property
    def around(self) -> Logs:
        """The folder of all logs, and what lies in it."""
        return Logs.around(self.view.record)

    @cached_property
    def others(self) -> Others:
        """Other private runs in the folder of all logs."""
        return Others.of(self)


@final
@dataclass(frozen=True)
class Others:
    """Other private runs in the folder of all logs.

    Args:
        number: How many there are.
        added: The ε and the δ of all that can be added up with the run's, itself among them.
        apart: The number of those that cannot: they hide something else, or for other neighbours.
        insecure: The number of those whose noise came from a seed.
        unreadable: The number of ledgers that cannot be read.
    """

    number: int
    added: tuple[float, float]
    apart: int
    insecure: int
    unreadable: int

    @staticmethod
    def of(promised: Promised) -> Others:
        """Find them by their ledgers."""
        own = promised.facts
        epsilon, delta, names = own["epsilon"], own["delta"], {own["run"]}
        apart = insecure = unreadable = 0
        for path in promised.around.ledgers:
            try:
                facts = [statement.as_json() for statement in statements_of(path)]
            except (OSError, ValueError, KeyError, TypeError):
                unreadable += 1
                continue
            for each in facts:
                if each["run"] in names:
                    continue
                names.add(each["run"])
                insecure += bool(each["insecure"])
                if (each["unit"], each["relation"]) != (own["unit"], own["relation"]) or each["insecure"]:
                    apart += not each["insecure"]
                    continue
                epsilon, delta = epsilon + each["epsilon"], delta + each["delta"]
        return Others(len(names) - 1, (epsilon, min(1.0, delta)), apart, insecure, unreadable)


def promised_by(view: View, checkpoint: Path | None) -> Promised | None:
    """Return the facts of a run's promise; None: there is no promise.

    Args:
        view: The run.
        checkpoint: The given checkpoint, if the path was one.

    Raises:
        MissingFactError: If ledger or checkpoint lacks a required fact.
    """
    if view.promise is None:
        return None
    ledger = _ledger_of(view)
    try:
        (statement,) = statements_of(ledger if checkpoint is None else checkpoint)
    except KeyError as error:
        raise MissingFactError(
            f"{checkpoint or ledger} does not say {_OF_A_CHECKPOINT.get(str(error.args[0]), 'all')} (it has no "
            f"{error}), and a report does not guess"
        ) from error
    if statement.checkpoint is not None:
        for name, what in _OF_A_CHECKPOINT.items():
            need_value(statement.checkpoint, name, what, f"the account in {checkpoint}")
        if statement.ledger is None or statement.ledger.name != ledger.name:
            raise MissingFactError(
                f"{checkpoint} is of the run {statement.run}, and the record in {view.record.folder} of another, with "
                f"the ledger {ledger.name}; give the folder of the checkpoint's own run"
            )
    if not statement.record.runs:
        raise MissingFactError(f"{ledger} has no line 'run', so it does not say what was promised")
    return Promised(view, ledger, statement)


def _ledger_of(view: View) -> Path:
    name = need_value(view.record.run, "ledger", "where the ledger of privacy lies", view.file)
    path = view.record.folder / str(name)
    if not path.is_file():
        raise MissingFactError(
            f"the ledger of privacy {path} is not there, and without it nobody can say what was promised and spent; "
            "put it back beside the record"
        )
    return path


def bounds(releases: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the least and the greatest clipping bound.

    Args:
        releases: The lines ``release``, at least one.
    """
    values = [float(release["bound"]) for release in releases]
    return min(values), max(values)


def unended(promised: Promised) -> Iterator[Mapping[str, Any]]:
    """Yield the interrupted fits.

    Args:
        promised: The promise.
    """
    ended = {end["stretch"] for end in promised.statement.record.ends}
    for fit in promised.fits:
        if fit["stretch"] not in ended:
            yield fit


def is_signed(promised: Promised) -> bool | None:
    """Whether the accountant finds what was claimed from the ledger alone; None: no fit has ended.

    Args:
        promised: The promise.
    """
    signed: bool | None = promised.facts["signed_off"]
    return signed if signed is None else signed and math.isfinite(promised.facts["epsilon"])
