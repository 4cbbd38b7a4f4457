"""The ring in which updates are added: fixed-point numbers modulo 2ᵇ, whose sums are exact.

Words are int32 tensors, in two's complement, since torch lacks arithmetic on unsigned integers; the bits are the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import number, settle, whole
from lightning_fed.core.double import blocks
from lightning_fed.core.shown import Shown
from lightning_fed.core.words import BITS


@final
@dataclass(frozen=True)
class Ring(Shown):
    """Fixed-point numbers for vectors of bounded norm, whose sum over a cohort does not wrap around.

    A worker's numbers are multiples of ``step``, at most ``units`` of them plus one from stochastic rounding, so the
    sum of all workers stays below half of the ring.

    Args:
        clip: The largest norm of one worker's vector, and so the largest absolute value of a number in it.
        workers: The largest number of added vectors.
        bits: The bits b of a word.
        grid: The distance of two neighbouring numbers, if it is prescribed; None: the smallest possible.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or so many workers leave no unit for each, or too few of the grid.

    >>> ring = Ring(clip=1.0, workers=10, bits=16)
    >>> ring.units
    3275
    >>> words = ring.encode(torch.tensor([[-1.0, -0.5, 0.0, 0.25, 1.0]]), torch.full((1, 5), 0.5))
    >>> words.tolist()
    [[-3275, -1637, 0, 819, 3275]]
    >>> ring.decode(10 * words[0]).tolist()
    [-10.0, -4.998473282442748, 0.0, 2.500763358778626, 10.0]
    """

    clip: float
    workers: int
    bits: int = 32
    grid: float | None = None

    def __post_init__(self) -> None:
        settle(
            self,
            clip=number("clip", self.clip, above=0, owner=self),
            workers=whole("workers", self.workers, least=1, owner=self),
            bits=whole("bits", self.bits, least=BITS[0], most=BITS[-1], owner=self),
        )
        if self.bits not in BITS:
            raise ValueError(f"Ring(bits={self.bits}) must be a multiple of 4, so that two words fill whole bytes")
        if self.grid is not None:
            settle(self, grid=number("grid", self.grid, above=0, owner=self))
        if self._room < 1:
            raise ValueError(
                f"Ring(bits={self.bits}) has no unit left for each of {self.workers} workers: take more bits"
            )
        if self.units > self._room:
            raise ValueError(
                f"Ring(bits={self.bits}) has {self._room} units for each of {self.workers} workers, and "
                f"clip={self.clip:g} is {self.units} of grid={self.grid:g}: take more bits"
            )

    @classmethod
    def of_power_of_two(cls, clip: float, workers: int, bits: int) -> Ring:
        """Return the finest ring whose step is a power of two; noise can then lie on the grid of its sums.

        Args:
            clip: As for the ring.
            workers: As for the ring.
            bits: As for the ring.

        >>> Ring.of_power_of_two(clip=1.0, workers=10, bits=16).step == 2.0**-11
        True
        """
        mantissa, exponent = math.frexp(cls(clip, workers, bits).step)
        return cls(clip, workers, bits, math.ldexp(1.0, exponent - (mantissa == 0.5)))

    @property
    def _room(self) -> int:
        largest: int = 2 ** (self.bits - 1) - 1
        return largest // self.workers - 1

    @property
    def units(self) -> int:
        """The number of steps in ``clip``, rounded down."""
        return self._room if self.grid is None else math.floor(self.clip / self.grid)

    @property
    def step(self) -> float:
        """The distance of two neighbouring numbers, in the units of the vectors."""
        return self.clip / self.units if self.grid is None else self.grid

    def within(self, size: int) -> float:
        """Return a norm that is at most ``clip`` after rounding, which moves each number by less than a step.

        Args:
            size: The number d of numbers.
        """
        return self.clip - self.step * math.sqrt(size)

    def exact(self, rows: Tensor) -> Tensor:
        """Return vectors of multiples of the step as words, for any norm: larger numbers wrap around.

        Args:
            rows: ``[n, d]``, of less than 2³¹ steps.

        Returns:
            int32 ``[n, d]``, on the device of the rows.
        """
        return rows.to(torch.float64).div(self.step).to(torch.int32)

    def encode(self, rows: Tensor, uniform: Tensor, by: Tensor | None = None) -> Tensor:
        """Return vectors as words, rounded stochastically without bias: ``⌊a x / step + u⌋``.

        Args:
            rows: ``[n, d]``.
            uniform: Numbers u in [0, 1) for the rounding; ``[n, d]``. Whole numbers k below 256, uint8, stand for
                (k + ½) / 256.
            by: The factor a of each row, by which its norm is at most ``clip``; float64 ``[n]``; None: a = 1.

        Returns:
            int32 ``[n, d]``, on the device of the rows.
        """
        words = torch.empty(rows.shape, dtype=torch.int32, device=rows.device)
        factors = torch.ones(len(rows), dtype=torch.float64) if by is None else by
        factors = (factors / self.step).to(rows.device).unsqueeze(1)
        alpha, offset = (1 / 256, 1 / 512) if uniform.dtype == torch.uint8 else (1.0, 0.0)
        for columns, block in blocks(rows):
            block.mul_(factors).add_(uniform[:, columns], alpha=alpha)
            if offset:
                block.add_(offset)
            words[:, columns] = block.floor_().clamp_(-self.units - 1, self.units + 1)
        return words

    def decode(self, words: Tensor) -> Tensor:
        """Return a sum of vectors.

        Args:
            words: The sum of words modulo 2ᵇ, of which the higher bits may be anything; int32 ``[d]``.

        Returns:
            float64 ``[d]``.
        """
        spare = 32 - self.bits
        signed = words.bitwise_left_shift(spare).bitwise_right_shift(spare) if spare else words
        return signed.to(torch.float64).mul_(self.step)

    def error(self, size: int) -> float:
        """Return the expected rounding error of one vector of norm ``clip``: ``E‖x̂ − x‖² / ‖x‖²``.

        Args:
            size: The number d of its numbers, at most ``clip / √d`` large each.
        """
        return size / (6.0 * self.units**2)
