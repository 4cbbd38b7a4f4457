"""Stochastic rounding of updates to integers, conditioned on a bound of their norm.

Each coordinate is rounded up with the probability of its fractional part, which is unbiased. Rounding lengthens a
vector of d coordinates by up to √d, but typically by much less. So a vector is rounded again until its norm is within a
bound
that holds with a probability of at least 1 − β (Kairouz, Liu, Steinke, *The Distributed Discrete Gaussian Mechanism for
Federated Learning with Secure Aggregation*, 2021, algorithm 1). The condition has a negligible bias, and with it the
bound always holds: the guarantee of privacy relies on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_fed.core.arguments import number, whole

BETA = math.exp(-0.5)
"""β: an upper bound on the share of outcomes that are drawn again; in practice it is close to 0."""

_TRIES = 100
"""The largest number of draws; all exceed the bound with a probability of β¹⁰⁰, 2e-22."""

Uniform: TypeAlias = Callable[[int, str, int], Tensor]
"""Draws numbers between 0 and 1, float64 ``[size]``, from the size, a worker's name and the number of the try."""


def rounded_norm(units: float, dimension: int, beta: float = BETA) -> float:
    """Return the bound Δ₂ on the L2 norm of a rounded vector.

    It is the minimum of ``U + √d`` and ``√(U² + d/4 + √(2 ln(1/β)) (U + √d/2))``.

    Args:
        units: The largest norm U before rounding.
        dimension: The number d of coordinates.
        beta: β; 0: a bound that no outcome exceeds.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> rounded_norm(10, 100, beta=0)
    20.0
    >>> round(rounded_norm(10, 100), 3)
    11.832
    """
    units, dimension = number("units", units, least=1), whole("dimension", dimension, least=1)
    beta = number("beta", beta, least=0, below=1)
    always = units + math.sqrt(dimension)
    if beta == 0:
        return always
    spread = math.sqrt(-2 * math.log(beta)) * (units + math.sqrt(dimension) / 2)
    return min(always, math.sqrt(units**2 + dimension / 4 + spread))


def rounded_within(rows: Tensor, bound: float, workers: Sequence[str], uniform: Uniform) -> Tensor:
    """Round vectors to integers stochastically, each until its L2 norm is within a bound.

    Args:
        rows: The workers' vectors, scaled to norms of at most U; float ``[n, d]``.
        bound: Δ₂, from :func:`rounded_norm` of the same U and d; below 2³¹.
        workers: The workers' names, ``[n]``.
        uniform: Draws uniform numbers by worker and try, independently of the other workers of the stack.

    Returns:
        int32 ``[n, d]``, on the CPU.

    Raises:
        TypeError: If the bound is not a number.
        ValueError: If the bound is out of range, or a worker's vector cannot be rounded within it; it names the worker.

    >>> from lightning_fed.privacy import Noise
    >>> rows = torch.tensor([[0.5, -2.0, 0.25], [3.0, 0.0, -1.75]])
    >>> rounded = rounded_within(rows, 5.0, ["bob", "alice"], Noise(0).uniform)
    >>> bool(((rounded - rows).abs() < 1).all())
    True
    """
    bound = number("bound", bound, above=0, below=2**31)
    rounded = torch.empty(rows.shape, dtype=torch.int32)
    for i, (worker, row) in enumerate(zip(workers, rows, strict=True)):
        rounded[i] = _rounded(row.to("cpu", torch.float64), bound, worker, uniform)
    return rounded


def _rounded(row: Tensor, bound: float, worker: str, uniform: Uniform) -> Tensor:
    down = row.floor()
    part = row - down
    # If the shortest outcome is too long, or NaN, so are all outcomes.
    for turn in range(_TRIES if bool(row.trunc().square().sum() <= bound**2) else 0):
        # Not ⌊x + u⌋, whose sum is rounded as a float: integers must stay unchanged.
        found = down + (uniform(len(row), worker, turn) < part)
        # A sum of squares that is within the bound has no rounding error below 2⁵³.
        if bool(found.square().sum() <= bound**2):
            return found
    raise ValueError(
        f"worker {worker!r}: what it sends cannot be rounded to integers of an L2 norm of at most {bound:g}; scale it "
        "to a norm of at most units= before, and take bound=rounded_norm(units, dimension)"
    )
