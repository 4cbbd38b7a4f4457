"""What evaluations within a fit gave: the last ones, and the best value of each metric."""

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
    """Remembers evaluations: a bounded number of them, however long the fit."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        """The metrics that were logged in evaluations, in order."""
        self.last: deque[Evaluation] = deque(maxlen=_KEPT)
        """The last evaluations."""
        self._values: dict[str, float] = {}
        self._asides: dict[str, str] = {}
        self._best: dict[str, tuple[float, int]] = {}

    def add(self, round: int, metrics: Mapping[str, Any], before: Collection[str]) -> None:
        """Note an evaluation.

        Args:
            round: How many rounds were over.
            metrics: All values for callbacks.
            before: The names of those that were there before it.
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
            if math.isnan(value):  # it is better than none, and would be the best for ever
                continue
            if best is None or (value < best[0] if better(name) == "min" else value > best[0]):
                self._best[name] = value, round
        self.last.append(Evaluation(round, self.texts(self._values)))

    def shown(self, on_bar: Collection[str]) -> dict[str, str]:
        """Return the values to be shown: those that were logged for the bar; if none was, two at most.

        Args:
            on_bar: The names of what was logged for the bar.
        """
        names = [name for name in self._values if name in on_bar]
        if not names:  # a quality before a loss
            names = sorted(self._values, key=lambda name: better(name) == "min")[:_SHOWN]
        return {name: number(self._values[name]) for name in names}

    @property
    def asides(self) -> Mapping[str, str]:
        """For each metric of single workers, the decile of those that fare worst."""
        return self._asides

    def texts(self, values: Mapping[str, float]) -> dict[str, str]:
        """Return values as text, with the worst decile in brackets."""
        return {
            name: f"{number(value)} ({self._asides[name]})" if name in self._asides else number(value)
            for name, value in values.items()
        }

    def best(self, monitored: str | None) -> str:
        """Return the best value of one metric, in words; nothing if there was no evaluation.

        Args:
            monitored: The metric by which the best checkpoint is chosen, if there is one.
        """
        if not self._best:
            return ""
        names = sorted(self._best, key=lambda name: (name != monitored, better(name) == "min"))
        value, round = self._best[names[0]]
        return f"best {names[0]} {number(value)} after {round} round{'s' if round != 1 else ''}"


def _of_workers(name: str) -> bool:
    return name.startswith(("worker/", "workers/"))
