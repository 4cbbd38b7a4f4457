"""DP-FTRL: Kairouz et al., *Practical and Private (Deep) Learning Without Sampling or Shuffling*, 2021.

Where workers cannot be sampled at random, noise is added to the *running sum* of updates rather than to each: the tree
aggregation of Dwork et al. 2010 keeps the noise of a sum of t rounds to that of log₂ t nodes. With SGD as server
optimizer that is algorithm 1 of the paper; any other one works on the same increments. The tree is restarted whenever
everyone may have taken part once (section 4.2), so that no worker is in one tree twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.base import Privacy, check_settings
from lightning_fed.privacy.mechanisms import Mechanism, TreeAggregation
from lightning_fed.privacy.noise import Noise
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.selection import CohortSampler, RoundRobin


@final
@dataclass
class NoiseTree:
    """The noise of running sums, one step at a time.

    The sum of t steps is that of the full subtrees of which t is made up in binary, each with noise of its own.

    Args:
        noise: Draws noise.
        period: After how many steps a new tree begins; the noise of the old one's last sum stays as it is.
    """

    noise: Noise
    period: int
    _step: int = 0
    _nodes: dict[int, Tensor] = field(default_factory=dict)  # by height, those in the present sum
    _before: Tensor | None = None

    def increment(self, size: int, std: float, *keys: int | str) -> Tensor:
        """By how much the noise of the running sum changes in this step.

        Args:
            size: How many numbers.
            std: The standard deviation of a node's noise.
            keys: See :meth:`Noise.gaussian`.

        Returns:
            float64 ``[size]``.
        """
        if self._step == self.period:
            self._step, self._nodes, self._before = 0, {}, None
        self._step += 1
        height = (self._step & -self._step).bit_length() - 1  # of the subtree that this step completes
        self._nodes = {h: node for h, node in self._nodes.items() if h > height}
        self._nodes[height] = self.noise.gaussian(size, std, "tree", *keys)
        now = torch.stack(list(self._nodes.values())).sum(dim=0)
        before, self._before = self._before, now
        return now if before is None else now - before


@final
@dataclass(frozen=True)
class DPFTRL(Privacy):
    """Differential privacy at the server without random sampling: every worker in turn, noise by tree aggregation.

    Cohorts are drawn by :class:`~lightning_fed.selection.RoundRobin`. A run that is resumed begins a new tree, which
    the accountant charges for: the nodes of the old one are secret and not in the checkpoint.

    Args:
        clip: The bound C on an update's L2 norm, over all that a worker sends.
        noise_multiplier: The standard deviation of a node's noise in units of C; None: as much as ``epsilon`` needs.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        delta: δ; None: ``population ** -1.1``.
        accountant: ``"pld"`` (tight) or ``"rdp"``; None: the first.
        release_metrics: Whether losses, metrics and counts of workers are shown, although no guarantee covers them.
        insecure_deterministic_noise: Whether noise comes from the seed of the run, for tests; it is then not private.

    Raises:
        ValueError: If one of them is out of range.
    """

    clip: float
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    accountant: Kind | None = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    sampler: ClassVar[type[CohortSampler] | None] = RoundRobin

    def __post_init__(self) -> None:
        check_settings(self, self.clip)

    def period(self, setting: Setting) -> int:
        return setting.population // setting.cohort_size

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        if setting.sampling is not None and setting.sampling.drawn != "in turn":
            raise ValueError(
                f"DPFTRL promises something only if nobody takes part twice before all have taken part once: use "
                f"FederatedDataModule(sampler=RoundRobin()), not {setting.sampling.__name__}"
            )
        return TreeAggregation(noise_multiplier, steps=self.period(setting))

    def bound(self) -> float:
        return self.clip

    def aggregator(self, run: PrivateRun) -> PrivateSum:
        trees: dict[str, NoiseTree] = {}

        def noise(size: int, name: str) -> Tensor:
            tree = trees.setdefault(name, NoiseTree(run.noise, run.period))
            return tree.increment(size, run.noise_multiplier * run.bound, run.cohort, name)

        return PrivateSum(run, noise)
