"""Base of the training batches of a worker, for any source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from lightning_fed.core.shown import Shown
from lightning_fed.population.combined import set_epoch
from lightning_fed.wire import LocalTraining


class Batches(Shown, ABC):
    """Base of a worker's training batches, one pass at a time."""

    num_examples: int | None
    """The number of examples in a pass; None: unknown before the pass."""
    num_batches: int | None
    """The number of batches in a pass; None: unknown before the pass."""
    loader: Iterable[Any]
    """The loader or loaders of the worker's datamodule."""
    num_rows: int | None
    """The number of examples in the loader's dataset; a pass may have fewer or more. None: unknown."""
    device: torch.device | None = None
    """The device of all tensors of all batches, if known."""
    draws_at_once: bool = False
    """Whether all random numbers of a pass are drawn before its first batch."""
    gives_items: bool = False
    """Whether each batch is one item of the dataset, made by a user's function: a whole graph, for example."""

    _epoch = 0

    def reseed(self, seed: int, epoch: int = 0) -> None:
        """Begin a round: reset the loader's own generators, which makes its order independent of earlier rounds.

        Args:
            seed: The seed of the loader's own generators. Loader processes are ended; the next ones start from seeds of
                the global generator.
            epoch: The argument of ``set_epoch`` of the samplers; it increases by one with every pass.
        """
        self.rest()
        self._reseed(seed)
        self._epoch = epoch

    def first_epoch(self, cohort: int, local: LocalTraining) -> int:
        """Return the number of a round's first pass, counted over all rounds.

        Args:
            cohort: The number of the round's cohort.
            local: The length of a worker's training in a round.
        """
        if local.steps is None:
            return cohort * local.epochs
        return cohort * (-(-local.steps // self.num_batches) if self.num_batches else 1)

    @abstractmethod
    def _reseed(self, seed: int) -> None:
        """Seed the loader's own generators."""

    @abstractmethod
    def rest(self) -> None:
        """End the loader processes until the next pass."""

    @abstractmethod
    def is_current(self) -> bool:
        """Whether the cached facts about the loader are current: its dataset may have grown."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        """Return one pass of batches, each with its number of examples (None: the number must be inferred)."""

    def _begin_pass(self) -> None:
        set_epoch(self.loader, self._epoch)
        self._epoch += 1
