"""The dashboard of a run: content other than scalars, for loggers that support it."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

import numpy as np
from typing_extensions import override

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.callbacks.dashboard.boards import Board, board_of
from lightning_fed.callbacks.dashboard.found import (
    curves_of_all,
    held,
    logged_in_training,
    shows_workers,
    values_of_workers,
)
from lightning_fed.callbacks.dashboard.layout import layout_of
from lightning_fed.callbacks.dashboard.participation import Participation
from lightning_fed.callbacks.dashboard.texts import leaves_table, promise_table, settings_table, spent_page
from lightning_fed.core.arguments import flag
from lightning_fed.core.shown import Shown
from lightning_fed.module import FederatedModule
from lightning_fed.record import settings
from lightning_fed.server.datamodule import FederatedDataModule, data_of
from lightning_fed.server.loaders import Cohort

MOST_WORKERS = 200
"""The largest population with figures: in larger ones a worker is thinner than a line."""
EVERY = 10
"""The number of evaluations between figures; figures are also drawn at the end."""
LEAST_SECONDS = 30.0
"""The minimum time between figures, in seconds, since drawing is slow: a short run has figures at its end only."""
_KEY = "lightning_fed.dashboard"


@final
class Dashboard(Shown, pl.Callback):
    """Shows more of a run than curves: a layout of charts, histograms, figures and texts.

    - A layout of TensorBoard's Custom Scalars: quality by worker, cost, participation, drift, privacy.
    - Histograms ``workers/<metric>`` of the workers' values in each evaluation.
    - Figures ``who/partition``, ``who/participation`` and ``who/<metric>_per_worker``, at the end of a fit and after
      each tenth evaluation (at most once in half a minute), for up to 200 workers.
    - Texts ``run/settings``, ``run/what_leaves`` and ``run/promise``.

    TensorBoard, W&B and MLflow each show what they support; other loggers receive nothing. Under a promise of privacy,
    nothing that the promise hides is shown. Scalars are always logged, without this callback.

    Args:
        figures: Whether to draw figures, which require matplotlib; without it everything else is shown.
        layout: Whether to set the layout.

    Raises:
        TypeError: If an argument is not a bool; when a run starts, if its module is not a FederatedModule.

    Example::

        pl.Trainer(max_epochs=20, logger=TensorBoardLogger("logs"), callbacks=[Dashboard()])
    """

    def __init__(self, figures: bool = True, layout: bool = True) -> None:
        self.figures = flag("figures", figures)
        self.layout = flag("layout", layout)
        self._boards: list[Board] = []
        self._participation: Participation | None = None
        self._saved: Mapping[str, Any] | None = None
        self._round = -1
        self._took_part: set[str] = set()  # in the current round so far
        self._evaluations = 0
        self._drawn_at = time.monotonic()
        self._has_layout = self._has_partition = self._has_texts = self._has_leaves = self._has_failed = False

    # ---- a run starts and ends -------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse other modules, and find the loggers that have a board."""
        fed = _federated(pl_module)
        draws = trainer.is_global_zero and not trainer.fast_dev_run  # type: ignore[attr-defined]
        boards = [board_of(logger) for logger in trainer.loggers] if draws else []
        self._boards = [board for board in boards if board is not None]
        self._evaluations = 0
        self._drawn_at = time.monotonic()
        self._has_layout = self._has_partition = self._has_texts = self._has_leaves = self._has_failed = False
        self._participation, self._round = None, -1
        data = data_of(trainer)
        if stage == "fit" and self._draws_figures(fed, data):
            self._participation = Participation(data.names)
            if self._boards and importlib.util.find_spec("matplotlib") is None:
                rank_zero_warn(
                    "Dashboard(figures=True) draws figures by matplotlib, which is not installed: pip install "
                    "'lightning_fed[examples]', or leave them out by figures=False; all else is shown"
                )

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the participation of workers."""
        if self._participation is not None and self._saved is not None and trainer.global_step:
            self._participation.load_state_dict(self._saved)
        self._saved = None

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show settings and promise, once the module has chosen its engine and begun its account."""
        if self._has_texts:
            return
        self._has_texts = True
        fed, step = _federated(pl_module), trainer.global_step
        with self._showing("its settings"):
            for board in self._boards:
                board.text("run/settings", settings_table(settings(fed, data_of(trainer))), step)
                board.text("run/promise", promise_table(fed), step)

    @override
    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Begin a round, unless the cohort is a further one of the same accumulated step."""
        if self._round != trainer.global_step:
            self._round, self._took_part = trainer.global_step, set()

    @override
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the participation of workers; after the first round, show the contents of messages."""
        fed = _federated(pl_module)
        if self._participation is not None and isinstance(batch, Cohort):
            self._took_part.update(fed.last_report.names)
            self._participation.note(self._round, self._took_part)
        if not self._has_leaves and fed.leaves is not None and self._boards:
            self._has_leaves = True
            with self._showing("what leaves a worker"):
                for board in self._boards:
                    board.text("run/what_leaves", leaves_table(fed.leaves), max(trainer.global_step - 1, 0))

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw all figures; without evaluations, lay out the metrics logged in training."""
        fed, step = _federated(pl_module), max(trainer.global_step - 1, 0)
        self._lay_out(trainer, fed)
        self._draw_figures(trainer, fed, step)
        self._end(trainer)

    @override
    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the spent privacy budget, which is final only after training."""
        with self._showing("what was spent of privacy"):
            page = spent_page(_federated(pl_module)) if self._boards else None
            if page is not None:
                for board in self._boards:
                    board.text("run/promise", page, trainer.global_step)
        self._end(trainer)

    def _end(self, trainer: pl.Trainer) -> None:
        if self._boards:
            for logger in trainer.loggers:
                logger.save()

    # ---- evaluations -------------------------------------------------------------------------------------------------

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the distribution of the workers' values; after each tenth evaluation of a fit, draw figures."""
        if trainer.sanity_checking:
            return
        fed = _federated(pl_module)
        if trainer.state.fn != "fit":
            self._show_evaluation(trainer, fed)
            return
        step = max(trainer.global_step - 1, 0)
        self._evaluations += 1
        self._draw_histograms(trainer, fed, step)
        self._lay_out(trainer, fed)
        if self._evaluations % EVERY == 0 and time.monotonic() - self._drawn_at >= LEAST_SECONDS:
            self._draw_figures(trainer, fed, step)
            self._drawn_at = time.monotonic()

    @override
    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the distribution of the workers' values."""
        self._show_evaluation(trainer, _federated(pl_module))

    def _show_evaluation(self, trainer: pl.Trainer, fed: FederatedModule) -> None:
        """Show an evaluation outside of a fit."""
        self._draw_histograms(trainer, fed, trainer.global_step)
        self._draw_values(trainer, fed, trainer.global_step)
        self._end(trainer)

    # ---- what is shown ---------------------------------------------------------------------------------------------

    def _lay_out(self, trainer: pl.Trainer, fed: FederatedModule) -> None:
        """Lay out the charts, once in a run; the names of metrics are those of the first evaluation."""
        if not (self.layout and self._boards) or self._has_layout:
            return
        self._has_layout = True
        shows = shows_workers(fed)
        values = values_of_workers(trainer, fed) if self._evaluations else {}
        pooled = curves_of_all(trainer, fed, values) if self._evaluations else {}
        of_workers = list(values)
        sums_only = fed.secure_aggregation is not None
        if not pooled and not of_workers and shows:
            pooled = logged_in_training(fed)
            of_workers = [] if sums_only else list(pooled)
        has_budget = fed.private_run is not None and fed.private_run.budget is not None
        charts = layout_of(
            pooled,
            of_workers,
            shows,
            fed.privacy is not None,
            evaluates=self._evaluations > 0,
            has_budget=has_budget,
            sums_only=sums_only,
        )
        with self._showing("the layout of its charts"):
            for board in self._boards:
                board.layout(charts)

    def _draw_histograms(self, trainer: pl.Trainer, fed: FederatedModule, step: int) -> None:
        if not self._boards:
            return
        with self._showing("histograms"):
            for metric, values in values_of_workers(trainer, fed).items():
                for board in self._boards:
                    board.histogram(f"workers/{metric}", np.array(list(values.values())), step)

    def _draw_figures(self, trainer: pl.Trainer, fed: FederatedModule, step: int) -> None:
        self._draw_values(trainer, fed, step)
        data = data_of(trainer)
        if not (self._can_draw and self._draws_figures(fed, data)):
            return
        from lightning_fed.callbacks.dashboard import figures

        with self._showing("figures"):
            if self._participation is not None and len(self._participation):
                seen = self._participation
                self._show("who/participation", figures.participation(seen.names, seen.matrix, seen.first), step)
            # A worker's data stay private: not even release_metrics=True covers them.
            if fed.privacy is None and fed.secure_aggregation is None and not self._has_partition:
                counts, sizes = held(data)
                self._has_partition = len(sizes) == len(data.names)
                if sizes:
                    unseen = len(data.names) - len(sizes)
                    self._show("who/partition", figures.partition(counts, sizes, unseen), step)

    def _draw_values(self, trainer: pl.Trainer, fed: FederatedModule, step: int) -> None:
        if not (self._can_draw and self._draws_figures(fed, data_of(trainer))):
            return
        from lightning_fed.callbacks.dashboard import figures

        with self._showing("figures"):
            for metric, values in values_of_workers(trainer, fed).items():
                pooled = fed.last_evaluation.metrics.get(metric)
                self._show(f"who/{metric}_per_worker", figures.per_worker(metric, values, pooled), step)

    def _show(self, tag: str, figure: Any, step: int) -> None:
        with warnings.catch_warnings():
            # Names of workers may be in any script; a letter that the font lacks becomes an empty box.
            warnings.filterwarnings("ignore", "Glyph .* missing from")
            for board in self._boards:
                board.figure(tag, figure, step)

    @property
    def _can_draw(self) -> bool:
        return bool(self._boards) and importlib.util.find_spec("matplotlib") is not None

    def _draws_figures(self, fed: FederatedModule, data: FederatedDataModule) -> bool:
        return self.figures and shows_workers(fed) and len(data.names) <= MOST_WORKERS

    @contextmanager
    def _showing(self, what: str) -> Iterator[None]:
        """Return a context in which an error of a figure does not end the training; it is warned of once."""
        try:
            yield
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                rank_zero_warn(
                    f"Dashboard could not show {what} ({type(error).__name__}: {error}); the run goes on, and this is "
                    "said once"
                )

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    # Under its own key and not by state_dict(): Lightning would warn whenever a checkpoint is used without this
    # callback.
    @override
    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the participation of workers."""
        if self._participation is not None and len(self._participation):
            checkpoint[_KEY] = self._participation.state_dict()

    @override
    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the participation of workers."""
        self._saved = checkpoint.get(_KEY)


def _federated(module: pl.LightningModule) -> FederatedModule:
    if not isinstance(module, FederatedModule):
        raise TypeError(
            f"Dashboard shows federated runs, and the Trainer has a {type(module).__name__}: wrap it, "
            "trainer.fit(FederatedModule(module), data), or leave Dashboard() out"
        )
    return module
