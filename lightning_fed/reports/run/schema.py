"""Required facts in the files of a run, for each way of ending, checked once before a report is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_fed.privacy.ledger import PREFIX
from lightning_fed.record import RunRecord
from lightning_fed.record.files import EVALUATIONS, ROUNDS, RUN
from lightning_fed.record.lines import MOST_IN_A_COHORT
from lightning_fed.record.settings import seeds_of
from lightning_fed.reports.run.facts import MissingFactError
from lightning_fed.reports.run.kinds import (
    AMOUNT,
    COUNT,
    FLAG,
    NUMBER,
    ROUND,
    SCALAR,
    TABLE,
    TEXT,
    TIME,
    Fact,
    Kind,
    check,
    list_of,
    one_of,
    table_of,
)

_CONFIG = "config.yaml"
_FAILURE = Kind("a worker and a reason", lambda each: TABLE.holds(each) and _has_texts(each, ("worker", "reason")))
_OF_A_RUN = (
    Fact("name", "the name of the run", TEXT),
    Fact("started", "when it began", TIME),
    Fact("finished", "when it ended", TIME.or_null()),
    Fact("outcome", "how the run ended", one_of("running", "completed", "failed", "interrupted")),
    Fact("fits", "of which fits the run is made", list_of(TABLE)),
    Fact("command", "by which command it was run", TEXT),
    Fact("config", "which config it had", TEXT.or_null()),
    Fact("config_sha256", "which config it had", TEXT.or_null()),
    Fact("commit", "at which commit it was run", TEXT.or_null()),
    Fact("versions", "which versions ran it", table_of(TEXT)),
    Fact("settings", "with which settings it was run", table_of(SCALAR)),
    Fact("seeds", "from which seeds it was run", table_of(SCALAR)),
    Fact("data", "about the data", TABLE),
    Fact("leaves", "what left the workers", TABLE.or_null()),
    Fact("promise", "whether anything was promised", TABLE.or_null()),
    Fact("ledger", "where the ledger of privacy lies", TEXT.or_null()),
)
_OF_A_FIT = (
    Fact("fit", "the name of a fit", TEXT),
    Fact("round", "with which round a fit began", COUNT),
    Fact("started", "when a fit began", TIME),
    Fact("checkpoint", "from which checkpoint a fit went on", TEXT.or_null()),
)
_OF_THE_VERSIONS = tuple(
    Fact(name, f"which version of {name} ran it", TEXT) for name in ("python", "lightning_fed", "torch", "numpy")
)
_OF_THE_DATA = (
    Fact("population", "how many workers there are", COUNT),
    Fact("cohort_size", "how many workers take part in a round", COUNT),
)
_OF_A_PROMISE = (
    Fact("name", "what was promised", TEXT),
    Fact("unit", "what is hidden", TEXT),
    Fact("release_metrics", "whether metrics of workers were released", FLAG),
    Fact("insecure", "where the noise came from", FLAG),
)
_OF_WHOM = (
    Fact("round", "in which round a message was looked into", COUNT),
    Fact("worker", "whose message was looked into", TEXT),
)
_OF_WHOM_OR_HIDDEN = tuple(replace(fact, kind=fact.kind.or_null()) for fact in _OF_WHOM)
_OF_LEAVES = (
    Fact("bytes_up", "how long the message of a worker was", COUNT),
    Fact("bytes_down", "how long the message to a worker was", COUNT),
    *(Fact(name, f"what {what}", list_of(TABLE)) for name, what in (("up", "left it"), ("down", "it was sent"))),
    Fact("stays", "what never leaves it", list_of(TABLE)),
)
_OF_A_PART = (
    Fact("kind", "what a part of a message is", TEXT),
    Fact("name", "the name of a part of a message", TEXT),
    Fact("dtype", "the dtype of a part of a message", Kind("a text", lambda value: isinstance(value, str))),
    Fact("shape", "the shape of a part of a message", list_of(COUNT)),
    Fact("bytes", "the length of a part of a message", COUNT),
    Fact("why", "why a part of a message is there", TEXT),
)
_OF_A_LINE = (Fact("fit", "of which fit it is", TEXT), Fact("round", "of which round it is", ROUND))
_OF_A_ROUND = (
    Fact("size", "the size of the cohort", COUNT),
    Fact("cohort", "the cohort of a round", list_of(TEXT).or_null()),
    Fact("loss", "the loss of a round", NUMBER.or_null()),
    Fact("dropped", "the dropped workers of a round", list_of(TEXT).or_null()),
    Fact("stragglers", "the stragglers of a round", list_of(TEXT).or_null()),
    Fact("failures", "the failures of a round", list_of(_FAILURE)),
    Fact("seconds", "the seconds of a round", AMOUNT),
    Fact("bytes_down", "the bytes_down of a round", COUNT),
    Fact("bytes_up", "the bytes_up of a round", COUNT),
)
_NAMES_OF_A_ROUND = tuple(fact.name for fact in _OF_A_ROUND)
_VALUES = table_of(NUMBER.or_null())
_OF_AN_EVALUATION = (
    Fact("stage", "the stage of an evaluation", one_of("val", "validate", "test")),
    Fact("metrics", "the metrics of an evaluation", _VALUES),
    Fact("workers", "the workers of an evaluation", table_of(_VALUES).or_null()),
    Fact("examples", "the examples of an evaluation", table_of(AMOUNT).or_null()),
    Fact("failures", "the failures of an evaluation", list_of(_FAILURE)),
    Fact("seconds", "the seconds of an evaluation", AMOUNT),
)


def check_record(record: RunRecord, is_cut: bool = False) -> None:
    """Refuse a record in which a fact is missing, is of another kind, or contradicts another one.

    Args:
        record: The record in one folder.
        is_cut: Whether its last lines were left out, as another run has gone on from an earlier checkpoint.

    Raises:
        MissingFactError: In each of these cases; the message names the file, the line and the fact.
    """
    file, run = record.folder / RUN, record.run
    check(run, _OF_A_RUN, file)
    if not run["fits"]:
        raise MissingFactError(f"{file} does not say of which fits the run is made ('fits' is empty): put it back")
    for fit in run["fits"]:
        counts = tuple(Fact(name, f"how many {name} a fit has", COUNT) for name in ("rounds", "evaluations"))
        check(fit, (*_OF_A_FIT, *(fact for fact in counts if fact.name in fit)), f"the fit {fit.get('fit')} in {file}")
    check(run["versions"], _OF_THE_VERSIONS, f"'versions' in {file}")
    check(run["data"], _OF_THE_DATA, f"'data' in {file}")
    _check_promise(record)
    if run["promise"] is not None:
        check(run["promise"], _OF_A_PROMISE, f"'promise' in {file}")
    if len(run["versions"]) <= len(_OF_THE_VERSIONS):
        raise MissingFactError(
            f"{file} does not say which version of Lightning ran it ('versions' has none), and a report does not "
            "guess; put back the file that the run has written"
        )
    if run["leaves"] is not None:
        _check_leaves(run["leaves"], run["promise"] is not None, f"'leaves' in {file}")
    _check_end(record)
    _check_lines(record)
    if not is_cut:
        _check_counts(record)


def _check_end(record: RunRecord) -> None:
    """Refuse facts of ``run.json`` that contradict each other, or the files beside it."""
    file, run = record.folder / RUN, record.run
    if (run["finished"] is None) != (run["outcome"] == "running"):
        raise MissingFactError(
            f"{file} does not say when the run ended: its 'outcome' is {run['outcome']}, and 'finished' is "
            f"{run['finished'] or 'null'}; put back the file that the run has written"
        )
    config, digest = run["config"], run["config_sha256"]
    if (config is None) != (digest is None):
        raise MissingFactError(
            f"{file} does not say which config it had: of 'config' and 'config_sha256' one is null; put back the file "
            "that the run has written"
        )
    if config is None and (record.folder / _CONFIG).is_file():
        raise MissingFactError(
            f"{file} does not say which config it had ('config' is null there), and {record.folder / _CONFIG} lies "
            "beside it; put back the file that the run has written, or move the config away if it is of another run"
        )
    for name in seeds_of(run["settings"]):
        if name not in run["seeds"]:
            raise MissingFactError(
                f"{file} does not say from which seeds it was run: {name!r} is in 'settings', and not in 'seeds'; put "
                "back the file that the run has written"
            )


def _check_leaves(leaves: Mapping[str, Any], is_private: bool, where: str) -> None:
    check(leaves, (*(_OF_WHOM_OR_HIDDEN if is_private else _OF_WHOM), *_OF_LEAVES), where)
    for name in ("up", "down", "stays"):
        for part in leaves[name]:
            check(part, _OF_A_PART, f"{name!r} of {where}")
    for name in ("up", "down"):
        length, whole = sum(part["bytes"] for part in leaves[name]), leaves[f"bytes_{name}"]
        if length != whole:
            raise MissingFactError(
                f"the parts in {name!r} of {where} have {length:,} bytes, and 'bytes_{name}' says {whole:,}: parts are "
                "missing or were changed, and a report does not guess; put back the file that the run has written"
            )


def _check_lines(record: RunRecord) -> None:
    """Refuse lines in which a fact is missing, and files of which lines are missing."""
    rounds, evaluations = record.folder / ROUNDS, record.folder / EVALUATIONS
    hides = _may_hide(record)
    for line in record.rounds:
        where = f"the line of round {line.get('round')} in {rounds}"
        check(line, _OF_A_LINE, where)
        if not hides or not line.keys().isdisjoint(_NAMES_OF_A_ROUND):  # else it is hidden as a whole
            check(line, _OF_A_ROUND, where)
            _check_cohort(line, where)
    for line in record.evaluations:
        check(line, (*_OF_A_LINE, *_OF_AN_EVALUATION), f"the line after round {line.get('round')} in {evaluations}")
    _check_numbers(record.rounds, record.run["fits"][0]["round"], rounds)
    own = [line for line in record.rounds if line["fit"] == record.run["fits"][-1]["fit"]]
    sent = next((line["round"] for line in own if line.get("bytes_up")), None)
    if record.run["leaves"] is None and sent is not None:
        raise MissingFactError(
            f"{record.folder / RUN} does not say what left the workers ('leaves' is null there), and {rounds} has "
            f"bytes that were sent up in round {sent}; a report does not guess: put back the file that the run has "
            "written"
        )


def _check_cohort(line: Mapping[str, Any], where: str) -> None:
    if line["cohort"] is not None and len(line["cohort"]) != line["size"]:
        raise MissingFactError(
            f"{where} names {len(line['cohort'])} workers, and says that {line['size']} were asked: it was changed; "
            "put back the file that the run has written"
        )
    for name in ("cohort", "dropped", "stragglers"):
        if line[name] is None and line["size"] <= MOST_IN_A_COHORT:
            raise MissingFactError(
                f"{where} does not say who belongs to {name!r} (it is null there, which only cohorts of more than "
                f"{MOST_IN_A_COHORT:,} may have), and a report does not guess; put back the file that the run has "
                "written"
            )


def _check_numbers(rounds: Sequence[Mapping[str, Any]], first: int, file: object) -> None:
    """Refuse rounds whose numbers have gaps, from the first one of the first fit on."""
    for number, line in enumerate(rounds, first):
        if line["round"] != number:
            raise MissingFactError(
                f"{file} has no line of round {number}, and one of round {line['round']}: lines are missing, and a "
                "report does not guess; put back the file that the run has written"
            )


def _check_counts(record: RunRecord) -> None:
    """Refuse files of which lines are missing that a fit has written, of which no later fit has taken the place."""
    fits = record.run["fits"]
    first, last = fits[0]["round"], fits[-1]["round"]
    if first + len(record.rounds) < last:
        raise MissingFactError(
            f"{record.folder / ROUNDS} has no line of round {last - 1}, after which the last fit went on: lines are "
            "missing, and a report does not guess; put back the file that the run has written"
        )
    for place, fit in enumerate(fits):
        is_whole = all(fit["round"] + fit.get("rounds", 0) <= later["round"] for later in fits[place + 1 :])
        if not is_whole:
            continue
        which = "the last fit" if place == len(fits) - 1 else f"the fit {fit['fit']}"
        for name, lines in (("rounds", record.rounds), ("evaluations", record.evaluations)):
            there = sum(line["fit"] == fit["fit"] for line in lines)
            if there < fit.get(name, 0):
                raise MissingFactError(
                    f"{record.folder / name}.jsonl has {there} lines of {which}, and {record.folder / RUN} says "
                    f"that it has written {fit[name]}: lines are missing, and a report does not guess"
                )


def _may_hide(record: RunRecord) -> bool:
    """Whether a fit in the folder may have made a promise, under which rounds have a number and nothing else."""
    return record.run["promise"] is not None or any(record.folder.glob(f"{PREFIX}*.jsonl"))


def _check_promise(record: RunRecord) -> None:
    """Refuse a promise that is null where the other facts are those of a private run."""
    run, file = record.run, record.folder / RUN
    if run["promise"] is not None:
        return
    fit = run["fits"][-1]["fit"]
    own = [line for line in record.rounds if line.get("fit") == fit]
    hidden = any(line.keys().isdisjoint(_NAMES_OF_A_ROUND) for line in own)
    if run["ledger"] is None and run["settings"].get("privacy") is None and not hidden:
        return
    ledgers = sorted(record.folder.glob(f"{PREFIX}*.jsonl"))
    other = run["ledger"] or next(iter(ledgers), record.folder / ROUNDS)
    raise MissingFactError(
        f"{file} says that nothing was promised ('promise' is null there), and {record.folder / other} is that of a "
        "private run: they contradict each other, and a report does not guess; put back the file that the run has "
        "written"
    )


def _has_texts(content: Mapping[str, Any], names: Sequence[str]) -> bool:
    return all(isinstance(content.get(name), str) for name in names)
