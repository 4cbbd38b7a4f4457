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
    """Means of buckets of s workers each, dealt at random in each round, for an aggregator (algorithm 1).

    Means differ less than workers do: their variance is 1/s of the workers'. So an aggregator that follows one update,
    as Krum does, or one value of a coordinate, as the median does, loses less of what is rare. The last bucket has
    fewer workers, if their number is no multiple of s.

    One attacker spoils one bucket, so that the aggregator must bear as many attackers as before, among ⌈n/s⌉ means:
    ``Bucketing(Krum(attackers=2), size=2)`` bears 2 among n workers, and needs 2 · 2 + 3 buckets.

    Args:
        aggregator: What is given the means; its ``attackers`` are those among the workers.
        size: s; 2 in the paper's experiments. 1: the aggregator alone.

    Raises:
        TypeError: If the aggregator is none that looks at all updates of a cohort, or the size no number.
        ValueError: If the size is not positive and whole, or workers do not count equally in the aggregator.
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
        # By a number of each name, and no generator's permutation: those change from version to version.
        dealt = sorted(range(len(names)), key=lambda place: derive(self._seed, names[place]))
        buckets = sorted(sorted(dealt[first : first + self.size]) for first in range(0, len(names), self.size))
        shares = torch.zeros(len(buckets), len(names), dtype=torch.float64)
        for row, bucket in enumerate(buckets):
            shares[row, bucket] = 1 / len(bucket)
        return shares.to(cohort.delta.device)
