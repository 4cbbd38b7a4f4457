"""Values that a Trainer shows: curves in its loggers, numbers on its progress bar and for its callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import final

import torch

from lightning_fed._lightning import pl
from lightning_fed.core.later import Later
from lightning_fed.core.means import weighted_mean
from lightning_fed.server.distributions import Distribution, worker_scalars
from lightning_fed.server.round_result import StepResult, workers_of
from lightning_fed.wire.logged import Logged


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

    def show_distributions(self, spreads: Iterable[Distribution]) -> None:
        """Show distributions over workers to callbacks; what none of them reads is not computed.

        Args:
            spreads: The distributions.
        """
        callbacks = self._trainer.callback_metrics
        for spread in spreads:
            for tag, label in spread.tags:
                callbacks[tag] = Later(partial(spread.__getitem__, label))

    def show_later(self, name: str, compute: Callable[[], float]) -> None:
        """Show a value to callbacks that is computed only if one of them reads it.

        Args:
            name: Its name.
            compute: Computes it.
        """
        self._trainer.callback_metrics[name] = Later(compute)


def round_scalars(result: StepResult, spreads: Mapping[str, Distribution], own_curves: bool) -> dict[str, float]:
    """Return all curves about the local training of one server step.

    Args:
        result: The result of the step.
        spreads: The distributions over workers, by metric.
        own_curves: Whether each worker gets curves of its own.

    Returns:
        The values that the cohort logged about a step, under Lightning's names (``loss`` where the module logs
        nothing), the result of :func:`worker_scalars`, ``local/lr-...``, ``round/...``, ``comm/...`` and
        ``update/norm``. Values logged with ``logger=False`` are left out.
    """
    report, logged = result.report, result.logged
    norms = [r.aggregate.norm for r in result.rounds]
    hidden = {name for name, (shown, _) in logged.items() if not shown.logger}
    own = {shown.step_name: part.value for shown, part in logged.values() if shown.on_step and shown.logger}
    return {
        **({"loss": result.loss} if result.examples and not logged else own),
        **worker_scalars(workers_of(report) if own_curves else {}, spreads, hidden),
        **{f"local/{name}": rate for name, rate in report.rates.items()},
        "round/cohort_size": len(report),
        "round/dropped": len(report.failures) + len(report.dropped),
        "round/stragglers": len(report.stragglers),
        "round/examples": result.examples,
        "round/seconds": result.seconds,
        "comm/bytes_down": report.bytes_down,
        "comm/bytes_up": report.bytes_up,
        **({} if report.compression is None else {"comm/compression": report.compression}),
        "update/norm": weighted_mean(norms, [1] * len(norms)),
    }
