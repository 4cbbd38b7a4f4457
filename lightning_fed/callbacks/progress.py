"""Progress of a run: rounds, the workers of the current round, the remaining time, and the model's metrics."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, final

from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.callbacks.display import display_here
from lightning_fed.callbacks.running import Running
from lightning_fed.callbacks.tally import Tally
from lightning_fed.core.arguments import number
from lightning_fed.core.shown import Shown
from lightning_fed.module import FederatedModule
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.loaders import Cohort


class RoundProgress(Shown, pl.callbacks.ProgressBar):
    """Shows the progress of a run; the default bar of the command line.

    On a terminal it is one line, with as many parts as fit::

        round 37/200 ━━━╸ 18 % · cohort 6/10 · 2.1 s/round · 5 min left · loss 0.34 · val_acc 0.91 (p10 0.78) · ε 2 of 3

    The cohort is counted while its workers train. The worst decile of the workers is in brackets. Values that modules
    and callbacks log with ``prog_bar=True`` are included. Other output, warnings and log messages appear above the
    line.

    Without a terminal (a file, a job's log) there is a line at the first round, another whenever 30 seconds and 5 % of
    the rounds have passed, and a summary. In a notebook there is one row that is replaced, and at the end a table of
    the last evaluations.

    Under a promise of privacy that does not release metrics, only the planned size of the cohort is shown, and no
    losses of workers.

    Args:
        refresh_rate: The largest number of refreshes in a second; 0: nothing is shown.

    Raises:
        TypeError: If ``refresh_rate`` is not a number.
        ValueError: If ``refresh_rate`` is negative, or not finite.

    Example::

        pl.Trainer(max_epochs=20, callbacks=[RoundProgress()])
    """

    def __init__(self, refresh_rate: float = 10.0) -> None:
        super().__init__()
        self.refresh_rate = number("refresh_rate", refresh_rate, least=0)
        self._enabled = True
        self._run: Running | None = None
        self._logged_before: frozenset[str] = frozenset()
        self._next_reading = 0.0

    # ---- Lightning's rules for bars ----------------------------------------------------------------------------------

    @property
    def is_enabled(self) -> bool:
        """Whether something is shown."""
        return self._enabled and self.refresh_rate > 0

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the shown metrics of the model, without the logger's version."""
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics

    def __getstate__(self) -> dict[str, Any]:
        """Exclude the current run, which belongs to this process."""
        return {**self.__dict__, "_run": None}

    # ---- a fit -------------------------------------------------------------------------------------------------------

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self.is_enabled:
            return
        federated = isinstance(pl_module, FederatedModule)
        title = "round" if federated else "step"
        tally = Tally(title, trainer.global_step, _total(trainer), time.monotonic(), _time_left(trainer))
        run = self._begin(tally, is_fit=True)
        if isinstance(pl_module, FederatedModule):
            run.begin_fit(pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None:
            if not self._run.follows:
                # Here, and not at the end of the round before: an evaluation between the two belongs to that round.
                self._refresh(trainer, pl_module, between=self._run.tally.done > self._run.tally.first)
            workers = len(batch.workers) if isinstance(batch, Cohort) else 0
            self._run.begin_round(workers, batch_idx, trainer.accumulate_grad_batches)
            if self._run.follows:
                self._refresh()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._run is not None:
            now = time.monotonic()
            self._run.tally.end_one(trainer.global_step, now)
            if now >= self._next_reading:
                self._next_reading = now + 1 / self.refresh_rate
                self._run.read(self.get_metrics(trainer, pl_module))

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._refresh(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._run is not None:
            self._run.read(self.get_metrics(trainer, pl_module))

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer)  # here, after all callbacks have written their checkpoints

    # ---- evaluations, by themselves or within a fit ------------------------------------------------------------------

    @override
    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._run is not None:
            self._run.within = None

    @override
    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            self._begin_evaluation(trainer, "sanity check", trainer.num_sanity_val_batches)
            return
        self._logged_before = frozenset(trainer.callback_metrics)
        title = "evaluating" if trainer.state.fn == "fit" else "validating"
        self._begin_evaluation(trainer, title, trainer.num_val_batches)

    @override
    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        self._count_batch(trainer, pl_module, trainer.sanity_checking or trainer.limit_val_batches != 1.0)

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        if self._run is not None and self._run.is_fit:
            self._run.end_evaluation(trainer.callback_metrics, self._logged_before)
            self._run.read(self.get_metrics(trainer, pl_module))
            self._refresh()
        else:
            self._end(trainer)

    @override
    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_evaluation(trainer, "testing", trainer.num_test_batches)

    @override
    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        self._count_batch(trainer, pl_module, trainer.limit_test_batches != 1.0)

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer)

    @override
    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_evaluation(trainer, "predicting", trainer.num_predict_batches)

    @override
    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any) -> None:
        self._count_batch(trainer, pl_module, trainer.limit_predict_batches != 1.0)

    @override
    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer)

    def _begin_evaluation(self, trainer: pl.Trainer, title: str, batches: Any) -> None:
        if not self.is_enabled:
            return
        now, is_fit = time.monotonic(), trainer.state.fn == "fit"
        tally = Tally(title, 0, _sum(batches), now)
        # The total of a fit is unknown before its loaders exist.
        run = self._run or self._begin(Tally("round", trainer.global_step, None, now) if is_fit else tally, is_fit)
        run.begin_evaluation(tally)
        self._refresh()

    def _count_batch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, is_cut: bool) -> None:
        """Count a batch.

        Args:
            trainer: The Trainer.
            pl_module: Its module.
            is_cut: Whether a limit cuts the batches.
        """
        run = self._run
        if run is None:
            return
        worker = pl_module.evaluated_worker if isinstance(pl_module, FederatedModule) and not is_cut else None
        run.count_batch(worker, 0 if worker is None else _workers(trainer))
        self._refresh(between=not run.is_fit)

    # ---- showing -----------------------------------------------------------------------------------------------------

    def _begin(self, tally: Tally, is_fit: bool) -> Running:
        if self._run is None:
            display = display_here(self.refresh_rate, at_once=is_fit)
            self._run = Running(display, tally, is_fit, time.monotonic)
        self._run.tally = tally
        return self._run

    def _refresh(
        self, trainer: pl.Trainer | None = None, pl_module: pl.LightningModule | None = None, between: bool = False
    ) -> None:
        """Show the status if a refresh is due.

        Args:
            trainer: The Trainer if metrics may be read, which is not the case within a batch.
            pl_module: The Trainer's module.
            between: Whether a round, or a batch of an evaluation outside of a fit, has ended.
        """
        run, now = self._run, time.monotonic()
        if run is None or not run.is_due(now, between) or not self.is_enabled:
            return
        if trainer is not None and pl_module is not None:
            run.read(self.get_metrics(trainer, pl_module))
        run.show(now)

    def _end(self, trainer: pl.Trainer, error: BaseException | None = None) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.end(trainer, error)

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end(trainer, exception)

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.break_off()


@final
class RoundProgressBar(RoundProgress):
    """Earlier name of :class:`RoundProgress`."""


def _total(trainer: pl.Trainer) -> int | None:
    """Return the number of rounds at the end of the fit, if known."""
    rounds = trainer.estimated_stepping_batches
    return int(rounds) if math.isfinite(rounds) else None


def _time_left(trainer: pl.Trainer) -> Callable[[], float | None]:
    """Return a function that returns the seconds that remain of ``max_time``."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, pl.callbacks.Timer)]  # type: ignore[attr-defined]
    return timers[0].time_remaining if timers else lambda: None


def _sum(batches: Any) -> int | None:
    """Return the number of batches of all loaders, if known."""
    each = batches if isinstance(batches, list) else [batches]
    return int(sum(each)) if math.isfinite(sum(each)) else None


def _workers(trainer: pl.Trainer) -> int:
    """Return the number of workers that this process evaluates, counted once for each loader."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    federation = data.federation if isinstance(data, FederatedDataModule) else None
    here = 0 if federation is None else math.ceil(federation.num_evaluated / trainer.world_size)
    loop: Any = trainer.predict_loop if trainer.predicting else trainer._evaluation_loop
    return here * int(loop.num_dataloaders)
