"""DP-FTRL: Kairouz et al., *Practical and Private (Deep) Learning Without Sampling or Shuffling*, 2021.

Where workers cannot be sampled at random, noise is added to the *running sum* of updates rather than to each update:
with the tree aggregation of Dwork et al. 2010 a sum of t rounds carries the noise of log₂ t nodes only. With SGD as
server optimizer this is algorithm 1 of the paper; any other optimizer uses the same increments. The tree is restarted
whenever all workers may have taken part once (section 4.2), so no worker is in one tree twice.

With ``factorization=`` a matrix correlates the noise in place of a tree, over the whole run and all participations of
a worker. The same guarantee then requires less noise (Choquette-Choo et al., *Multi-Epoch Matrix Factorization
Mechanisms for Private Machine Learning*, 2023).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_fed.core.arguments import instance
from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.base import Privacy, check_settings
from lightning_fed.privacy.correlated import CorrelatedGaussian, TreeAggregation
from lightning_fed.privacy.factorization import FactoredNoise, Factorization, sensitivity
from lightning_fed.privacy.mechanisms import Mechanism
from lightning_fed.privacy.noise import Noise
from lightning_fed.privacy.private_sum import PrivateSum, clipped_ring
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.secure.ring import Ring
from lightning_fed.selection import CohortSampler, RoundRobin
from lightning_fed.wire import Job


@final
@dataclass
class NoiseTree:
    """The noise of running sums, one step at a time.

    The sum of t steps consists of the full subtrees in the binary representation of t, each with independent noise.

    Args:
        noise: The source of noise.
        period: The number of steps after which a new tree begins; the noise of the old tree's last sum remains.
    """

    noise: Noise
    period: int
    _step: int = 0
    _nodes: dict[int, Tensor] = field(default_factory=dict)  # the nodes of the current sum, by height
    _before: Tensor | None = None

    def increment(self, size: int, std: float, *keys: int | str) -> Tensor:
        """Return the change of the running sum's noise in this step.

        Args:
            size: The number of elements.
            std: The standard deviation of a node's noise.
            keys: See :meth:`Noise.gaussian`.

        Returns:
            float64 ``[size]``.
        """
        if self._step == self.period:
            self._step, self._nodes, self._before = 0, {}, None
        self._step += 1
        height = (self._step & -self._step).bit_length() - 1  # height of the subtree that this step completes
        self._nodes = {h: node for h, node in self._nodes.items() if h > height}
        self._nodes[height] = self.noise.gaussian(size, std, "tree", *keys)
        now = torch.stack(list(self._nodes.values())).sum(dim=0)
        before, self._before = self._before, now
        return now if before is None else now - before


@final
@dataclass(frozen=True)
class DPFTRL(Privacy):
    """Differential privacy at the server without random sampling: noise by tree aggregation or matrix factorisation.

    It requires a sampler that separates the participations of a worker: :class:`~lightning_fed.selection.RoundRobin`
    (the default), :class:`~lightning_fed.selection.MinSeparation`, or your own with a ``separation()``. A resumed run
    begins a new tree or factorisation, which the accountant charges: the noise of the old one is secret and therefore
    not in the checkpoint.

    Args:
        clip: The bound C on the L2 norm of everything that a worker sends.
        noise_multiplier: The standard deviation in units of C of a node's noise in the tree, or of the noise that is
            correlated; None: the noise that ``epsilon`` requires.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        delta: δ; None: ``population ** -1.1``.
        factorization: The correlation of the noise, such as ``BufferedToeplitz()`` or ``BandedToeplitz(bands=32)``;
            the Trainer must define the number of rounds. None: a tree.
        accountant: ``"pld"`` (tight) or ``"rdp"``; None: the first.
        release_metrics: Whether to log losses, metrics and counts of workers, which no guarantee covers.
        insecure_deterministic_noise: Whether to draw noise from the run's seed, for tests; the run is then not private.

    Raises:
        ValueError: If an argument is out of range.
    """

    clip: float
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    factorization: Factorization | None = None
    accountant: Kind | None = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    sampler: ClassVar[type[CohortSampler] | None] = RoundRobin

    def __post_init__(self) -> None:
        check_settings(self, self.clip)
        if self.factorization is not None:
            instance("factorization", self.factorization, Factorization, "BufferedToeplitz()")

    def period(self, setting: Setting) -> int:
        if self.factorization is None:
            return setting.population // setting.cohort_size
        if setting.rounds is None:
            raise ValueError(
                "DPFTRL(factorization=...) is made for a number of rounds: give the Trainer max_steps or max_epochs"
            )
        return setting.rounds

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        if self.factorization is not None:
            rounds, separation = self.period(setting), setting.separation
            moved = sensitivity(self.factorization.coefficients(rounds, separation), separation)
            return CorrelatedGaussian(noise_multiplier, moved, rounds, separation)
        if setting.separation < self.period(setting):
            raise ValueError(
                "DPFTRL promises something only if nobody takes part twice before all have taken part once: use "
                f"FederatedDataModule(sampler=RoundRobin()), not {getattr(setting.sampling, '__name__', 'everyone')}"
            )
        return TreeAggregation(noise_multiplier, steps=self.period(setting))

    def bound(self) -> float:
        return self.clip

    def ring(self, job: Job, workers: int, bits: int) -> Ring:
        return clipped_ring(job, workers, bits)

    def aggregator(self, run: PrivateRun) -> PrivateSum:
        streams: dict[str, NoiseTree | FactoredNoise] = {}
        sizes: dict[str, int] = {}

        def noise(size: int, name: str) -> Tensor:
            if sizes.setdefault(name, size) != size:
                raise ValueError(
                    f"DPFTRL: {sizes[name]} numbers were trained in the rounds before, and now there are {size}, but "
                    "the noise of a round goes on in later ones: freeze and unfreeze no layers during a fit, or take "
                    "CentralDP"
                )
            stream = streams.get(name) or streams.setdefault(name, self._stream(run))
            return stream.increment(size, run.noise_multiplier * run.bound, run.cohort, name)

        return PrivateSum(run, noise)

    def _stream(self, run: PrivateRun) -> NoiseTree | FactoredNoise:
        if self.factorization is None:
            return NoiseTree(run.noise, run.period)
        return FactoredNoise(run.noise, self.factorization, run.period, run.setting.separation)
