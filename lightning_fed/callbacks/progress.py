"""A progress bar that counts rounds."""

from __future__ import annotations

from typing import Any, final

from lightning_fed._lightning import TQDMProgressBar, pl


@final
class RoundProgressBar(TQDMProgressBar):
    """One bar over all rounds of a fit, with the loss; Lightning's own starts anew with every epoch.

    Example::

        pl.Trainer(max_epochs=20, callbacks=[RoundProgressBar()])
    """

    def on_train_start(self, *_: Any) -> None:
        """Begin one bar for all rounds."""
        trainer = self.trainer
        self.train_progress_bar = self.init_train_tqdm()
        self.train_progress_bar.reset(_total(trainer))
        self.train_progress_bar.initial = trainer.global_step
        self.train_progress_bar.set_description("Round")

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Go on with the same bar."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Count the round and show what was logged for the bar."""
        bar = self.train_progress_bar
        n = trainer.global_step
        if self._should_update(n, bar.total or n):
            bar.n = n
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Leave out the number of the logger's version, which says nothing about the training."""
        metrics = dict(super().get_metrics(trainer, pl_module))
        metrics.pop("v_num", None)
        return metrics


def _total(trainer: pl.Trainer) -> int | None:
    """The number of rounds that the fit will have run at its end, if that is known."""
    rounds = trainer.estimated_stepping_batches
    return int(rounds) if rounds != float("inf") else None
