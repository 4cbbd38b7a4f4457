"""The sentence of a privacy statement about releases besides the models: metrics and workers' reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fed.record.files import EVALUATIONS, RUN
from lightning_fed.record.reader import content_of, evaluations_ever
from lightning_fed.reports.run.document import Paragraph, counted
from lightning_fed.reports.run.facts import need
from lightning_fed.reports.run.promised import Promised
from lightning_fed.reports.run.view import View

_TITLE = "Released besides"


def released_besides(view: View, promised: Promised) -> Iterator[Paragraph]:
    """Yield a paragraph about releases besides the models, by all fits of the ledger whose records are found.

    Args:
        view: The run.
        promised: Its promise.

    Raises:
        MissingFactError: If a record lacks a required fact.
    """
    folders = _folders(view, promised)
    lines = [line for folder in folders for line in evaluations_ever(folder)]
    for folder in folders:
        for line in evaluations_ever(folder):
            for name in ("metrics", "workers"):
                need(line, name, f"the {name} of an evaluation", folder / EVALUATIONS)
    is_released = any(fit["release_metrics"] for fit in promised.fits)
    found = [*(_of_workers(view, lines) if is_released else ()), *_central(lines)]
    recorded = sum(len(content_of(folder / RUN)["fits"]) for folder in folders)
    gone = max(len(promised.fits) - recorded, 0)
    if gone:
        of_these = "Nothing by the fits that are recorded here" if not found else "All this by the fits recorded here"
        found.append(f"{of_these}; the ledger has {counted(gone, 'fit')} more, whose record was not found.")
    elif not found:
        found.append("Nothing: no metric was evaluated on central data.")
    yield Paragraph(" ".join(found), _TITLE, "warning" if gone else "plain")


def _folders(view: View, promised: Promised) -> list[Path]:
    """The folders of all runs that are found whose releases are in the ledger: a run may go on in another folder."""
    earlier = () if view.origin is None else view.origin.records
    known = [view.record.folder, *(record.folder for record in earlier)]
    return list(dict.fromkeys(folder.resolve() for folder in (*known, *promised.around.sharing(promised.ledger))))


def _central(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    central = [line for line in lines if not line["workers"]]
    names = dict.fromkeys(name for line in central for name in line["metrics"] if name != "epoch")
    values = sum(name in line["metrics"] for line in central for name in names)
    if values:
        yield (
            f"{', '.join(names)} on central data, {counted(values, 'value')} in {counted(len(central), 'evaluation')}. "
            "They follow from the released models and cost the workers nothing; the central data itself is not "
            "covered."
        )


def _of_workers(view: View, lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The values that ``release_metrics=True`` has shown without noise."""
    rounds = sum("cohort" in line for line in view.record.rounds)
    logged = dict.fromkeys(name for line in view.record.rounds for name in line.get("metrics") or ())
    also = f", and {', '.join(logged)}," if logged else ""
    yield (
        f"Without noise, of {counted(rounds, 'round')}: the names of the workers that were asked, that were away, late "
        f"or have failed, their number of examples, their mean loss{also} and how many bytes they have sent."
    )
    own = [line for line in lines if line["workers"]]
    names = dict.fromkeys(name for line in own for each in line["workers"].values() for name in each)
    if own:
        yield (
            f"Without noise, in {counted(len(own), 'evaluation')}: {', '.join(names)} of each worker by its name, its "
            "number of examples, and their distribution over workers."
        )
