"""Worker-level differential privacy with a trusted server, which adds the noise.

DP-FedAvg: McMahan et al., *Learning Differentially Private Recurrent Language Models*, 2018, algorithm 1. A
release does not reveal whether any single worker, with all of its data, took part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.base import Privacy, check_settings
from lightning_fed.privacy.clipping import AdaptiveClip
from lightning_fed.privacy.mechanisms import FixedSizeGaussian, Gaussian, Mechanism, SubsampledGaussian
from lightning_fed.privacy.private_sum import PrivateSum, capped, clipped_ring
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.secure.ring import Ring
from lightning_fed.selection import CohortSampler, Poisson
from lightning_fed.wire import Job, Updates


@final
@dataclass(frozen=True)
class CentralDP(Privacy):
    """Clips every update, adds Gaussian noise to their sum, and divides by the expected number of workers.

    Every server optimizer and engine is supported. Cohorts are drawn by Poisson sampling by default; with cohorts of
    a fixed size the guarantee is the much weaker one of sampling without replacement.

    Args:
        clip: The bound C on the L2 norm of everything that a worker sends; or an :class:`AdaptiveClip`.
        noise_multiplier: The noise's standard deviation in units of C; None: the noise that ``epsilon`` requires.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        delta: δ; None: ``population ** -1.1``.
        weight_cap: The number of examples at which a worker reaches weight 1; with fewer its weight is proportional.
            None: all workers have weight 1.
        accountant: ``"pld"`` (tight) or ``"rdp"``; None: the first that supports the sampling.
        release_metrics: Whether to log losses, metrics and counts of workers, which no guarantee covers.
        insecure_deterministic_noise: Whether to draw noise from the run's seed, for tests; the run is then not private.

    Raises:
        ValueError: If an argument is out of range.

    Example::

        FederatedModule(module, privacy=CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5))
    """

    clip: float | AdaptiveClip
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    weight_cap: int | None = None
    accountant: Kind | None = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    sampler: ClassVar[type[CohortSampler] | None] = Poisson

    def __post_init__(self) -> None:
        check_settings(self, self.clip)
        if self.weight_cap is not None:
            says = " must be at least one example, and a whole number of them"
            settle(self, weight_cap=whole("weight_cap", self.weight_cap, least=1, owner=self, says=says))

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return sampled_gaussian(noise_multiplier, setting)

    def bound(self) -> float:
        return self.clip.initial if isinstance(self.clip, AdaptiveClip) else self.clip

    @property
    def moving(self) -> bool:
        return isinstance(self.clip, AdaptiveClip)

    @property
    def needs_examples(self) -> bool:
        return self.weight_cap is not None

    def weights(self, updates: Updates) -> Tensor:
        return capped(updates.examples, self.weight_cap)

    def ring(self, job: Job, workers: int, bits: int) -> Ring:
        return clipped_ring(job, workers, bits)

    def aggregator(self, run: PrivateRun) -> PrivateSum:
        adaptive = self.clip if isinstance(self.clip, AdaptiveClip) else None
        z = run.noise_multiplier
        if adaptive is not None:
            z = adaptive.update_multiplier(z, run.setting.cohort_size)

        def noise(size: int, name: str) -> Tensor:
            return run.noise.gaussian(size, z * run.bound, run.cohort, name)

        return PrivateSum(run, noise, adaptive, self.weight_cap)


def sampled_gaussian(noise_multiplier: float, setting: Setting) -> Mechanism:
    """Return the mechanism of a round in which noise is added to the sum of a cohort's clipped updates.

    Args:
        noise_multiplier: The noise's standard deviation in units of the largest change by one worker.
        setting: The setting, with the sampling of cohorts.
    """
    drawn = None if setting.sampling is None or setting.cohort_size == setting.population else setting.sampling.drawn
    if drawn == "by coins":
        return SubsampledGaussian(noise_multiplier, setting.cohort_size / setting.population)
    if drawn == "without replacement":
        return FixedSizeGaussian(noise_multiplier, setting.cohort_size, setting.population)
    return Gaussian(noise_multiplier)  # no guarantee: counted as if all workers took part in every round
