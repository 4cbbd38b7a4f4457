"""Updates, which come back from workers, and the aggregate of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire.codes import Codes
from lightning_fed.wire.cohort_numbers import CohortNumbers
from lightning_fed.wire.global_model import GlobalModel
from lightning_fed.wire.logged import Shown
from lightning_fed.wire.metric_states import States
from lightning_fed.wire.sealed import Sealed


@final
@dataclass(frozen=True)
class Updates:
    """Updates of n workers, stacked along dim 0.

    Args:
        cohort: The number of the cohort of their job.
        workers: The n names.
        delta: Global minus local, a pseudo-gradient; ``[n, size]``, one row per worker. ``job.model.layout`` has
            the names.
        buffers: The buffers after local training; ``{name: [n, ...]}``.
        examples: The number of training examples; float64 ``[n]``.
        weight: Each worker's weight in a mean of updates: ``examples``, unless the algorithm sets another; float64
            ``[n]``.
        loss: The mean loss over the local steps; float64 ``[n]``.
        steps: The number of local steps; float64 ``[n]``.
        metrics: The values that the workers logged, reduced by each worker; ``{name: float64 [n]}``.
        shown: Their display settings, by the same names, where they are not ``Shown(name)``.
        metric_states: The states of the workers' torchmetrics objects that leave them, by the operation that merges
            them, ``{"sum" | "min" | "max": {name: [n, ...]}}``.
        rates: The learning rates of the workers' optimizers at the start of local training; ``{name: float64 [n]}``.
        gradient: The mean of the gradients of the worker's loss over its local steps, before anything was added to
            them; ``[n, size]``, or None if the job did not ask for it. It stays with the worker.
        extra: Further vectors of the algorithm, aggregated by the same rule as ``delta``;
            ``{name: [n, size]}``.
        stays: The names of parameters and buffers that stay with the workers and do not travel. They have not moved, as
            far as the server can see: ``delta`` is 0 there, and the buffers are the global ones.
        codes: The codes that cross in place of ``delta`` and ``extra``, which then hold the decoded values; None: the
            vectors themselves cross.
        sealed: The sealed numbers that cross in place of all vectors, buffers and metrics, which are then zeros, the
            global ones and empty; None: they themselves cross.
    """

    cohort: int
    workers: tuple[str, ...]
    delta: Tensor
    buffers: Tensors
    examples: Tensor
    weight: Tensor
    loss: Tensor
    steps: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
    shown: Mapping[str, Shown] = field(default_factory=dict)
    metric_states: States = field(default_factory=dict)
    rates: Mapping[str, Tensor] = field(default_factory=dict)
    gradient: Tensor | None = None
    extra: Tensors = field(default_factory=dict)
    stays: frozenset[str] = frozenset()
    codes: Codes | None = None
    sealed: Sealed | None = None

    def rows(self, keep: Tensor) -> Updates:
        """Return the updates of some of the workers.

        Args:
            keep: bool ``[n]``.
        """
        index = keep.nonzero().flatten()

        def pick(tensors: Mapping[str, Tensor]) -> Tensors:
            return {name: t.index_select(0, index.to(t.device)) for name, t in tensors.items()}

        return Updates(
            cohort=self.cohort,
            workers=tuple(self.workers[i] for i in index.tolist()),
            delta=self.delta[index.to(self.delta.device)],
            buffers=pick(self.buffers),
            examples=self.examples[keep],
            weight=self.weight[keep],
            loss=self.loss[keep],
            steps=self.steps[keep],
            metrics=pick(self.metrics),
            shown=self.shown,
            rates=pick(self.rates),
            metric_states={kind: pick(own) for kind, own in self.metric_states.items()},
            gradient=None if self.gradient is None else self.gradient[index.to(self.gradient.device)],
            extra=pick(self.extra),
            stays=self.stays,
            codes=None if self.codes is None else self.codes.pick(index),
            sealed=None if self.sealed is None else self.sealed.pick(index),
        )


@final
@dataclass(frozen=True)
class Aggregate:
    """Aggregate of a cohort's updates.

    Args:
        delta: The pseudo-gradient for the server optimizer; ``[size]``. ``job.model.layout`` has the names.
        buffers: The new global buffers; ``{name: [...]}``.
        extra: The aggregates of ``Updates.extra``; ``{name: [size]}``.
        numbers: The numbers that the cohort reports together, if those of single workers are hidden.
        changes: False if no update arrived; the server optimizer is then skipped, since momentum alone would move the
            model.
    """

    delta: Tensor
    buffers: Tensors
    extra: Tensors = field(default_factory=dict)
    changes: bool = True
    numbers: CohortNumbers | None = None

    @staticmethod
    def nothing(model: GlobalModel) -> Aggregate:
        """Return an aggregate that changes nothing: of a round without updates."""
        buffers = {name: buffer.clone() for name, buffer in model.buffers.items()}
        return Aggregate(model.zeros(), buffers, changes=False)

    @property
    def norm(self) -> float:
        """The L2 norm of the pseudo-gradient over all parameters."""
        return float(torch.linalg.vector_norm(self.delta))
