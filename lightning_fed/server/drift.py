"""Drift of a cohort's workers: the norms of their updates, and the cosines of the updates to their aggregate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor

from lightning_fed.core.means import weighted_mean
from lightning_fed.core.processes import Processes
from lightning_fed.core.spread import point
from lightning_fed.core.tree import add_weighted_
from lightning_fed.wire import Aggregate, GlobalModel, Updates

_LEAST = 1e-30
"""The norm up to which an update counts as 0: the inverse of a smaller one may be beyond float32."""


@final
class Drift(NamedTuple):
    """Drift of the workers of one cohort.

    Args:
        norms: The L2 norm of each update of a worker that has examples, as it left the worker.
        alignment: The mean cosine of the updates to the aggregate, in [-1, 1]: 1 if all point the same way, near 0 if
            they cancel each other (client drift). None: the aggregate or all updates are 0, and have no direction.
    """

    norms: Sequence[float]
    alignment: float | None


@final
class DriftMeter:
    """Measures the drift in updates as they pass, without keeping one.

    The mean of the cosines ``⟨uᵢ, m⟩ / (‖uᵢ‖ ‖m‖)`` is ``⟨Σ uᵢ/‖uᵢ‖, m⟩ / (n ‖m‖)``. So one vector is kept, the sum of
    the updates at length 1, whatever the size of the cohort, and the aggregate m is needed at the end only. Both are
    as they are on the wire, between the workers' halves of transforms and the server's.

    Args:
        model: The global model, which gives size, dtype (at least float32) and device.
    """

    def __init__(self, model: GlobalModel) -> None:
        self._directions = model.zeros()
        self._norms: list[Tensor] = []

    def take(self, updates: Updates) -> None:
        """Take in a stack of updates.

        Args:
            updates: The updates of n workers; only read.
        """
        delta = updates.delta.to(self._directions.dtype)
        norms = torch.linalg.vector_norm(delta, dim=1)
        add_weighted_(self._directions, torch.where(norms > _LEAST, 1 / norms, 0.0), delta)
        self._norms.append(norms[(updates.examples > 0).to(norms.device)])

    @property
    def norms(self) -> list[float]:
        """The norms of the updates on this process."""
        return torch.cat(self._norms).tolist() if self._norms else []

    def drift(self, aggregate: Aggregate, norms: Sequence[float], processes: Processes) -> Drift:
        """Return the drift of the whole cohort; called on every process.

        Args:
            aggregate: The aggregate of the updates.
            norms: The norms of all processes.
            processes: The processes.
        """
        processes.sum_([self._directions])
        count = sum(_LEAST < norm < math.inf for norm in norms)
        length = aggregate.norm
        if not (count and length > _LEAST):
            return Drift(norms, None)
        dot = torch.dot(self._directions, aggregate.delta.to(self._directions))
        return Drift(norms, float(dot) / (count * length))


def drift_scalars(drifts: Sequence[Drift]) -> dict[str, float]:
    """Return the curves of a server step's updates.

    Args:
        drifts: Those of its cohorts, as far as they were measured.

    Returns:
        ``update/{p10,p90}_norm`` over the updates, and ``update/alignment``; a curve without a value is left out.

    >>> drift_scalars([Drift([1.0, 3.0], 0.5)])
    {'update/p10_norm': 1.2, 'update/p90_norm': 2.8, 'update/alignment': 0.5}
    >>> drift_scalars([Drift([0.0], None)])
    {'update/p10_norm': 0.0, 'update/p90_norm': 0.0}
    """
    norms = [norm for drift in drifts for norm in drift.norms]
    if not norms:
        return {}
    known = [(drift.alignment, len(drift.norms)) for drift in drifts if drift.alignment is not None]
    scalars = {f"update/{label}_norm": point(norms, label) for label in ("p10", "p90")}
    if known:
        values, weights = zip(*known, strict=True)
        scalars["update/alignment"] = weighted_mean(values, weights)
    return scalars
