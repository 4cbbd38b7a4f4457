"""Noise that workers add themselves, for servers that are not trusted to."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.base import AUDIENCES, Privacy, check_settings
from lightning_fed.privacy.clipping import add_clipped_, clip_scales, with_norms
from lightning_fed.privacy.grid import grid_step, power_of_two, rounding, to_grid_
from lightning_fed.privacy.mechanisms import Gaussian, LocalGaussian, Mechanism
from lightning_fed.privacy.noise import MOST_STDS, Noise
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.wire import Job, Updates


@final
@dataclass(frozen=True)
class LocalDP(Privacy):
    """Each worker clips its update and adds noise to it before anything leaves; nobody has to be trusted.

    The guarantee is a worker's own, for any two updates that it might have sent (they differ by up to 2C), and adds up
    over the rounds in which it takes part; what is reported is that of a worker that takes part in all of them. Any
    aggregator in which workers count equally may follow.

    Args:
        clip: The bound C on an update's L2 norm, over all that a worker sends.
        noise_multiplier: The noise's standard deviation in units of C; None: as much as ``epsilon`` needs.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        delta: δ; None: ``population ** -1.1``.
        accountant: ``"pld"`` (tight) or ``"rdp"``; None: the first that knows the mechanism.
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

    audience: ClassVar[str] = AUDIENCES[2]
    any_aggregator: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_settings(self, self.clip)

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return LocalGaussian(noise_multiplier)

    def bound(self) -> float:
        return self.clip

    def aggregator(self, run: PrivateRun) -> None:
        return None

    def worker(self, updates: Updates, job: Job) -> Updates:
        bound, size = job.promise["bound"], released_numbers(updates)
        std = job.promise["noise_multiplier"] * bound
        return clipped_and_noised(updates, job, std, grid_step(std, bound, size), self.insecure_deterministic_noise)


@final
@dataclass(frozen=True)
class DistributedDP(Privacy):
    """Each worker adds a share of the noise, ``zC/√t``, so that t replies together have what a server would add.

    For secure aggregation, where the server sees sums only. A round with fewer than t replies releases nothing. That a
    worker takes part is no secret, so its contributions are what is hidden, and no sampling makes the guarantee better.

    Args:
        clip: The bound C on an update's L2 norm, over all that a worker sends.
        survivors: The number t of honest workers of a round that surely reply.
        noise_multiplier: The standard deviation of the sum's noise in units of C; None: as much as ``epsilon`` needs.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        delta: δ; None: ``population ** -1.1``.
        accountant: ``"pld"`` (tight) or ``"rdp"``; None: the first that knows the mechanism.
        release_metrics: Whether losses, metrics and counts of workers are shown, although no guarantee covers them.
        insecure_deterministic_noise: Whether noise comes from the seed of the run, for tests; it is then not private.

    Raises:
        ValueError: If one of them is out of range.
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

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        if self.survivors > setting.cohort_size:
            raise ValueError(
                f"DistributedDP(survivors={self.survivors}) can never be met by a cohort of {setting.cohort_size}; "
                "lower it or raise cohort_size"
            )
        # Not amplified by sampling: the server knows whom it asks, and every reply adds to the noise, so that the sum
        # itself tells how many there were. The guarantee is for a worker that replies with noise alone.
        return Gaussian(noise_multiplier)

    def mechanism_alone(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return LocalGaussian(noise_multiplier / math.sqrt(self.survivors))  # its share, and none of the others'

    def bound(self) -> float:
        return self.clip

    def aggregator(self, run: PrivateRun) -> PrivateSum:
        return PrivateSum(run, noise=None)

    def worker(self, updates: Updates, job: Job) -> Updates:
        bound, size = job.promise["bound"], released_numbers(updates)
        std = job.promise["noise_multiplier"] * bound / math.sqrt(self.survivors)
        step = exact_step(std, bound, size, updates.delta.dtype)
        return clipped_and_noised(updates, job, std, step, self.insecure_deterministic_noise)

    def least_replies(self) -> int:
        return self.survivors


def released_numbers(updates: Updates) -> int:
    """Return how many numbers a worker sends that are clipped together."""
    return updates.delta.shape[1] * (1 + len(updates.extra))


def exact_step(std: float, bound: float, size: int, dtype: torch.dtype) -> float:
    """The step of a grid on which all that a worker can send is exact in a dtype.

    What others see is the sum of what workers send. Were each rounded by itself, its last bits would be in that sum,
    with a share of the noise only to hide them. Secure aggregation, which sums integers, needs such a grid too.

    Args:
        std: The standard deviation of a worker's noise.
        bound: The clipping bound.
        size: How many numbers a worker sends.
        dtype: That of what it sends.

    Raises:
        ValueError: If the dtype has too few digits for so much noise on so many numbers, or is too narrow for them.
    """
    kind = torch.finfo(dtype)
    largest = bound + MOST_STDS * std
    step = max(grid_step(std, bound, size), power_of_two(largest * kind.eps))
    if largest > kind.max or step < kind.smallest_normal * kind.eps or rounding(step, size) > bound / 8:
        raise ValueError(
            f"{dtype} cannot hold noise of standard deviation {std:g} beside {size} numbers clipped to {bound:g} "
            "exactly, and what is rounded is not private; give a smaller noise_multiplier= or more survivors=, a clip= "
            "that is neither tiny nor huge, or train in float64 with Trainer(precision='64-true')"
        )
    return step


def clipped_and_noised(updates: Updates, job: Job, std: float, step: float, insecure: bool) -> Updates:
    """Clip all that each worker sends, and add noise to it, on a common grid.

    Args:
        updates: The updates of n workers.
        job: What the server sent, with the clipping bound.
        std: The standard deviation of each worker's noise.
        step: That of the grid.
        insecure: Whether noise follows from the seed of the run.
    """
    updates, norms = with_norms(updates)
    scales = clip_scales(norms, job.promise["bound"] - rounding(step, released_numbers(updates)))
    noise = Noise(job.seed if insecure else None)

    def noised(rows: Tensor, name: str) -> Tensor:
        left = torch.empty_like(rows)
        for i, worker in enumerate(updates.workers):
            total = to_grid_(noise.gaussian(rows.shape[1], std, job.cohort, name, worker), step).to(rows.device)
            add_clipped_(total, rows[i : i + 1], scales[i : i + 1], step)
            left[i] = total
        return left

    return replace(
        updates,
        delta=noised(updates.delta, "delta"),
        extra={name: noised(rows, name) for name, rows in updates.extra.items()},
    )
