"""Mechanisms of many rounds at once, with noise that is correlated over the rounds.

See ``privacy.mechanisms`` for mechanisms of single rounds, and for the units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, final

import numpy as np

from lightning_fed.core.arguments import flag, number, settle
from lightning_fed.privacy.mechanisms import (
    Mechanism,
    Relation,
    check_noise,
    check_whole,
    gaussian_event,
    gaussian_losses,
)


@final
@dataclass(frozen=True)
class TreeAggregation(Mechanism):
    """All prefix sums of a stretch of rounds by one binary tree: DP-FTRL (Kairouz et al. 2021, appendix D).

    No sampling is required: a worker's position in an epoch is fixed, and it takes part at most once in each epoch.
    Charge the mechanism before the first round of each tree, that is, once per restart.

    Args:
        noise_multiplier: z; the noise of each node of the tree.
        steps: The rounds of an epoch.
        epochs: The number of epochs of one tree.
        completed: Whether the tree is completed with empty rounds to the next power of two before a restart (appendix
            D.3), as for all trees but the last; a worker then affects more nodes.

    Raises:
        ValueError: If z is not positive, or another number not a positive integer.
    """

    relation: ClassVar[Relation] = "zero-out"
    has_losses: ClassVar[bool] = True

    noise_multiplier: float
    steps: int
    epochs: int = 1
    completed: bool = False

    def __post_init__(self) -> None:
        check_noise(self)
        check_whole(self, "steps", "epochs")
        settle(self, completed=flag("completed", self.completed, owner=self))

    @property
    def participation(self) -> str:
        times = "once" if self.epochs == 1 else f"{self.epochs} times"
        return f"no sampling: each at most {times} in the {self.steps * self.epochs} rounds of a tree"

    def event(self, relation: Relation) -> Any:
        return gaussian_event(self._effective, relation)

    def losses(self, relation: Relation, count: int, grid: float) -> Any:
        return gaussian_losses(self._effective, relation, count, grid)

    @property
    def _effective(self) -> float:
        # All nodes together are one Gaussian mechanism, in which a worker moves several coordinates.
        return self.noise_multiplier / math.sqrt(tree_sensitivity_squared(self.steps, self.epochs, self.completed))


@final
@dataclass(frozen=True)
class CorrelatedGaussian(Mechanism):
    """All prefix sums of a number of rounds by a matrix factorisation; see ``privacy.factorization``.

    Charge the mechanism once, before the first of the rounds: all rounds together are one Gaussian release.

    Args:
        noise_multiplier: z; the white noise's standard deviation in units of C.
        sensitivity: The largest change of ``C x`` by one worker over all rounds, in units of the clipping bound.
        rounds: The number of rounds.
        separation: The number of rounds between two participations of a worker, at least.

    Raises:
        ValueError: If z or the sensitivity is not positive, or another number not a positive integer.
    """

    relation: ClassVar[Relation] = "zero-out"
    has_losses: ClassVar[bool] = True

    noise_multiplier: float
    sensitivity: float
    rounds: int
    separation: int

    def __post_init__(self) -> None:
        check_noise(self)
        check_whole(self, "rounds", "separation")
        settle(self, sensitivity=number("sensitivity", self.sensitivity, above=0, owner=self))

    @property
    def participation(self) -> str:
        return f"no sampling: each at most every {self.separation} of the {self.rounds} rounds"

    def event(self, relation: Relation) -> Any:
        return gaussian_event(self.noise_multiplier / self.sensitivity, relation)

    def losses(self, relation: Relation, count: int, grid: float) -> Any:
        return gaussian_losses(self.noise_multiplier / self.sensitivity, relation, count, grid)


@lru_cache(maxsize=256)
def tree_sensitivity_squared(steps: int, epochs: int = 1, completed: bool = False) -> int:
    """Return the squared L2 change of all nodes of a tree by one worker, in units of C².

    A node that includes a worker k times changes by up to kC. The worker is the one in the worst position.

    Args:
        steps: The rounds of an epoch.
        epochs: The epochs of the tree.
        completed: Whether the tree is completed to the next power of two.

    >>> tree_sensitivity_squared(4)  # a leaf, a pair, the root
    3
    >>> tree_sensitivity_squared(1, epochs=4)  # four leaves that see it once, two pairs twice, the root four times
    28
    >>> tree_sensitivity_squared(5), tree_sensitivity_squared(5, completed=True)
    (3, 4)
    """
    leaves = steps * epochs
    levels = (leaves - 1).bit_length() + 1
    squared = np.zeros(steps, dtype=np.int64)
    for level in range(levels):
        nodes = 1 << (levels - 1 - level) if completed else leaves >> level
        previous = times = np.zeros(steps, dtype=np.int64)
        for epoch in range(epochs):
            node = (np.arange(steps) + epoch * steps) >> level
            times = np.where((node == previous) & (epoch > 0), times + 1, 1)
            # From (k - 1)² to k², if the node exists: without completion the last nodes are never created.
            squared += np.where(node < nodes, 2 * times - 1, 0)
            previous = node
    return int(squared.max())
