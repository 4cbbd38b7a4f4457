"""Noise that each worker adds by itself, for servers that are not trusted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.base import AUDIENCES, Privacy, check_settings
from lightning_fed.privacy.clipping import add_clipped_, clip_scales, with_norms
from lightning_fed.privacy.grid import grid_step, rounding, to_grid_
from lightning_fed.privacy.mechanisms import LocalGaussian, Mechanism
from lightning_fed.privacy.noise import Noise
from lightning_fed.privacy.run import PrivateRun, Setting, released_numbers
from lightning_fed.secure.ring import Ring
from lightning_fed.wire import Job, Updates


@final
@dataclass(frozen=True)
class LocalDP(Privacy):
    """Clips each update and adds noise to it before it leaves the worker; no other party has to be trusted.

    The guarantee holds for each worker separately: for any two updates that it might have sent (they differ by up to
    2C), composed over its rounds. The reported ε is that of a worker that takes part in all rounds. Any aggregator in
    which workers count equally may follow.

    Args:
        clip: The bound C on the L2 norm of everything that a worker sends.
        noise_multiplier: The noise's standard deviation in units of C; None: the noise that ``epsilon`` requires.
        epsilon: The budget ε; training stops before the round that would exceed it. None: no budget.
        delta: δ; None: ``population ** -1.1``.
        accountant: ``"pld"`` (tight) or ``"rdp"``; None: the first that supports the mechanism.
        release_metrics: Whether to log losses, metrics and counts of workers, which no guarantee covers.
        insecure_deterministic_noise: Whether to draw noise from the run's seed, for tests; the run is then not private.

    Raises:
        ValueError: If an argument is out of range.
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

    def ring(self, job: Job, workers: int, bits: int) -> Ring | None:
        raise ValueError(
            "LocalDP does not go with secure_aggregation=: with its noise an update of d numbers is √d times as long "
            "as clip=, and needs no sum to hide in; take DistributedDP, whose workers share the noise of the sum, or "
            "leave out one of the two"
        )

    def worker(self, updates: Updates, job: Job) -> Updates:
        bound = job.promise["bound"]
        std = job.promise["noise_multiplier"] * bound
        return clipped_and_noised(updates, job, std, self.insecure_deterministic_noise)


def clipped_and_noised(updates: Updates, job: Job, std: float, insecure: bool) -> Updates:
    """Clip everything that each worker sends, and add noise to it, on a common grid.

    Args:
        updates: The updates of n workers.
        job: The job that the server sent, with the clipping bound.
        std: The standard deviation of each worker's noise.
        insecure: Whether noise follows from the seed of the run.
    """
    updates, norms = with_norms(updates)
    bound, size = job.promise["bound"], released_numbers(updates.delta.shape[1], updates.extra)
    step = grid_step(std, bound, size)
    scales = clip_scales(norms, bound - rounding(step, size))
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
