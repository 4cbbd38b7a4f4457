"""What the user's code sees as ``self.trainer`` on a worker."""

from __future__ import annotations

from typing import Any, final

from torch.optim import Optimizer

from lightning_fed._lightning import pl
from lightning_fed.wire import LocalTraining


@final
class TrainerView:
    """The server's Trainer, but the fit is the local training and the optimizers are the worker's.

    Args:
        trainer: The server's Trainer, which answers everything else.
    """

    gradient_clip_val = None
    gradient_clip_algorithm = None
    accumulate_grad_batches = 1

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer
        self.optimizers: list[Optimizer] = []
        self.lr_scheduler_configs: list[Any] = []
        self.num_training_batches: int | float = float("inf")
        self.estimated_stepping_batches: int | float = float("inf")
        self.max_epochs: int | None = None
        self.max_steps = -1
        self.is_last_batch = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def plan(self, local: LocalTraining, num_batches: int | None) -> None:
        """Take on the length of one worker's local training.

        Args:
            local: Epochs or steps.
            num_batches: The number of batches in an epoch, or None if only the epoch can tell.
        """
        self.num_training_batches = float("inf") if num_batches is None else num_batches
        self.max_epochs = local.epochs if local.steps is None else None
        self.max_steps = -1 if local.steps is None else local.steps
        self.estimated_stepping_batches = (
            self.num_training_batches * local.epochs if local.steps is None else local.steps
        )
