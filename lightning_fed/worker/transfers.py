"""Transfer of a worker's batches to the device, and into the precision and the memory format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lightning_fed._lightning import move_data_to_device, pl
from lightning_fed.hooks import TRANSFER_HOOKS, overrides, place_batch
from lightning_fed.population import Batches, Worker


@final
class Transfers:
    """Transfers batches as the Trainer does: through the hooks of the worker's datamodule, or of the module.

    Args:
        module: The workers' copy of the user's module.
        trainer: The server's Trainer.
        channels_last: Whether images lie in memory with their channels last.
    """

    def __init__(self, module: pl.LightningModule, trainer: pl.Trainer, channels_last: bool) -> None:
        self._module = module
        self._device = trainer.strategy.root_device
        self._channels_last = channels_last
        self._hooks_are_plain = not any(overrides(module, name) for name in TRANSFER_HOOKS)
        self._convert = trainer.precision_plugin.convert_input
        # With plain precision it does nothing, which takes time in every step.
        self._converts = (
            type(trainer.precision_plugin).convert_input is not pl.plugins.precision.Precision.convert_input
        )

    def are_plain(self, worker: Worker) -> bool:
        """Whether a worker's batches need no more than to be moved to the device."""
        return self._hooks_are_plain and worker.transfers_plainly and not self._converts

    def of(self, worker: Worker, batches: Batches) -> Callable[[Any], Any] | None:
        """Return what is to be done with each of a worker's batches; None: nothing.

        Args:
            worker: The worker.
            batches: Its batches.
        """
        move = self._move(worker, batches)
        if not self._channels_last:
            return move
        return lambda batch: pytree.tree_map(_with_channels_last, batch if move is None else move(batch))

    def _move(self, worker: Worker, batches: Batches) -> Callable[[Any], Any] | None:
        convert, device = self._convert, self._device
        if not (self._hooks_are_plain and worker.transfers_plainly):
            return lambda batch: place_batch(convert(batch), device, worker.datamodule, self._module, 0)
        if batches.device == device and not self._converts:
            return None
        return lambda batch: move_data_to_device(convert(batch), device)


def _with_channels_last(leaf: Any) -> Any:
    is_image = isinstance(leaf, Tensor) and leaf.dim() == 4
    return leaf.contiguous(memory_format=torch.channels_last) if is_image else leaf
