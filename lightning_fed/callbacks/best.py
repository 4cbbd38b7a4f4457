"""Results of evaluations within a fit: the last ones, and the best value of each metric."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any, final

from lightning_fed.callbacks.display.status import Evaluation
from lightning_fed.callbacks.display.text import number
from lightning_fed.core.direction import better, worst_decile

_KEPT = 10
_SHOWN = 2


@final
class Evaluations:
    """Stores a bounded number of evaluations, for a fit of any length."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        """The metrics that were logged in evaluations, in order."""
        self.last: deque[Evaluation] = deque(maxlen=_KEPT)
        """The last evaluations."""
        self._values: dict[str, float] = {}
        self._asides: dict[str, str] = {}
        self._best: dict[str, tuple[float, int]] = {}

    def add(self, round: int, metrics: Mapping[str, Any], before: Collection[str]) -> None:
        """Record an evaluation.

        Args:
            round: The number of finished rounds.
            metrics: All values for callbacks.
            before: The names of the values that existed before the evaluation.
        """
        self.names.update(dict.fromkeys(name for name in metrics if name not in before and not _of_workers(name)))
        self._values = {name: float(metrics[name]) for name in self.names if name in metrics}
        self._asides = {}
        for name, value in self._values.items():
            decile = worst_decile(name)
            worst = metrics.get(f"workers/{name}/{decile}")
            if worst is not None:
                self._asides[name] = f"{decile} {number(float(worst))}"
            best = self._best.get(name)
            if math.isnan(value):  # NaN compares false with every value, and would stay the best
                continue
            if best is None or (value < best[0] if better(name) == "min" else value > best[0]):
                self._best[name] = value, round
        self.last.append(Evaluation(round, self.texts(self._values)))

    def shown(self, on_bar: Collection[str]) -> dict[str, str]:
        """Return the values to show: those logged for the bar; without any, at most two.

        Args:
            on_bar: The names of the values that were logged for the bar.
        """
        names = [name for name in self._values if name in on_bar]
        if not names:  # a quality before a loss
            names = sorted(self._values, key=lambda name: better(name) == "min")[:_SHOWN]
        return {name: number(self._values[name]) for name in names}

    @property
    def asides(self) -> Mapping[str, str]:
        """For each metric of single workers, the worst decile."""
        return self._asides

    def texts(self, values: Mapping[str, float]) -> dict[str, str]:
        """Return values as text, with the worst decile in brackets."""
        return {
            name: f"{number(value)} ({self._asides[name]})" if name in self._asides else number(value)
            for name, value in values.items()
        }

    def best(self, monitored: str | None) -> str:
        """Return a text with the best value of one metric; empty without evaluations.

        Args:
            monitored: The metric that selects the best checkpoint, if any.
        """
        if not self._best:
            return ""
        names = sorted(self._best, key=lambda name: (name != monitored, better(name) == "min"))
        value, round = self._best[names[0]]
        return f"best {names[0]} {number(value)} after {round} round{'s' if round != 1 else ''}"


def _of_workers(name: str) -> bool:
    return name.startswith(("worker/", "workers/"))
