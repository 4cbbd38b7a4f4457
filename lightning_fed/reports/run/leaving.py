"""The section about the content of each worker's messages, as sent in the first round."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lightning_fed.reports.run.document import Block, Cell, Paragraph, Section, Table, counted
from lightning_fed.reports.run.view import View

_MOST_ROWS = 40
_KINDS = {
    "delta": "change of trained parameters",
    "extra": "what the algorithm sends besides",
    "buffer": "buffers",
    "metric_state": "states of torchmetrics objects",
    "metric": "logged values",
    "rate": "learning rates",
    "number": "numbers about the training",
    "header": "header",
    "parameter": "parameters of the global model",
    "sent": "what the algorithm sends to all",
    "linear": "correction of gradients",
    "start": "the worker's own model",
    "attribute": "attributes of the module",
    "gradient": "gradients",
}


def what_left(view: View) -> Section:
    """Return the content of each worker's messages, tensor by tensor, of its jobs, and the names that never leave.

    Args:
        view: The run.
    """
    leaves = view.fact("leaves", "what left the workers")
    if leaves is None:
        return Section("What left each worker", (_nothing(view),))
    whose = "of one worker" if leaves["worker"] is None else f"of {leaves['worker']}"
    when = "a round" if leaves["round"] is None else f"round {leaves['round']}"
    intro = (
        f"The messages {whose} in {when}, as on the wire: {leaves['bytes_up']:,} bytes left it, "
        f"and it was sent {leaves['bytes_down']:,}. All numbers are of one worker and one round."
    )
    blocks: list[Block] = [Paragraph(intro), *_others(view, leaves)]
    blocks += [Paragraph("", "What left it"), *detail(leaves["up"])]
    blocks += [Paragraph("", "What it was sent"), Table(_SUM, tuple(summed(leaves["down"])))]
    never = tuple((each["name"], _shape(each), each["why"]) for each in leaves["stays"])
    blocks += [Paragraph("", "What never leaves it"), Table(("what", "shape", "why"), never)]
    blocks += [*_in_evaluations(view), Paragraph(_ERRORS)]
    return Section("What left each worker", tuple(blocks))


def _nothing(view: View) -> Paragraph:
    """Return the reason why no message was examined."""
    if not view.record.rounds:
        return Paragraph("No worker has come back, so nothing has left one.")
    if view.record.rounds[-1]["fit"] != view.record.run["fits"][-1]["fit"]:
        return Paragraph(
            "The last fit has run no round, so no message was looked into in it.", "Not recorded", "warning"
        )
    if view.hidden:
        text = "No message was looked into in the last fit. The promise hides whether any worker has come back."
        return Paragraph(text, "Not recorded", "warning")
    return Paragraph("No worker of the last fit has come back, so no message was looked into in it.")


_SUM = ("what", "tensors", "numbers", "bytes", "why")
_ERRORS = "Of a training that fails, the text of the error leaves the worker in place of an update."


def detail(rows: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Return the parts of a message: those of a kind summed, then one by one; of many alike ones a pattern.

    Args:
        rows: As ``run.json`` has them.
    """
    patterns = list(alike(rows) if len(rows) > _MOST_ROWS else map(_one, rows))
    head = ("name", "dtype", "shape", "bytes", "why")
    return [Table(_SUM, tuple(summed(rows))), Table(head, tuple(patterns))]


def summed(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Cell, ...]]:
    """Sum the parts of each kind, and all of them.

    Args:
        rows: As ``run.json`` has them.
    """
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        reasons = list(dict.fromkeys(row["why"] for row in own))
        is_tensor = kind != "header"
        numbers = sum(math.prod(row["shape"]) for row in own) if is_tensor else None
        why = reasons[0] if len(reasons) == 1 else None
        yield (_KINDS.get(kind, kind), len(own) if is_tensor else None, numbers, sum(row["bytes"] for row in own), why)
    yield ("in all", None, None, sum(row["bytes"] for row in rows), None)


def alike(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Cell, ...]]:
    """Put parts together whose names differ in numbers only, and that have one dtype, shape and reason.

    Args:
        rows: As ``run.json`` has them.

    >>> one = {"name": "layers.0.weight", "dtype": "float32", "shape": [2], "bytes": 8, "why": "aggregated"}
    >>> list(alike([one, {**one, "name": "layers.1.weight"}]))
    [('layers.*.weight (2 tensors)', 'float32', '2', 16, 'aggregated')]
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        pattern = re.sub(r"\d+", "*", row["name"])
        groups.setdefault((pattern, row["dtype"], _shape(row), row["why"]), []).append(row)
    for (pattern, dtype, shape, why), own in groups.items():
        if len(own) == 1:
            yield _one(own[0])
        else:
            yield (f"{pattern} ({len(own)} tensors)", dtype, shape, sum(row["bytes"] for row in own), why)


def _one(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (row["name"], row["dtype"], _shape(row), row["bytes"], row["why"])


def _shape(row: Mapping[str, Any]) -> str:
    return " × ".join(map(str, row["shape"]))


def _others(view: View, leaves: Mapping[str, Any]) -> Iterator[Paragraph]:
    """Yield remarks about later messages of other lengths, as when a buffer or a frozen parameter has changed."""
    means = []
    for line in view.record.rounds:
        came = len(line["cohort"]) - len(line["dropped"]) - len(line["failures"]) if _is_counted(line) else 0
        if came > 0:
            means.append(line["bytes_up"] / came)
    if means and (max(means) > leaves["bytes_up"] + _NAMES or min(means) < leaves["bytes_up"] - _NAMES):
        yield Paragraph(
            f"Messages of other rounds or workers have had other lengths: from {min(means):,.0f} to {max(means):,.0f} "
            "bytes in the mean of a round.",
            "Not all alike",
        )


_NAMES = 256
"""The difference in bytes between messages that is due to names of workers and numbers of cohorts."""


def _is_counted(line: Mapping[str, Any]) -> bool:
    return all(line.get(name) is not None for name in ("cohort", "dropped", "failures", "bytes_up"))


def _in_evaluations(view: View) -> Iterator[Paragraph]:
    there = [line for line in view.record.evaluations if line["workers"]]
    if there:
        names = dict.fromkeys(name for line in there for each in line["workers"].values() for name in each)
        yield Paragraph(
            f"In {counted(len(there), 'evaluation')} on the workers' own data, each worker's {', '.join(names)} and "
            "its number of examples; they are not among the bytes above, which are those of training.",
            "In evaluations",
        )
