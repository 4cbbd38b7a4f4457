"""What a Trainer shows: curves in its loggers, values on its progress bar and for its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
import torch

from lightning_fed._lightning import pl
from lightning_fed.core.later import Later
from lightning_fed.core.means import weighted_mean
from lightning_fed.server.round_result import Round
from lightning_fed.wire.report import RoundReport


@final
class Curves:
    """Draws and shows values of a Trainer's run.

    Values are put where Lightning itself puts what is logged, at a tenth of the price of ``self.log``, which moves a
    metric object to its device for every value.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    @property
    def are_due(self) -> bool:
        """Whether this round's curves are drawn: every ``log_every_n_steps`` rounds, and at the end of an epoch."""
        every = self._trainer.log_every_n_steps  # type: ignore[attr-defined]
        return bool(self._trainer.is_last_batch or (every > 0 and (self._trainer.global_step + 1) % every == 0))

    @property
    def have_loggers(self) -> bool:
        """Whether there is a logger to draw."""
        return bool(self._trainer.loggers)

    def draw(self, scalars: Mapping[str, float], step: int) -> None:
        """Draw a point of each curve.

        Args:
            scalars: The values by name.
            step: The round that they are about.
        """
        for logger in self._trainer.loggers:
            logger.log_metrics(dict(scalars), step=step)
            logger.save()

    def show(self, scalars: Mapping[str, float], on_bar: str) -> None:
        """Show values to callbacks, and one of them on the progress bar.

        Args:
            scalars: The values by name.
            on_bar: Which of them goes on the bar, if it is there.
        """
        self._trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})
        if on_bar in scalars:
            self._trainer.progress_bar_metrics[on_bar] = scalars[on_bar]

    def show_later(self, name: str, compute: Callable[[], float]) -> None:
        """Show a value to callbacks that is computed only if one of them reads it.

        Args:
            name: Its name.
            compute: Computes it.
        """
        self._trainer.callback_metrics[name] = Later(compute)


def round_scalars(rounds: Sequence[Round], one_by_one: bool) -> dict[str, float]:
    """Everything that is drawn about the local training of one server step.

    Args:
        rounds: Its one cohort, or several whose gradients were accumulated.
        one_by_one: Whether each worker gets curves of its own.

    Returns:
        The cohort's weighted means under the user's own names (``loss`` where the module logs nothing), what
        :func:`per_worker_scalars` gives, ``round/...``, ``comm/...`` and ``update/norm``.
    """
    report = RoundReport.merged([r.report for r in rounds])
    norms = [r.aggregate.norm for r in rounds]
    workers = {name: r.metrics or {"loss": r.loss} for name, r in report.workers.items() if r.examples}
    return {
        **(report.means() or ({"loss": report.loss} if report.examples else {})),
        **per_worker_scalars(workers, one_by_one),
        "round/cohort_size": len(report),
        "round/dropped": len(report.failures) + len(report.dropped),
        "round/stragglers": len(report.stragglers),
        "round/examples": report.examples,
        "round/seconds": sum(r.seconds for r in rounds),
        "comm/bytes_down": report.bytes_down,
        "comm/bytes_up": report.bytes_up,
        "update/norm": weighted_mean(norms, [1] * len(norms)),
    }


def by_metric(workers: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Turn ``{worker: {metric: value}}`` into ``{metric: {worker: value}}``."""
    table: dict[str, dict[str, float]] = {}
    for worker, metrics in workers.items():
        for name, value in metrics.items():
            table.setdefault(name, {})[worker] = value
    return table


def per_worker_scalars(workers: Mapping[str, Mapping[str, float]], one_by_one: bool) -> dict[str, float]:
    """What to draw about single workers: each one's value, or for many the distribution over them.

    Args:
        workers: ``{worker: {metric: value}}``.
        one_by_one: Whether each worker gets a curve of its own.

    Returns:
        ``worker/<name>/<metric>``, or ``workers/<metric>/{min,p10,median,p90,max}``.

    >>> per_worker_scalars({"bob": {"loss": 1.0}, "alice": {"loss": 3.0}}, one_by_one=True)
    {'worker/bob/loss': 1.0, 'worker/alice/loss': 3.0}
    >>> per_worker_scalars({"bob": {"loss": 1.0}, "alice": {"loss": 3.0}}, one_by_one=False)["workers/loss/median"]
    2.0
    """
    if one_by_one:
        return {f"worker/{worker}/{name}": v for worker, metrics in workers.items() for name, v in metrics.items()}
    scalars: dict[str, float] = {}
    for name, values in by_metric(workers).items():
        points = np.quantile(list(values.values()), [0.0, 0.1, 0.5, 0.9, 1.0]).tolist()
        labels = ("min", "p10", "median", "p90", "max")
        scalars |= {f"workers/{name}/{label}": point for label, point in zip(labels, points, strict=True)}
    return scalars
