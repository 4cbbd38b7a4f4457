"""Sealed numbers, which leave workers under secure aggregation: ring elements of which only sums can be read."""

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
    """Ring elements of n workers, which cross in place of vectors, buffers and metrics.

    Args:
        words: Vectors modulo ``2**bits``, in two's complement; int32 ``[n, d]``.
        scalars: Single numbers modulo 2⁶⁴, by name; int64 ``[n]`` each.
        bits: The number of significant bits of a word, which cross; a multiple of 4 up to 32.
    """

    words: Tensor
    scalars: Mapping[str, Tensor]
    bits: int = 32

    def withheld(self) -> Sealed:
        """Return the names of the numbers without the numbers, which stay with the worker until it masks them."""
        nothing = {name: torch.zeros_like(numbers) for name, numbers in self.scalars.items()}
        return Sealed(self.words[:, :0], nothing, self.bits)

    def pick(self, index: Tensor) -> Sealed:
        """Return the sealed numbers of some of the workers.

        Args:
            index: Their rows, int64.
        """
        scalars = {name: numbers[index.to(numbers.device)] for name, numbers in self.scalars.items()}
        return Sealed(self.words[index.to(self.words.device)], scalars, self.bits)

    @staticmethod
    def together(parts: Sequence[Sealed]) -> Sealed:
        """Concatenate the sealed numbers of several stacks of workers, all with the same scalars."""
        first = parts[0]
        scalars = {name: torch.cat([part.scalars[name] for part in parts]) for name in first.scalars}
        return Sealed(torch.cat([part.words for part in parts]), scalars, first.bits)


class Sealer(ABC):
    """Format of sealed numbers, for the side that receives them.

    The format follows from the settings of the run, as a layout does, and is part of no message.
    """

    @property
    @abstractmethod
    def bits(self) -> int:
        """The bits of a word."""

    def withholding(self) -> Sealer:
        """Return a sealer for sealed numbers whose words stay with the worker."""
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
