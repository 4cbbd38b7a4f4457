"""The section about costs: time and bytes, in all and to reach a target."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from lightning_fed.core.direction import better
from lightning_fed.reports.run.document import Block, Cell, Paragraph, Section, Table, counted, written
from lightning_fed.reports.run.view import View


def cost(view: View, target: float | None) -> Section:
    """Return the section about the run's costs.

    Args:
        view: The run.
        target: A value of the chosen metric; None: none is asked for.

    Raises:
        ValueError: If there is a target, and no metric.
    """
    blocks: list[Block] = [Table(("what", "amount"), tuple(_amounts(view)))]
    if view.total("bytes_up") is None:
        blocks.append(Paragraph(_without_bytes(view), "", "small"))
    else:
        text = "Bytes are the lengths of the messages that the wire would carry between machines."
        blocks.append(Paragraph(text, "", "small"))
    if target is not None:
        blocks.append(_to_reach(view, target))
    return Section("Cost", tuple(blocks))


def _amounts(view: View) -> Iterator[tuple[Cell, ...]]:
    began, ended = view.fact("started", "when it began"), view.fact("finished", "when it ended")
    if ended is not None:
        seconds = (datetime.fromisoformat(ended) - datetime.fromisoformat(began)).total_seconds()
        here = "" if view.origin is None else f", after round {view.origin.after - 1}"
        yield (f"from the beginning to the end{here}", f"{written(seconds)} s")
    yield ("rounds", written(view.over))
    if view.missing:
        yield ("rounds that are recorded, of which is what follows", written(len(view.record.rounds)))
    in_rounds = view.total("seconds")
    if in_rounds is not None:
        yield ("in rounds", f"{written(in_rounds)} s")
        yield ("a round", f"{written(in_rounds / sum('seconds' in line for line in view.record.rounds))} s")
    evaluating = sum(line["seconds"] or 0.0 for line in view.record.evaluations)
    yield ("in evaluations", f"{written(evaluating)} s")
    for name, words in (("bytes_down", "sent to the workers"), ("bytes_up", "sent by the workers")):
        total = view.total(name)
        if total is not None:
            yield (words, f"{written(total / 1e6)} MB")


def _without_bytes(view: View) -> str:
    if not view.hidden:
        return "No round was recorded, so no bytes are."
    leaves, data = view.record.run.get("leaves"), view.record.run.get("data", {})
    size = data.get("cohort_size")
    if not leaves or size is None:
        return "Bytes are not recorded: they would say how many took part."
    up, rounds = leaves["bytes_up"], len(view.record.rounds)
    planned = written(size * up * rounds / 1e6)
    return (
        "Bytes are not recorded: they would say how many took part. With cohorts of the planned size, "
        f"{size:,} workers, and {up:,} bytes from each, {rounds:,} rounds make {planned} MB up."
    )


def _to_reach(view: View, target: float) -> Paragraph:
    metric = view.metric
    if metric is None:
        raise ValueError(f"there is no metric to reach {target:g}: nothing was evaluated in {view.record.folder}")
    is_high = better(metric) == "max"
    reached = [round for round, value in view.pooled(metric) if (value >= target if is_high else value <= target)]
    wanted = f"{metric} {'≥' if is_high else '≤'} {target:g}"
    if not reached:
        return Paragraph(f"{wanted} was not reached in {counted(len(view.record.rounds), 'round')}.", "Target")
    first = reached[0]
    if view.missing:
        return Paragraph(
            f"{wanted} was evaluated after {counted(first, 'round')}; the first {counted(view.missing, 'round')} are "
            "not recorded here, so it may have been reached before, and what it has cost cannot be said.",
            "Target",
        )
    until = [line for line in view.record.rounds if int(line["round"]) < first]
    says = [counted(first, "round")]
    if all("bytes_up" in line for line in until):
        both = sum(line["bytes_up"] + line["bytes_down"] for line in until)
        says += [
            f"{written(both / 1e6)} MB up and down",
            f"{written(sum(line['seconds'] for line in until))} s in rounds",
        ]
    return Paragraph(f"{wanted} was first evaluated after {', '.join(says)}.", "Target")
