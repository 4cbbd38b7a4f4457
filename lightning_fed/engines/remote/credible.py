"""Checks of the updates of a worker on another machine, which may send anything, before they count."""

from __future__ import annotations

from lightning_fed._lightning import pl
from lightning_fed.wire import Job, Updates
from lightning_fed.worker.outbox import NOT_FINITE, Outbox, finite_of
from lightning_fed.worker.sealing import are_names
from lightning_fed.worker.sent_metrics import difference as difference_of_states

_MOST_METRICS = 500
"""The largest number of metrics of one worker: each is drawn, and a node could keep the server busy with them."""


def fault_in(updates: Updates, job: Job, module: pl.LightningModule, outbox: Outbox, most_examples: int) -> str | None:
    """Return what is wrong with the updates of one worker, in words; None: its numbers can be right.

    The numbers that a node reports decide how much it counts.

    Args:
        updates: As they were decoded, of one worker.
        job: The worker's.
        module: The server's module.
        outbox: The outbox that they have left.
        most_examples: How many examples the worker has announced, or can have if it keeps that for itself.
    """
    wrong = _wrong_buffer(updates, job, module)
    if wrong is not None:
        return wrong
    wrong = difference_of_states(module, updates.metric_states)
    if wrong is not None:
        return f"what its torchmetrics objects hold cannot be used: {wrong}"
    if updates.sealed is not None and not are_names(updates.sealed.scalars.keys()):
        return "the numbers that it would add have other names than they can have"
    sealed = 0 if updates.sealed is None else len(updates.sealed.scalars) // 2  # each has a weight
    number = len(updates.metrics) + len(updates.rates) + sealed
    if number > _MOST_METRICS:
        return f"it has logged {number} metrics, and {_MOST_METRICS} are the most"
    examples, weight = float(updates.examples), float(updates.weight)
    if not (0 <= examples <= most_examples):
        return f"it says that it has {examples:g} examples, and it has announced {most_examples}"
    # Sums and means by weight would be the worker's own if it could choose the weight.
    if not outbox.algorithm.weighs:
        expected = 1.0 if outbox.promise is not None else examples
        if not abs(weight - expected) <= 1e-9 * expected:  # a node that hides its sizes divides by them
            return f"it says that it counts as {weight:g}, and it counts as {expected:g}"
    elif not (0 <= weight < float("inf")):
        return f"it says that it counts as {weight:g}, which is no weight"
    if not finite_of(updates, job).all():
        return NOT_FINITE
    if not 0 <= float(updates.steps) < float("inf"):
        return f"it says that it took {float(updates.steps):g} steps"
    return None


def _wrong_buffer(updates: Updates, job: Job, module: pl.LightningModule) -> str | None:
    """Return what is wrong with the names of buffers: under that of a parameter, one would take its place."""
    missing = job.model.buffers.keys() - updates.buffers.keys()
    if missing:
        return f"its update lacks the buffer {min(missing)!r}"
    parts = dict(module.named_modules())
    for name in updates.buffers.keys() - job.model.buffers.keys() - job.model.frozen.keys():
        path, _, key = name.rpartition(".")
        part = parts.get(path)
        if part is None or not key or (key not in part._buffers and hasattr(part, key)):
            return f"its update has a buffer {name[:100]!r}, for which the server's module has no place"
    return None
