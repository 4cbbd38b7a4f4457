"""The noisy sum of clipped updates, divided by a fixed number: differential privacy at the server."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.aggregation.cohort_sum import CohortSum
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors, add_weighted_
from lightning_fed.privacy.clipping import AdaptiveClip, add_clipped_, clip_scales, with_norms
from lightning_fed.privacy.grid import grid_step, rounding, to_grid_
from lightning_fed.privacy.run import PrivateRun, released_numbers
from lightning_fed.secure.ring import Ring
from lightning_fed.wire import Aggregate, Job, Updates

ServerNoise: TypeAlias = Callable[[int, str], Tensor]
"""A function that draws the server's noise for one sum, from its size and its name."""


@dataclass
class PrivateSums:
    """Sums of clipped updates over the workers of one process: float64, multiples of ``step``."""

    delta: Tensor
    extra: Tensors
    within: Tensor
    buffers: Tensors
    step: float
    dtype: torch.dtype


@final
class PrivateSum(Aggregator[PrivateSums]):
    """``(Σ wᵢ clip(Δᵢ) + noise) / (qN)``.

    The denominator is the *expected* number of workers, for any number of replies: dividing by the replies would
    reveal their number, and put too little noise on a small cohort. A round without replies releases noise only.
    Buffers do not leave the workers. Updates and noise are summed on a common grid, see
    ``privacy.grid``; only the mean is rounded to the model's dtype.

    Args:
        run: Holds the clipping bound, the noise and the number of workers; charged before each release.
        noise: Draws the server's noise; None: the workers have clipped their updates and added the noise.
        adaptive: The rule that moves the bound, if any.
        weight_cap: The number of examples at which a worker reaches weight 1; None: every worker has weight 1.
    """

    def __init__(
        self,
        run: PrivateRun,
        noise: ServerNoise | None,
        adaptive: AdaptiveClip | None = None,
        weight_cap: int | None = None,
    ) -> None:
        self.always = noise is not None
        self._run = run
        self._noise = noise
        self._adaptive = adaptive
        self._weight_cap = weight_cap

    def count(self, replies: int) -> float:
        return self._run.setting.cohort_size

    def fold(self, updates: Iterable[Updates], job: Job) -> PrivateSums:
        run, vector = self._run, job.model.vector
        size = released_numbers(vector.numel(), job.extra)
        sums = PrivateSums(
            delta=torch.zeros_like(vector, dtype=torch.float64),
            extra={name: torch.zeros_like(vector, dtype=torch.float64) for name in job.extra},
            within=torch.zeros((), dtype=torch.float64),
            buffers={name: buffer.clone() for name, buffer in job.model.buffers.items()},
            step=grid_step(run.noise_multiplier * run.bound, run.bound, size),
            dtype=vector.dtype,
        )
        for update in updates:
            update, norms = with_norms(update)
            weights = capped(update.examples, self._weight_cap)
            for total, rows in (
                (sums.delta, update.delta),
                *((total, update.extra[name]) for name, total in sums.extra.items()),
            ):
                if self._noise is None:  # multiples of one power of two, see distributed.py
                    add_weighted_(total, weights, rows)
                else:
                    scales = clip_scales(norms, run.bound - rounding(sums.step, size))
                    add_clipped_(total, rows, scales * weights, sums.step)
            # Centred at ½ (Andrew et al. 2021): one worker changes this count by at most ½.
            sums.within += (norms <= run.bound).to(torch.float64).sub_(0.5).sum()
            del update, rows  # see outbox.py
        return sums

    def of_sum(self, total: CohortSum, job: Job) -> PrivateSums:
        """Return the sums of updates that workers have clipped, as :meth:`fold` would have added them.

        Noise lies on the grid of the sum or on a finer one, as both are powers of two.
        """
        sums = self.fold((), job)
        sums.delta += total.delta
        for name, extra in sums.extra.items():
            extra += total.extra[name]
        sums.within += total.within - total.workers / 2
        sums.step = min(sums.step, total.step)
        return sums

    def finish(self, partial: PrivateSums, processes: Processes) -> Aggregate:
        run = self._run
        cohort_size = run.setting.cohort_size
        if self._noise is not None and processes.rank == 0:  # once: the sum over processes brings it to all
            for name, total in {"delta": partial.delta, **partial.extra}.items():
                total += to_grid_(self._noise(total.numel(), name), partial.step).to(total.device)
            if self._adaptive is not None:
                count_std = self._adaptive.count_std_of(cohort_size)
                noise = run.noise.gaussian(1, count_std, run.cohort, "count")
                partial.within += to_grid_(noise, grid_step(count_std, 0.5, 1)).sum()
        within = partial.within.to(partial.delta.device)
        processes.sum_([partial.delta, *partial.extra.values(), within])
        if self._adaptive is not None:  # only now: this round's noise belongs to the bound that clipped
            run.bound = self._adaptive.moved(run.bound, float(within) / cohort_size + 0.5)
        return Aggregate(
            delta=partial.delta.div_(cohort_size).to(partial.dtype),
            buffers=partial.buffers,
            extra={name: total.div_(cohort_size).to(partial.dtype) for name, total in partial.extra.items()},
        )


def capped(examples: Tensor, weight_cap: int | None) -> Tensor:
    """Return weights in [0, 1] for any reported number of examples, such as 1e9, -1 or NaN.

    Args:
        examples: float64 ``[n]``.
        weight_cap: The number of examples at which a worker reaches weight 1; None: every worker has weight 1.

    >>> capped(torch.tensor([50.0, 1e9, -1.0, float("nan")]), 100).tolist()
    [0.5, 1.0, 0.0, 0.0]
    """
    if weight_cap is None:
        return torch.ones_like(examples)
    return (examples.nan_to_num(0.0, posinf=weight_cap, neginf=0.0) / weight_cap).clamp(0.0, 1.0)


_SHARE_OF_BOUND = 1 / 8
"""The largest share of the clipping bound that rounding may use."""


def clipped_ring(job: Job, workers: int, bits: int) -> Ring:
    """Return the ring for updates that workers clip, with noise that the server adds to their sum.

    The step is a power of two, so noise can lie on the grid of the sum (``privacy.grid``). Stochastic
    rounding lengthens an update of d numbers by less than √d steps; the clipping bound is reduced by that length.

    Args:
        job: The job that the server sent, with the clipping bound.
        workers: The largest number of workers in a round.
        bits: The bits of a number.

    Raises:
        ValueError: If rounding would use up more than an eighth of the bound.
    """
    bound, size = job.promise["bound"], released_numbers(job.model.layout.size, job.extra)
    ring = Ring.of_power_of_two(bound, workers, bits)
    if ring.within(size) < (1 - _SHARE_OF_BOUND) * bound:
        raise ValueError(
            f"SecureAggregation(bits={bits}): in sums of {workers} workers with {size} numbers each, rounding would "
            "use up more than an eighth of the clipping bound, which it is in; take more bits="
        )
    return ring
