"""Methods that a worker's copy of the module has in place of Lightning's: it logs and prints on its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, final

from torch import Tensor

from lightning_fed._lightning import pl
from lightning_fed.worker.log_calls import LogCalls
from lightning_fed.worker.trainer_view import TrainerView


@final
class OwnMethods:
    """Replaces methods of the copy and of its parts, for as long as the copy lives.

    Args:
        module: The workers' copy of the user's module.
        recorder: Takes what the copy logs.
        trainer: The view that the copy finds as ``self.trainer``.
    """

    def __init__(self, module: pl.LightningModule, recorder: LogCalls, trainer: TrainerView) -> None:
        self._trainer = trainer
        self.backward: Callable[..., None] = _nothing_yet
        """The function that ``self.manual_backward(loss)`` on the copy calls."""
        for part in module.modules():
            if isinstance(part, pl.LightningModule):
                part.__dict__["_trainer"] = trainer
                part.__dict__["log"] = recorder.log
                part.__dict__["log_dict"] = recorder.log_dict
                part.__dict__["print"] = partial(self._print, part)
                part.__dict__["all_gather"] = _no_all_gather
                part.__dict__["manual_backward"] = partial(self._manual_backward, part)

    def _print(self, part: pl.LightningModule, *values: Any, **options: Any) -> None:
        """Print as the module itself does, or hand the text to a trainer view that shows nothing."""
        if self._trainer.is_quiet:  # LightningModule.print tests only for a progress bar, and prints if none
            self._trainer.print(*values, **options)
        else:
            type(part).print(part, *values, **options)

    def _manual_backward(self, part: pl.LightningModule, loss: Tensor, *arguments: Any, **options: Any) -> None:
        part._verify_is_manual_optimization("manual_backward")
        self.backward(loss, *arguments, **options)


def _nothing_yet(*_: Any, **__: Any) -> Any:
    raise RuntimeError("a worker's optimizers are there once configure_optimizers() has returned them")


def _no_all_gather(*_: Any, **__: Any) -> Any:
    raise RuntimeError("self.all_gather() in local training: a worker has no other processes to gather from")
