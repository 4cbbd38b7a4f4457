"""What a Trainer shows: curves in its loggers, values on its progress bar and for its callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch

from lightning_fed._lightning import pl


@final
class Curves:
    """Draws and shows values of a Trainer's run.

    Values are put where Lightning itself puts what is logged, at a tenth of the price of ``self.log``, which moves a
    metric object to its device for every value (1 ms of a round of 14).

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
            on_bar: Which of them goes on the bar.
        """
        self._trainer.callback_metrics.update({name: torch.tensor(value) for name, value in scalars.items()})
        self._trainer.progress_bar_metrics[on_bar] = scalars[on_bar]
