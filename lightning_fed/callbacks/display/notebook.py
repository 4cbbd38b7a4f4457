"""A row in the output of a notebook's cell."""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Sequence
from html import escape
from typing import Any, final

from typing_extensions import override

from lightning_fed.callbacks.display.base import Display
from lightning_fed.callbacks.display.status import Evaluation, Status, Summary
from lightning_fed.callbacks.display.text import SEPARATOR, head, parts, percent


@final
class Notebook(Display):
    """Replaces one row of HTML, and adds a table of the last evaluations when the run is over.

    IPython is imported here only.

    Args:
        rate: The largest number of replacements in a second.
    """

    def __init__(self, rate: float) -> None:
        self._interval = 1 / rate
        self._next = 0.0
        self._ipython: Any = importlib.import_module("IPython.display")
        self._id = uuid.uuid4().hex
        self._is_there = False
        self._status: Status | None = None

    @override
    def is_due(self, now: float, done: int, total: int | None, between: bool) -> bool:
        return now >= self._next

    @override
    def show(self, status: Status, now: float) -> None:
        self._next = now + self._interval
        self._status = status
        self._put(_row(status))

    @override
    def close(self, status: Status | None, summary: Summary | None) -> None:
        status = status or self._status
        rows = [] if status is None else [_row(status)]
        if summary is not None:
            rows += [f"<div>{escape(summary.text)}</div>", _table(summary.evaluations)]
        if rows:
            self._put("".join(rows))

    def _put(self, html: str) -> None:
        put = self._ipython.update_display if self._is_there else self._ipython.display
        self._is_there = True
        put(self._ipython.HTML(html), display_id=self._id)


def _row(status: Status) -> str:
    bar = "" if status.fraction is None else f'<progress value="{status.fraction:.4f}" max="1"></progress> '
    after = SEPARATOR.join(text for text in (percent(status), *(part.forms[0] for part in parts(status))) if text)
    return f"<div>{escape(head(status))} {bar}{escape(after)}</div>"


def _table(evaluations: Sequence[Evaluation]) -> str:
    names = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.values))
    if not names:
        return ""
    header = "".join(f"<th>{escape(name)}</th>" for name in ("round", *names))
    rows = [
        "".join(f"<td>{escape(text)}</td>" for text in (str(round), *(values.get(name, "") for name in names)))
        for round, values in evaluations
    ]
    return f"<table><tr>{header}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"
