"""The final values of a run: ``at_end/...``."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, final

from lightning_fed.core.direction import better, worst_decile
from lightning_fed.core.spread import point
from lightning_fed.server.distributions import Workers, by_metric
from lightning_fed.server.evaluation.report import beside


@final
class Finals:
    """The last and the best values of a run, and its costs: a fixed number of plain numbers.

    A last value that is NaN or infinite is shown as such, like in the curve; an older value never replaces it. A
    checkpoint carries the values into the fit that is resumed from it.
    """

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._best: dict[str, float] = {}
        self._loss: float | None = None
        self._bytes = 0
        self._earlier = 0.0
        self._began: float | None = None  # while a fit runs

    def begin(self) -> None:
        """Begin a fit, of a new or a resumed run."""
        self._began = time.monotonic()

    def end(self) -> None:
        """End a fit."""
        self._earlier, self._began = self._seconds, None

    def add_round(self, loss: float | None, bytes: int) -> None:
        """Add a round in which nothing is hidden.

        Args:
            loss: The mean loss of its workers; None: no worker replied.
            bytes: The number of bytes sent and received.
        """
        self._bytes += bytes
        if loss is not None:
            self._loss = loss

    def add_evaluation(self, metrics: Mapping[str, float], workers: Workers) -> None:
        """Add an evaluation.

        Args:
            metrics: Its pooled values, by name.
            workers: The values of single workers.
        """
        self._last |= metrics
        for name, value in metrics.items():
            if not math.isnan(value):
                choose = min if better(name) == "min" else max
                self._best[name] = choose(value, self._best.get(name, value))
        for name, values in by_metric(workers).items():
            label = worst_decile(name)
            self._last[f"{name}_{label}"] = point(values.values(), label)

    @property
    def _seconds(self) -> float:
        return self._earlier + (0.0 if self._began is None else time.monotonic() - self._began)

    def values(self, epsilon: float | None) -> dict[str, float]:
        """Return the values by name.

        Args:
            epsilon: The spent ε; None: there is no promise.
        """
        costs = {"seconds": self._seconds}
        if self._bytes:
            costs["megabytes"] = self._bytes / 1e6
        if epsilon is not None:
            costs["epsilon"] = epsilon
        found = {**self._last, **{f"{name}_best": value for name, value in self._best.items()}}
        if not found and self._loss is not None:
            found["loss"] = self._loss
        return {f"at_end/{name}": value for name, value in {**beside(costs, found), **costs}.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores."""
        last, best = dict(self._last), dict(self._best)
        return {"last": last, "best": best, "loss": self._loss, "bytes": self._bytes, "seconds": self._seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a checkpoint.

        Args:
            state: The result of :meth:`state_dict`.
        """
        self._last, self._best, self._loss = dict(state["last"]), dict(state["best"]), state["loss"]
        self._bytes, self._earlier = state["bytes"], state["seconds"]
