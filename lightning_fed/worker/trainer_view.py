"""What the user's code sees as ``self.trainer`` on a worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

from torch.optim import Optimizer

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.wire import LocalTraining


@final
class TrainerView:
    """The server's Trainer, but the fit is the local training and the optimizers are the worker's.

    Of the fit are also its limits, ``should_stop`` and the number of devices: a worker trains in one process, however
    many there are. ``current_epoch`` and ``global_step`` are the server's, so that what depends on them goes on from
    round to round.

    An attribute that user code sets is the worker's own, and gone before the next worker trains. Of the Trainer's, only
    ``should_stop`` has an effect: it ends this worker's training after the current batch.

    Args:
        trainer: The server's Trainer, which answers everything else.
    """

    accumulate_grad_batches = 1
    gradient_clip_algorithm = None
    gradient_clip_val = None
    limit_train_batches = 1.0
    min_epochs = 0
    min_steps = None
    num_devices = 1
    num_nodes = 1
    overfit_batches = 0.0
    world_size = 1

    current_epoch: int
    estimated_stepping_batches: int | float
    global_step: int
    is_last_batch: bool
    lr_scheduler_configs: list[Any]
    max_epochs: int
    max_steps: int
    num_training_batches: int | float
    optimizers: list[Optimizer]
    should_stop: bool
    _trainer: pl.Trainer
    _said: set[str]

    def __init__(self, trainer: pl.Trainer) -> None:
        vars(self).update(_trainer=trainer, _said=set())
        self.plan(LocalTraining(), None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "should_stop" and name not in self._said and hasattr(self._trainer, name):
            self._said.add(name)
            rank_zero_warn(
                f"self.trainer.{name} = ... on a worker does not change its training, nor the server's Trainer; of a "
                "Trainer's attributes only should_stop has an effect there"
            )
        vars(self)[name] = value

    def plan(self, local: LocalTraining, num_batches: int | None, round: int = 0, epoch: int = 0) -> None:
        """Take on the length of one worker's local training, and forget what the code of the last worker has set.

        Args:
            local: Epochs or steps.
            num_batches: The number of batches in an epoch, or None if only the epoch can tell.
            round: The number of the server's steps so far.
            epoch: The server's epoch.
        """
        batches = float("inf") if num_batches is None else num_batches
        own = vars(self)
        trainer, said = own["_trainer"], own["_said"]
        own.clear()
        own.update(
            _trainer=trainer,
            _said=said,
            current_epoch=epoch,
            estimated_stepping_batches=batches * local.epochs if local.steps is None else local.steps,
            global_step=round,
            is_last_batch=False,
            lr_scheduler_configs=[],
            max_epochs=local.epochs if local.steps is None else -1,
            max_steps=-1 if local.steps is None else local.steps,
            num_training_batches=batches,
            optimizers=[],
            should_stop=False,
        )

    def use(self, optimizer: Optimizer, lr_scheduler_configs: Sequence[Any]) -> None:
        """Take on the worker's optimizer and its schedulers."""
        vars(self).update(optimizers=[optimizer], lr_scheduler_configs=list(lr_scheduler_configs))
