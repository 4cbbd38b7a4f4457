"""A worker's training batches, whatever they are drawn from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from lightning_fed.core.shown import Shown
from lightning_fed.population.combined import set_epoch
from lightning_fed.wire import LocalTraining


class Batches(Shown, ABC):
    """A worker's training batches, one pass at a time."""

    num_examples: int | None
    """The number of examples that a pass gives, or None if only a pass can tell."""
    num_batches: int | None
    """The number of batches in a pass, or None if only a pass can tell."""
    loader: Iterable[Any]
    """What the worker's datamodule gave."""
    num_rows: int | None
    """The number of examples in the loader's dataset, of which a pass may give fewer or more; None if there is none."""
    device: torch.device | None = None
    """Where all tensors of all batches lie, if that is known."""
    draws_at_once: bool = False
    """Whether all random numbers of a pass are drawn before its first batch."""
    gives_items: bool = False
    """Whether each batch is one item of the dataset as a function of the user's made it: a whole graph, for example."""

    _epoch = 0

    def reseed(self, seed: int, epoch: int = 0) -> None:
        """Begin a round: set all that the loader carries with it, so that its order depends on nothing that ran before.

        Args:
            seed: For the generators that it carries. Processes that load are ended; the next ones start from seeds of
                the global generator.
            epoch: For ``set_epoch`` of its samplers; it goes up by one with every pass.
        """
        self.rest()
        self._reseed(seed)
        self._epoch = epoch

    def first_epoch(self, cohort: int, local: LocalTraining) -> int:
        """The number of a round's first pass, if the passes of all rounds are counted through.

        Args:
            cohort: The number of the round's cohort.
            local: How long a worker trains in a round.
        """
        if local.steps is None:
            return cohort * local.epochs
        return cohort * (-(-local.steps // self.num_batches) if self.num_batches else 1)

    @abstractmethod
    def _reseed(self, seed: int) -> None:
        """Set the generators that the loader carries with it."""

    @abstractmethod
    def rest(self) -> None:
        """End the processes that load, until the next pass."""

    @abstractmethod
    def is_current(self) -> bool:
        """Whether all that was noted about the loader still holds: its dataset may have grown."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        """Return one pass of batches, each with its number of examples (None: it has to be inferred)."""

    def _begin_pass(self) -> None:
        set_epoch(self.loader, self._epoch)
        self._epoch += 1
