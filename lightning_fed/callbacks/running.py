"""The current run, as a progress bar shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.callbacks.best import Evaluations
from lightning_fed.callbacks.display import Display, Status, Summary
from lightning_fed.callbacks.display.text import number
from lightning_fed.callbacks.summary import summary_of
from lightning_fed.callbacks.tally import Tally
from lightning_fed.module import FederatedModule
from lightning_fed.privacy import PrivateRun
from lightning_fed.server.datamodule import FederatedDataModule


@final
class Running:
    """One call of ``fit``, ``validate``, ``test`` or ``predict``, from its start to its end.

    Args:
        display: The display.
        tally: The counts.
        is_fit: Whether the run trains.
        clock: Returns the time in seconds.
    """

    def __init__(self, display: Display, tally: Tally, is_fit: bool, clock: Callable[[], float]) -> None:
        self.tally = tally
        self.within: Tally | None = None
        """An evaluation within a fit."""
        self.is_fit = is_fit
        self.evaluations = Evaluations()
        self._display: Display | None = display
        self._clock = clock
        self._module: FederatedModule | None = None
        self._cohort = 0
        self._is_counted = False  # whether a worker of the current round has been trained
        self._before = 0.0
        self._share = 1.0
        self._worker: str | None = None
        self._values: Mapping[str, str] = {}
        self._epsilon: float | None = None

    @property
    def follows(self) -> bool:
        """Whether the current round is shown, and not only finished rounds."""
        return self._display is not None and self._display.follows

    @property
    def _private_run(self) -> PrivateRun | None:
        return None if self._module is None else self._module.private_run

    # ---- rounds ------------------------------------------------------------------------------------------------------

    def begin_fit(self, module: FederatedModule) -> None:
        """Register the module, and listen to trained workers if they are shown one by one."""
        self._module = module
        if self.follows:
            module.cohort_progress.listener = self._count_workers

    def begin_round(self, cohort: int, batch_idx: int, cohorts: int) -> None:
        """Record that a cohort begins to train.

        Args:
            cohort: The number of its workers; 0: a batch, not a cohort.
            batch_idx: The number of the batch.
            cohorts: The number of cohorts of one server step.
        """
        self._cohort = cohort
        self._is_counted = False
        self._before, self._share = (batch_idx % cohorts) / cohorts, 1 / cohorts
        self.tally.part, self.tally.is_at_hand = self._before, True

    def _count_workers(self) -> None:
        assert self._module is not None
        self._is_counted = True
        progress = self._module.cohort_progress
        self.tally.part = self._before + self._share * progress.done / max(progress.workers, 1)
        now = self._clock()
        if self.is_due(now, between=False):
            self.show(now)

    # ---- evaluations -------------------------------------------------------------------------------------------------

    def begin_evaluation(self, tally: Tally) -> None:
        """Record that an evaluation begins, within a fit or not."""
        self._worker = None
        if self.is_fit:
            self.within = tally
        else:
            self.tally = tally

    def count_batch(self, worker: str | None, workers: int) -> None:
        """Count a batch of an evaluation; or, if workers are evaluated, a worker with its first batch.

        Args:
            worker: The worker of the data; None: batches are counted.
            workers: The number of workers that are evaluated in this process.
        """
        tally = self.within or self.tally
        if worker is not None and worker == self._worker:
            return
        if worker is not None:
            tally.total, self._worker = workers, worker
        tally.end_one(tally.done + 1, self._clock())

    def end_evaluation(self, metrics: Mapping[str, Any], before: frozenset[str]) -> None:
        """Record the results of an evaluation within a fit.

        Args:
            metrics: All values for callbacks.
            before: The names of the values that existed before the evaluation.
        """
        if self.within is not None:
            self.tally.paused += self.within.seconds(self._clock())
            self.within = None
            self.evaluations.add(self.tally.done, metrics, before)

    # ---- what is shown -----------------------------------------------------------------------------------------------

    def is_due(self, now: float, between: bool) -> bool:
        """Whether to refresh now.

        Args:
            now: The time.
            between: Whether a round, or a batch of an evaluation outside of a fit, has ended.
        """
        return self._display is not None and self._display.is_due(now, self.tally.done, self.tally.total, between)

    def read(self, metrics: Mapping[str, Any]) -> None:
        """Store the values to show.

        Args:
            metrics: The values that were logged for the bar.
        """
        run = self._private_run
        if run is not None and (run.tells_quickly or self._epsilon is None):
            self._compute_epsilon()
        elif run is not None and "epsilon" in metrics:
            self._epsilon = float(metrics["epsilon"])
        hidden = {*self.evaluations.names, *(["epsilon"] if run is not None else [])}
        own = {name: _text(value) for name, value in metrics.items() if name not in hidden}
        self._values = {**own, **self.evaluations.shown(metrics)}

    def show(self, now: float) -> None:
        """Show the status."""
        if self._display is not None:
            try:
                if not self.follows:  # few lines, which remain visible
                    self._compute_epsilon()
                self._display.show(self._status(now), now)
            except Exception as error:
                self._give_up(error)

    def _status(self, now: float) -> Status:
        tally, within = self.tally, self.within
        pause = 0.0 if within is None else within.seconds(now)
        return Status(
            title=tally.title,
            done=tally.number,
            total=tally.total,
            fraction=tally.fraction(now),
            cohort=self._of_cohort(),
            within="" if within is None else f"{within.title} {within.done}{_of(within.total)}",
            pace=tally.pace(now - pause) if self.is_fit else None,
            left=tally.left(now, pause) or None,
            values=self._values,
            asides=self.evaluations.asides,
            epsilon="" if self._epsilon is None else f"{number(self._epsilon)}{self._of_budget()}",
        )

    def _compute_epsilon(self) -> None:
        run = self._private_run
        if run is not None:
            self._epsilon = run.spent

    def _of_budget(self) -> str:
        run = self._private_run
        return "" if run is None or run.budget is None else f" of {number(run.budget)}"

    def _privacy(self) -> str:
        """Return the final spent budget in ASCII, since a job's log may be searched for it."""
        run = self._private_run
        return "" if run is None else f"epsilon={number(run.spent)}{self._of_budget()} at delta={number(run.delta)}"

    def _of_cohort(self) -> str:
        """Return the number of finished workers; under a promise that hides it, the planned number."""
        module = self._module
        if module is None or not self._cohort:
            return ""
        if module.privacy is not None and not module.privacy.release_metrics:
            data = module.trainer.datamodule
            return f"{data.cohort_size} planned" if isinstance(data, FederatedDataModule) else ""
        if not self.follows:
            return str(self._cohort)
        if not self._is_counted:
            return f"0/{self._cohort}"
        progress = module.cohort_progress
        of_all = f" of {self._cohort}" if module.trainer.world_size > 1 else ""
        return f"{progress.done}/{progress.workers}{of_all}"

    def end(self, trainer: pl.Trainer, error: BaseException | None = None) -> None:
        """Show the last status, and of a fit a summary.

        Args:
            trainer: The Trainer.
            error: The error that ended the run; None: it ended normally.
        """
        now = self._clock()
        if self._module is not None:
            self._module.cohort_progress.listener = None
        self._compute_epsilon()
        summary = None
        if self.is_fit:
            summary = summary_of(trainer, self.tally, self.evaluations, self._privacy(), now, error)
        self._close(self._status(now) if error is None else None, summary)

    def break_off(self) -> None:
        """Restore the output's original state, if the run has not ended in another way."""
        self._close(None, None)

    def _close(self, status: Status | None, summary: Summary | None) -> None:
        display, self._display = self._display, None
        if display is not None:
            try:
                display.close(status, summary)
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        display, self._display = self._display, None
        if display is not None:
            display.abandon()
        rank_zero_warn(f"progress cannot be shown any more, and the run goes on without: {error!r}")


def _of(total: int | None) -> str:
    return "" if total is None else f"/{total}"


def _text(value: Any) -> str:
    """Return a value as text, whatever kind it is."""
    try:
        return number(float(value))
    except (TypeError, ValueError):
        return str(value)
