"""One step of a worker's local training: from a batch to parameters that have moved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from lightning_fed.population.batches import Batches
from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.module_copy import ModuleCopy

TrainingStep: TypeAlias = Callable[[Any, int], Any]
"""The user's ``training_step``, of a batch and its index, compiled or not."""

Transfer: TypeAlias = Callable[[Any], Any]
"""Brings a batch to the device and into the precision."""

Changes: TypeAlias = Sequence[Callable[[], None]]
"""Changes of gradients in place, in order: between the backward pass and the optimizer's step."""


class LocalStep(ABC):
    """The local step of one worker in one round. An instance serves one worker in one round.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizers: The worker's optimizers, as new.
    """

    def __init__(self, local: ModuleCopy, training_step: TrainingStep, optimizers: LocalOptimizers) -> None:
        self._local = local
        self._training_step = training_step
        self._optimizers = optimizers

    @abstractmethod
    def __call__(self, batch: Any, index: int) -> dict[str, Any]:
        """Step on a batch.

        Args:
            batch: The batch, on the device.
            index: Its place in the pass.

        Returns:
            What a Trainer passes to ``on_train_batch_end``: a dict with the detached ``loss``; empty if there was none.
        """

    def batches(self, batches: Batches, transfer: Transfer | None) -> Iterable[tuple[Any, int | None]]:
        """One pass over a worker's examples: batches, each with its number of examples (None: to be inferred).

        Args:
            batches: The worker's own batches.
            transfer: The function to apply to each; None: none.
        """
        return batches if transfer is None else ((transfer(batch), size) for batch, size in batches)

    def loss(self, outputs: dict[str, Any]) -> Tensor | None:
        """Return the loss of a step, detached; None if the step was skipped, so that its batch does not count.

        Args:
            outputs: The step's return value.
        """
        return outputs.get("loss")

    def leave(self) -> None:  # noqa: B027 - most steps leave nothing behind
        """Leave nothing behind in the process, be it that the training has ended or that it has failed."""

    def end(self) -> None:  # noqa: B027 - most steps may end at any time
        """End the training.

        Raises:
            ValueError: If it was not what it had to be.
        """
