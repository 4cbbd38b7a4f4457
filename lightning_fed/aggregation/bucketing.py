"""Bucketing: Karimireddy, He & Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*, 2022."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_fed.aggregation.mixing import Mixing
from lightning_fed.aggregation.robust import Gathered
from lightning_fed.core.arguments import settle, whole
from lightning_fed.core.rng import derive
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Job


@final
@dataclass(frozen=True)
class Bucketing(Mixing):
    """Deals workers at random into buckets of s in each round, and aggregates the buckets' means (algorithm 1).

    The variance of the means is 1/s of the workers' variance. So an aggregator that follows one update (Krum) or one
    value of a coordinate (the median) loses less of rare data. The last bucket is smaller if s does not divide the
    number of workers.

    One attacker corrupts one bucket. The aggregator must therefore tolerate the same number of attackers among ⌈n/s⌉
    means: ``Bucketing(Krum(attackers=2), size=2)`` tolerates 2 among n workers, and needs 2 · 2 + 3 buckets.

    Args:
        aggregator: The aggregator of the means; its ``attackers`` counts attackers among the workers.
        size: s; 2 in the paper's experiments. 1: the aggregator alone.

    Raises:
        TypeError: If the aggregator is not one that keeps all updates of a cohort, or the size is not a number.
        ValueError: If the size is not a positive integer, or workers do not count equally in the aggregator.
    """

    size: int = 2
    _seed: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, size=whole("size", self.size, least=1, owner=self))

    def means(self, cohort_size: int) -> int:
        return -(-cohort_size // self.size)

    def of_round(self, job: Job, server: Tensors) -> Self:
        dealt = super().of_round(job, server)
        settle(dealt, _seed=derive(job.seed, job.cohort, "bucketing"))
        return dealt

    def shares(self, cohort: Gathered) -> Tensor:
        names = cohort.workers
        # Sorted by a number derived from each name: a generator's permutation may change between NumPy versions.
        dealt = sorted(range(len(names)), key=lambda place: derive(self._seed, names[place]))
        buckets = sorted(sorted(dealt[first : first + self.size]) for first in range(0, len(names), self.size))
        shares = torch.zeros(len(buckets), len(names), dtype=torch.float64)
        for row, bucket in enumerate(buckets):
            shares[row, bucket] = 1 / len(bucket)
        return shares.to(cohort.delta.device)
