"""Texts of a dashboard: tables, as Markdown and as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from lightning_fed.module import FederatedModule
from lightning_fed.privacy.page import statements_of
from lightning_fed.privacy.run import neighbours
from lightning_fed.wire.contents import Leaves


@final
@dataclass(frozen=True)
class Text:
    """A text for loggers that show Markdown, and for those that show tables.

    Args:
        markdown: The text.
        columns: The names of the columns of its table.
        rows: The cells, row by row.
    """

    markdown: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def table(about: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Text:
    r"""Return a table with a sentence above it.

    Args:
        about: The sentence.
        columns: The names of the columns.
        rows: The cells, row by row.

    >>> print(table("What was set.", ["setting", "value"], [["lr", "0.1 | 0.2"]]).markdown)
    What was set.
    <BLANKLINE>
    | setting | value |
    | --- | --- |
    | lr | 0.1 \| 0.2 |
    """
    lines = [columns, ["---"] * len(columns), *([_cell(cell) for cell in row] for row in rows)]
    return Text("\n".join([about, "", *(f"| {' | '.join(line)} |" for line in lines)]), columns, rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def settings_table(settings: Mapping[str, Any]) -> Text:
    """Return the settings as a table, for ``run/settings``.

    Args:
        settings: Flat, by name.
    """
    rows = [[name, "none" if value is None else str(value)] for name, value in settings.items()]
    return table("What this run does.", ["setting", "value"], rows)


def leaves_table(leaves: Leaves) -> Text:
    """Return the contents of the messages between server and worker, for ``run/what_leaves``.

    Args:
        leaves: The contents of one worker's messages.
    """
    who = "a worker" if leaves.worker is None else leaves.worker
    when = "a round" if leaves.round is None else f"round {leaves.round}"
    about = (
        f"Messages of {who} in {when}: {leaves.bytes_up:,} bytes have left it, it was sent "
        f"{leaves.bytes_down:,}, and the rest stays."
    )
    rows = [
        [way, row.name or row.kind, row.dtype, "×".join(map(str, row.shape)), f"{row.bytes:,}", row.why]
        for way, part in (("leaves", leaves.up), ("is sent", leaves.down), ("stays", leaves.stays))
        for row in part
    ]
    return table(about, ["way", "name", "dtype", "shape", "bytes", "why"], rows)


def promise_table(fed: FederatedModule) -> Text:
    """Return the promise to the workers as a table, for ``run/promise``.

    Args:
        fed: The module; its fit has begun.
    """
    run, privacy = fed.private_run, fed.privacy
    if run is None or privacy is None:
        return table("Nothing was promised to the workers.", ["promise", "value"], [["privacy", "none"]])
    insecure = [["NOT PRIVATE", "its noise comes from a seed, so nothing below is promised"]] if run.insecure else []
    shown = "yes: the guarantee does not cover them" if privacy.release_metrics else "no"
    rows = [
        *insecure,
        ["promise", f"{type(privacy).__name__}: hides a single {privacy.unit}"],
        ["from whom", privacy.audience],
        ["neighbours", neighbours(run.relation, privacy.unit)],
        ["budget", "none" if run.budget is None else f"ε = {run.budget:g}"],
        ["δ", f"{run.delta:.3g}"],
        ["mechanism", str(run.mechanism)],
        ["clipping bound", f"{run.bound:.6g}"],
        ["noise (std)", f"{run.noise_multiplier * run.bound:.6g}"],
        ["accountant", run.accountant.kind.upper()],
        ["workers", f"{run.setting.cohort_size} of {run.setting.population} in a round"],
        ["losses, metrics and counts of workers are shown", shown],
        ["ledger", "none" if run.ledger.path is None else str(run.ledger.path)],
    ]
    return table("What is promised to the workers; the curve privacy/epsilon is what is spent.", ["promise", ""], rows)


def spent_page(fed: FederatedModule) -> Text | None:
    """Return the page of the ledger about the spent budget; None: there is no ledger.

    Args:
        fed: The module, whose fit is over.
    """
    run = fed.private_run
    if run is None or run.ledger.path is None or not run.ledger.path.is_file():
        return None
    page = statements_of(run.ledger.path)[0].as_text()
    return Text(page, ["page"], [[page]])
