"""Conversion of single workers' results to stacks of updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Updates
from lightning_fed.wire.logged import Shown
from lightning_fed.wire.metric_states import States


@final
@dataclass(frozen=True)
class LocalResult:
    """Result of local training for one worker, beside its delta.

    Args:
        worker: The worker's name.
        examples: The number of its training examples.
        loss: The mean loss over the local steps.
        steps: The number of local steps.
        metrics: Its logged values, by name.
        buffers: The buffers after local training.
        shown: How what it logged is shown, where that is not ``Shown(name)``.
        metric_states: The states of its torchmetrics objects, as far as they leave.
        rates: The learning rates that it began with.
        gradient: The mean gradient over the local steps, ``[1, size]``, if the job requires it.
    """

    worker: str
    examples: float
    loss: float
    steps: int
    metrics: dict[str, float]
    buffers: Tensors
    shown: dict[str, Shown] = field(default_factory=dict)
    metric_states: States = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    gradient: Tensor | None = None


def stacked(cohort: int, results: Sequence[LocalResult], delta: Tensor) -> Iterator[Updates]:
    """Stack the results of several workers.

    Args:
        cohort: The number of the workers' cohort.
        results: Those of n workers.
        delta: Their deltas; ``[n, size]``.

    Yields:
        One stack, or several if workers logged under different names, or have different buffers.
    """
    start = 0
    for (names, *_), group in groupby(results, key=_kind):
        part = list(group)
        rows = [[r.examples, r.loss, r.steps, *r.metrics.values(), *r.rates.values()] for r in part]
        examples, loss, steps, *columns = torch.tensor(rows, dtype=torch.float64).unbind(dim=1)
        gradients = [result.gradient for result in part if result.gradient is not None]
        yield Updates(
            cohort=cohort,
            workers=tuple(result.worker for result in part),
            delta=delta[start : start + len(part)],
            buffers={name: torch.stack([result.buffers[name] for result in part]) for name in part[0].buffers},
            examples=examples,
            weight=examples,
            loss=loss,
            steps=steps,
            metrics=dict(zip(names, columns, strict=False)),
            rates=dict(zip(part[0].rates, columns[len(names) :], strict=True)),
            shown=part[0].shown,
            metric_states={
                kind: {name: torch.stack([result.metric_states[kind][name] for result in part]) for name in own}
                for kind, own in part[0].metric_states.items()
            },
            gradient=torch.cat(gradients) if gradients else None,
        )
        start += len(part)


def _kind(result: LocalResult) -> tuple[tuple[str, ...], object, object, object, object]:
    """Return what the results of a stack have in common."""
    buffers = tuple((name, b.shape, b.dtype) for name, b in result.buffers.items())
    states = [(kind, list(own)) for kind, own in result.metric_states.items()]
    return tuple(result.metrics), result.shown, tuple(result.rates), states, buffers
