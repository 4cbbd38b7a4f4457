"""A common grid for sums and noise: the bits of a release then reveal nothing beyond its value.

The precision of a float depends on its magnitude. So float noise on a float sum lies on a lattice that depends on the
sum, and the last bits may reveal the sum, however large the noise is (Mironov, *On Significance of the Least
Significant Bits for Differential Privacy*, 2012). The remedy of that paper: all summands are multiples of one power of
two.

1. **Each contribution** is computed in float64 and rounded separately to the nearest multiple of the step g. Rounding
   lengthens a vector of d numbers by at most ``g √d / 2`` (:func:`rounding`). The vector is therefore clipped to
   ``C − g √d / 2`` first, and its norm is at most C when it is added: the rounding requires no additional noise.
2. **The noise** is drawn in float64 and rounded separately to the same grid. For a sum S on the grid,
   ``S + round(noise)`` is ``round(S + noise)``: a function of the Gaussian mechanism's output only. The same holds for
   noise that depends on earlier rounds, such as a tree's: the increment of each round is rounded.
3. **Sums of multiples of g are exact** in float64 as long as they stay below ``2⁵³ g``: they do not depend on the
   order, on blocks of workers or on processes. With g = 2⁻²² σ this holds for up to 2³¹ z workers.
4. A release may be divided, or rounded to float32, only afterwards: the result is a function of a private value.

If a *sum* of clipped vectors is rounded instead of each vector, two neighbours' sums differ by up to
``C + 2 · rounding(g, d)``, and the noise must match this bound.
"""

from __future__ import annotations

import math

from torch import Tensor

_STEPS_IN_STD = 2.0**22
_SHARE_OF_BOUND = 2.0**-12


def grid_step(std: float, bound: float, size: int) -> float:
    """Return the step g of the grid: a power of two of about ``2⁻²² std``, or less for very many numbers.

    It is a function of public numbers, so all workers and processes of a round use the same step. The elements of a
    longer vector are smaller; to keep them, g is at most ``2⁻¹² bound / √size``, and :func:`rounding` at most
    ``2⁻¹³ bound``.

    Args:
        std: The standard deviation σ of the noise that is added to each number at a time.
        bound: The clipping bound C.
        size: The number d of numbers that are released together.

    Raises:
        ValueError: If such a step is too small or too large for a float64.

    >>> grid_step(1.0, 1.0, 1000) == 2.0**-22
    True
    >>> grid_step(3.0, 1.0, 1000) == 2.0**-21
    True
    >>> grid_step(1.0, 1.0, 2**30) == 2.0**-27
    True
    """
    most = min(std / _STEPS_IN_STD, _SHARE_OF_BOUND * bound / math.sqrt(max(size, 1)))
    if not 0 < most < math.inf:
        raise ValueError(
            f"noise with standard deviation {std:g} for a clipping bound of {bound:g} cannot be put on a grid of "
            "float64 numbers; give a clip= and a noise_multiplier= that are neither so small nor so large"
        )
    return power_of_two(most)


def power_of_two(most: float) -> float:
    """Return the largest power of two that is not larger than a positive number.

    >>> power_of_two(3.0), power_of_two(0.5)
    (2.0, 0.5)
    """
    return math.ldexp(1.0, math.frexp(most)[1] - 1)


def rounding(step: float, size: int) -> float:
    """Return the largest change of a vector's norm by rounding to the grid: ``g √d / 2``.

    >>> rounding(0.5, 16)
    1.0
    """
    return step * math.sqrt(size) / 2


def to_grid_(values: Tensor, step: float) -> Tensor:
    """Round float64 numbers to the nearest multiples of a power of two, in place.

    Args:
        values: float64.
        step: The power of two.

    >>> import torch
    >>> to_grid_(torch.tensor([0.3, -0.9, 5.0], dtype=torch.float64), 0.5)
    tensor([ 0.5000, -1.0000,  5.0000], dtype=torch.float64)
    """
    return values.div_(step).round_().mul_(step)
