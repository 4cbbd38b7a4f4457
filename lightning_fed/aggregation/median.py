"""Median and TrimmedMean: Yin et al., *Byzantine-Robust Distributed Learning*, 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from lightning_fed.aggregation.robust import Combine, RobustAggregator, require
from lightning_fed.core.arguments import settle, whole


@final
@dataclass(frozen=True)
class Median(RobustAggregator):
    """The median of every coordinate (definition 1); for even n the mean of the two middle values.

    With fewer than n/2 attackers each coordinate lies between the smallest and the largest value of honest workers.
    """

    def combination(self, delta: Tensor) -> Combine:
        return median


@final
@dataclass(frozen=True)
class TrimmedMean(RobustAggregator):
    """The mean of every coordinate without its ``trim`` smallest and ``trim`` largest values (definition 2).

    With at most ``trim`` attackers each coordinate lies between the smallest and the largest value of honest workers.

    Args:
        trim: The number of values to drop at each end, b; at least the number of attackers.

    Raises:
        TypeError: If ``trim`` is not a number.
        ValueError: If ``trim`` is negative, or not an integer.
    """

    trim: int

    def __post_init__(self) -> None:
        settle(self, trim=whole("trim", self.trim, least=0))

    def check(self, cohort_size: int) -> None:
        require(cohort_size > 2 * self.trim, self, cohort_size, "trim < n/2")

    def combination(self, delta: Tensor) -> Combine:
        return lambda rows: rows.sort(dim=0).values[self.trim : len(rows) - self.trim].mean(dim=0)


def median(rows: Tensor) -> Tensor:
    """Return the median of every column; ``[n, m]`` to ``[m]``.

    >>> import torch
    >>> median(torch.tensor([[1.0], [9.0], [2.0], [4.0]]))
    tensor([3.])
    """
    ordered = rows.sort(dim=0).values
    return (ordered[(len(rows) - 1) // 2] + ordered[len(rows) // 2]) / 2
