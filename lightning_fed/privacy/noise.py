"""Noise from the operating system's entropy: Gaussian noise, and Skellam noise of integers."""

from __future__ import annotations

import math
import os
from typing import final

import numpy as np
import torch
from torch import Tensor

from lightning_fed.core.arguments import whole
from lightning_fed.core.rng import derive
from lightning_fed.core.shown import Shown
from lightning_fed.privacy.inversion import Entropy, Integers, skellam_table

MOST_STDS = 9.0
"""The largest noise, in standard deviations: √(−2 ln 2⁻⁵⁴) = 8.65. A Gaussian exceeds it with probability 5e-18."""

_BLOCK = 2**16
"""The number of integers drawn at a time; their bits and positions stay in a processor's cache."""


@final
class Noise(Shown):
    """Draws noise that is independent of all seeds.

    Every number is made from fresh bytes of the operating system (Box & Muller 1958): there is no generator whose state
    could be guessed, saved or seeded. Two uniform numbers of 53 bits make two normal numbers, whose last bits differ
    from a true Gaussian's: round them to a grid before any release, see ``privacy.grid``. Integers are
    drawn exactly, see ``privacy.inversion``.

    Args:
        insecure_seed: If given, noise is a function of this seed instead, for tests. Such noise is not private.

    >>> noise = Noise().gaussian(100_000, std=2.0)
    >>> 1.95 < noise.std() < 2.05
    tensor(True)
    """

    def __init__(self, insecure_seed: int | None = None) -> None:
        self._insecure_seed = insecure_seed if insecure_seed is None else whole("insecure_seed", insecure_seed, least=0)

    def gaussian(self, size: int, std: float, *keys: int | str) -> Tensor:
        """Draw noise.

        Args:
            size: The number of elements, at least one.
            std: Their standard deviation.
            keys: The purpose of the noise; with an insecure seed the noise is a function of seed and keys.

        Returns:
            float64 ``[size]``, on the CPU.
        """
        half = -(-size // 2)
        uniform = self.uniform(2 * half, *keys)
        radius = uniform[:half].log_().mul_(-2).sqrt_().mul_(std)
        angle = uniform[half:].mul_(2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:size]

    def skellam(self, size: int, variance: float, *keys: int | str) -> Integers:
        """Draw integers, each the difference of two Poisson numbers; sums of Skellam numbers are Skellam numbers.

        Args:
            size: The number of integers, at least one.
            variance: Their variance V; above 0 and at most 8192².
            keys: The purpose of the noise, as in :meth:`gaussian`.

        Returns:
            int32 ``[size]``.

        Raises:
            TypeError: If the variance is not a number.
            ValueError: If it is out of range.

        >>> noise = Noise().skellam(100_000, variance=4.0)
        >>> bool(1.95 < noise.std() < 2.05)
        True
        """
        table, entropy = skellam_table(variance), self._entropy((*keys, "skellam"))
        drawn = np.empty(size, dtype=np.int32)
        for first in range(0, size, _BLOCK):
            block = drawn[first : first + _BLOCK]
            block[:] = table.drawn(len(block), entropy)
        return drawn

    def uniform(self, size: int, *keys: int | str) -> Tensor:
        """Draw uniformly from (0, 1), without its ends.

        Args:
            size: The number of elements, at least one.
            keys: The purpose of the numbers, as in :meth:`gaussian`.

        Returns:
            float64 ``[size]``, on the CPU.
        """
        words = torch.frombuffer(bytearray(self._entropy(keys)(8 * size)), dtype=torch.int64)
        # 53 bits, as many as a float64 has, and half a step up, for a logarithm.
        return words.bitwise_right_shift(11).bitwise_and_(2**53 - 1).to(torch.float64).add_(0.5).mul_(2.0**-53)

    def _entropy(self, keys: tuple[int | str, ...]) -> Entropy:
        if self._insecure_seed is None:
            return os.urandom
        return np.random.default_rng(derive(self._insecure_seed, "noise", *keys)).bytes
