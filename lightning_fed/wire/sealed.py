"""Messages of workers under secure aggregation: numbers of a ring, of which only sums have a meaning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.wire.job import Job


@final
@dataclass(frozen=True)
class Sealed:
    """Numbers of n workers in rings; they cross, and no vector, buffer or metric does.

    Args:
        words: Vectors modulo ``2**bits``, in two's complement; int32 ``[n, d]``.
        scalars: Single numbers modulo 2⁶⁴, by name; int64 ``[n]`` each.
        bits: The bits of a word that count, and that cross; a multiple of 4 up to 32.
    """

    words: Tensor
    scalars: Mapping[str, Tensor]
    bits: int = 32

    def withheld(self) -> Sealed:
        """Return what is said of numbers that stay with the worker until it masks them: how many there are of each."""
        nothing = {name: torch.zeros_like(numbers) for name, numbers in self.scalars.items()}
        return Sealed(self.words[:, :0], nothing, self.bits)

    def pick(self, index: Tensor) -> Sealed:
        """Return those of some of the workers.

        Args:
            index: Their rows, int64.
        """
        scalars = {name: numbers[index.to(numbers.device)] for name, numbers in self.scalars.items()}
        return Sealed(self.words[index.to(self.words.device)], scalars, self.bits)

    @staticmethod
    def together(parts: Sequence[Sealed]) -> Sealed:
        """Return those of several stacks of workers, all with the same scalars, as those of one."""
        first = parts[0]
        scalars = {name: torch.cat([part.scalars[name] for part in parts]) for name in first.scalars}
        return Sealed(torch.cat([part.words for part in parts]), scalars, first.bits)


class Sealer(ABC):
    """Says what sealed numbers look like: what whoever receives them knows of how they were made.

    It comes from the settings of the run, as a layout does, and no message says it.
    """

    @property
    @abstractmethod
    def bits(self) -> int:
        """The bits of a word."""

    def withholding(self) -> Sealer:
        """Return what reads sealed numbers of which the words stay with the worker."""
        return _Withholding(self)

    @abstractmethod
    def size(self, job: Job, stays: Set[str]) -> int:
        """Return the number d of words of one worker.

        Args:
            job: The workers' job.
            stays: The parameters and buffers that do not travel.
        """


@final
class _Withholding(Sealer):
    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    @property
    def bits(self) -> int:
        return self._sealer.bits

    def size(self, job: Job, stays: Set[str]) -> int:
        return 0
