"""What leaves workers under secure aggregation: numbers of a ring, of which the sums mean something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


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
