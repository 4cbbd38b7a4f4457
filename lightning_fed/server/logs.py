"""Values that a Trainer shows: curves in its loggers, numbers on its progress bar and for its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import final

import numpy as np
import torch

from lightning_fed._lightning import pl
from lightning_fed.core.later import Later
from lightning_fed.core.means import weighted_mean
from lightning_fed.server.round_result import Round
from lightning_fed.wire.logged import Logged, merged
from lightning_fed.wire.report import RoundReport


@final
class Curves:
    """Draws and shows values of a Trainer's run.

    Values are put where Lightning itself puts what is logged. This is cheaper than ``self.log``, which moves a metric
    object to its device for every value.

    Args:
        trainer: The Trainer.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    @property
    def are_due(self) -> bool:
        """Whether this round's curves are drawn: as Lightning draws a step, every ``log_every_n_steps`` rounds.

        Where an epoch has fewer rounds than that, its last one is drawn too: else a run of one round an epoch would
        show nothing.
        """
        trainer, step = self._trainer, self._trainer.global_step + 1
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every <= 0:
            return False
        return bool(
            step % every == 0
            or trainer.should_stop
            or (trainer.is_last_batch and trainer.num_training_batches < every * trainer.accumulate_grad_batches)
        )

    @property
    def have_loggers(self) -> bool:
        """Whether there is a logger to draw."""
        return bool(self._trainer.loggers)

    def draw(self, scalars: Mapping[str, float], step: int) -> None:
        """Draw a point of each curve, with the epoch beside it as Lightning does.

        Args:
            scalars: The values by name.
            step: The round that they are about.
        """
        for logger in self._trainer.loggers:
            logger.log_metrics({"epoch": self._trainer.current_epoch, **scalars}, step=step)
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

    def show_round(self, loss: float | None, logged: Mapping[str, Logged]) -> None:
        """Show what a cohort logged as Lightning shows what a step logged, and its loss.

        The loss is for callbacks, and for the progress bar where the module puts nothing there itself.

        Args:
            loss: The mean loss; None: there is none.
            logged: What the cohort logged.
        """
        trainer = self._trainer
        callbacks, bar = trainer.callback_metrics, trainer.progress_bar_metrics
        if loss is not None:
            callbacks["loss"] = torch.tensor(loss)
            if not any(shown.prog_bar for shown, _ in logged.values()):
                bar["loss"] = loss
        for shown, part in logged.values():
            if shown.on_step:
                name, value = shown.step_name, torch.tensor(part.value)
                callbacks[shown.name] = callbacks[name] = value
                if shown.logger:
                    trainer.logged_metrics[name] = value
                if shown.prog_bar:
                    bar[name] = part.value

    def show_epoch(self, logged: Mapping[str, Logged], step: int) -> None:
        """Show and draw what was logged in an epoch, as Lightning does at its end.

        Args:
            logged: What was logged.
            step: The epoch's last round.
        """
        trainer, drawn = self._trainer, {}
        for shown, part in logged.values():
            if shown.on_epoch:
                name, value = shown.epoch_name, torch.tensor(part.value)
                trainer.callback_metrics.update({shown.name: value, name: value})
                if shown.logger:
                    trainer.logged_metrics[name] = value
                    drawn[name] = part.value
                if shown.prog_bar:
                    trainer.progress_bar_metrics[name] = part.value
        if drawn:
            self.draw(drawn, step)

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
        What the cohort logged about a step, under Lightning's names (``loss`` where the module logs nothing), what
        :func:`per_worker_scalars` gives, ``local/lr-...``, ``round/...``, ``comm/...`` and ``update/norm``. Nothing of
        what was logged with ``logger=False``.
    """
    report = RoundReport.merged([r.report for r in rounds])
    norms = [r.aggregate.norm for r in rounds]
    logged = merged([r.logged for r in rounds])
    hidden = {name for name, (shown, _) in logged.items() if not shown.logger}
    workers = {
        worker: without(hidden, record.metrics) if record.metrics else {"loss": record.loss}
        for worker, record in report.workers.items()
        if record.examples
    }
    own = {shown.step_name: part.value for shown, part in logged.values() if shown.on_step and shown.logger}
    return {
        **({"loss": report.loss} if report.examples and not logged else own),
        **per_worker_scalars(workers, one_by_one),
        **{f"local/{name}": rate for name, rate in report.rates.items()},
        "round/cohort_size": len(report),
        "round/dropped": len(report.failures) + len(report.dropped),
        "round/stragglers": len(report.stragglers),
        "round/examples": report.examples,
        "round/seconds": sum(r.seconds for r in rounds),
        "comm/bytes_down": report.bytes_down,
        "comm/bytes_up": report.bytes_up,
        "update/norm": weighted_mean(norms, [1] * len(norms)),
    }


def without(hidden: Collection[str], metrics: Mapping[str, float]) -> Mapping[str, float]:
    """Leave out metrics that no logger draws.

    Args:
        hidden: Their names.
        metrics: The values by name.
    """
    return {name: value for name, value in metrics.items() if name not in hidden} if hidden else metrics


def by_metric(workers: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Turn ``{worker: {metric: value}}`` into ``{metric: {worker: value}}``."""
    table: dict[str, dict[str, float]] = {}
    for worker, metrics in workers.items():
        for name, value in metrics.items():
            table.setdefault(name, {})[worker] = value
    return table


def per_worker_scalars(workers: Mapping[str, Mapping[str, float]], one_by_one: bool) -> dict[str, float]:
    """Return what to draw about single workers: each one's value, or for many the distribution over them.

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
