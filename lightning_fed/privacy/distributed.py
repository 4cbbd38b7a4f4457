"""Noise that all workers add jointly, for secure aggregation: integers, whose sums are exact.

Agarwal, Kairouz, Liu, *The Skellam Mechanism for Differentially Private Federated Learning*, 2021; the rounding is that
of Kairouz, Liu, Steinke, *The Distributed Discrete Gaussian Mechanism for Federated Learning with Secure Aggregation*,
2021, algorithm 1. Unlike the papers, updates are not rotated, since the units are fine enough for any coordinate, and
sums do not wrap around.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.base import AUDIENCES, Privacy, check_settings
from lightning_fed.privacy.clipping import clip_scales, with_norms
from lightning_fed.privacy.inversion import largest_skellam
from lightning_fed.privacy.mechanisms import Mechanism
from lightning_fed.privacy.noise import Noise
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.privacy.run import PrivateRun, Setting, released_numbers
from lightning_fed.privacy.skellam import LocalSkellam, SkellamSum
from lightning_fed.privacy.stochastic_rounding import rounded_norm, rounded_within
from lightning_fed.privacy.units import check_fits, share_variance, step_for
from lightning_fed.secure.ring import Ring
from lightning_fed.wire import Job, Updates


@final
@dataclass(frozen=True)
class DistributedDP(Privacy):
    """Adds a share of the noise at each worker, of variance ``(zC)²/t``; t replies together carry the full noise.

    Use it with secure aggregation, where the server sees sums only. A round with fewer than t replies releases nothing.
    Participation is not secret: the guarantee hides a worker's contributions, and sampling does not amplify it. A
    worker sends integers times a power of two: its update is clipped, rounded stochastically, and receives Skellam
    noise; see ``privacy.units``.

    Args:
        clip: The bound C on the L2 norm of everything that a worker sends.
        survivors: The assumed minimum t of honest workers that reply in a round.
        noise_multiplier: The standard deviation of the sum's noise in units of C; None: the noise that ``epsilon``
            requires.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        delta: δ; None: ``population ** -1.1``.
        accountant: ``"rdp"``, the only one that counts noise of integers, or None.
        release_metrics: Whether to log losses, metrics and counts of workers, which no guarantee covers.
        insecure_deterministic_noise: Whether to draw noise from the run's seed, for tests; the run is then not private.

    Raises:
        ValueError: If an argument is out of range.
    """

    clip: float
    survivors: int
    noise_multiplier: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    accountant: Kind | None = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    audience: ClassVar[str] = AUDIENCES[1]

    def __post_init__(self) -> None:
        check_settings(self, self.clip)
        says = " must be at least one worker, and a whole number of them"
        settle(self, survivors=whole("survivors", self.survivors, least=1, owner=self, says=says))
        if self.accountant == "pld":
            raise ValueError(
                'DistributedDP(accountant="pld"): noise of integers is counted by Rényi divergences alone; leave '
                'accountant= out, or say "rdp"'
            )

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        if self.survivors > setting.cohort_size:
            raise ValueError(
                f"DistributedDP(survivors={self.survivors}) can never be met by a cohort of {setting.cohort_size}; "
                "lower it or raise cohort_size"
            )
        # No amplification by sampling: the server chooses the workers, and every reply adds noise, so the sum reveals
        # the number of replies. The neighbour in the guarantee is a worker that replies with noise only.
        return SkellamSum(noise_multiplier, self._units(noise_multiplier), _dimension(setting))

    def mechanism_alone(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        share = noise_multiplier / math.sqrt(self.survivors)  # without the shares of the others
        return LocalSkellam(share, self._units(noise_multiplier), _dimension(setting))

    def _units(self, noise_multiplier: float) -> float:
        return self.clip / step_for(self.clip, noise_multiplier, self.survivors)

    def bound(self) -> float:
        return self.clip

    def job(self, job: Job, run: PrivateRun) -> Job:
        size = released_numbers(job.model.layout.size, job.extra)
        if size > _dimension(run.setting):
            raise ValueError(
                f"DistributedDP: {run.setting.dimension} numbers were accounted for when the run began, and now there "
                f"are {size}, which cost more; freeze and unfreeze no layers during a fit, or take CentralDP"
            )
        return super().job(job, run)

    def aggregator(self, run: PrivateRun) -> PrivateSum:
        return PrivateSum(run, noise=None)

    def ring(self, job: Job, workers: int, bits: int) -> Ring:
        bound, noise_multiplier = job.promise["bound"], job.promise["noise_multiplier"]
        step = step_for(bound, noise_multiplier, self.survivors)
        check_fits(bound / step, noise_multiplier, self.survivors, workers, bits)
        return Ring(bound, workers, bits, grid=step)

    def worker(self, updates: Updates, job: Job) -> Updates:
        bound, noise_multiplier = job.promise["bound"], job.promise["noise_multiplier"]
        step = step_for(bound, noise_multiplier, self.survivors)
        units, size = bound / step, released_numbers(updates.delta.shape[1], updates.extra)
        longest, variance = rounded_norm(units, size), share_variance(noise_multiplier, units, self.survivors)
        check_exact(step, longest + largest_skellam(variance), updates.delta.dtype)
        noise = Noise(job.seed if self.insecure_deterministic_noise else None)

        def uniform(count: int, worker: str, turn: int) -> Tensor:
            return noise.uniform(count, job.cohort, "rounding", worker, turn)

        left = {name: torch.empty_like(rows) for name, rows in _vectors(updates)}
        updates, norms = with_norms(updates)
        in_units = clip_scales(norms, bound) / step
        for i, worker in enumerate(updates.workers):  # one worker at a time: all its vectors, in float64
            row = torch.cat([rows[i].to("cpu", torch.float64) for _, rows in _vectors(updates)]).mul_(in_units[i])
            integers = rounded_within(row.unsqueeze(0), longest, [worker], uniform)[0]
            integers += torch.from_numpy(noise.skellam(size, variance, job.cohort, worker))
            for vector, part in zip(left.values(), integers.view(len(left), -1), strict=True):
                vector[i] = part.to(torch.float64).mul_(step)  # exact in any float dtype
        return replace(updates, delta=left.pop("delta"), extra=left)

    def least_replies(self) -> int:
        return self.survivors


def check_exact(step: float, largest: float, dtype: torch.dtype) -> None:
    """Refuse a dtype that does not hold integers times a power of two exactly.

    Observers see the sum of the workers' numbers. If each number were rounded separately, its last bits would appear
    in that sum, hidden by a single share of the noise only.

    Args:
        step: The power of two.
        largest: The largest absolute value of an integer.
        dtype: The dtype of a worker's message.

    Raises:
        ValueError: If the dtype has too few digits, or too small a range.

    >>> check_exact(2.0**-17, 2.0**20, torch.float32)
    """
    kind = torch.finfo(dtype)
    if largest >= 2 / kind.eps or step < kind.smallest_normal or largest * step > kind.max:
        raise ValueError(
            f"{dtype} cannot hold integers of up to {largest:.3g}, times {step:g}, exactly, and what is rounded is not "
            "private; give a clip= that is neither tiny nor huge, or train in float64 with Trainer(precision='64-true')"
        )


def _vectors(updates: Updates) -> Iterator[tuple[str, Tensor]]:
    yield "delta", updates.delta
    yield from updates.extra.items()


def _dimension(setting: Setting) -> int:
    if setting.dimension is None:
        raise ValueError(
            "DistributedDP needs the number of trained parameters, since rounding lengthens many numbers by more: give "
            "--parameters, or in Python Setting(dimension=); too many is on the safe side"
        )
    return setting.dimension
