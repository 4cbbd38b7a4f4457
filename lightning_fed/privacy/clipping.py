"""Clipping: bounds the change of the sum of updates by one worker, for any data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import number, settle
from lightning_fed.core.double import blocks, row_norms
from lightning_fed.wire import Updates

_LONGEST_STEP = 10.0


@final
@dataclass(frozen=True)
class AdaptiveClip:
    """A clipping bound that follows a quantile of the norms: Andrew et al., *Differentially Private Learning with
    Adaptive Clipping*, 2021, algorithm 1.

    Each worker also reports whether its norm was within the bound. The noisy fraction ``b`` of these workers moves the
    bound: ``C ← C · exp(−η (b − γ))``. The noise of the updates is slightly larger, so both releases together have the
    cost of the given noise multiplier.

    Args:
        initial: The bound of the first round, in the units of the parameters.
        quantile: The target fraction γ of norms within the bound.
        lr: The learning rate η of the bound's logarithm.
        count_std: The standard deviation σ_b of the noise on the number of workers within the bound; None: a twentieth
            of the cohort size, as in the paper.

    Raises:
        ValueError: If an argument is out of range.
    """

    initial: float = 0.1
    quantile: float = 0.5
    lr: float = 0.2
    count_std: float | None = None

    def __post_init__(self) -> None:
        between = " must lie between 0 and 1"
        settle(
            self,
            initial=number("initial", self.initial, above=0, owner=self),
            quantile=number("quantile", self.quantile, above=0, below=1, owner=self, says=between),
            lr=number("lr", self.lr, above=0, owner=self),
        )
        if self.count_std is not None:
            settle(self, count_std=number("count_std", self.count_std, above=0, owner=self))

    def count_std_of(self, cohort_size: int) -> float:
        """Return σ_b for a cohort size."""
        return cohort_size / 20 if self.count_std is None else self.count_std

    def update_multiplier(self, noise_multiplier: float, cohort_size: int) -> float:
        """Return the noise multiplier that remains for the updates: ``(z⁻² − (2σ_b)⁻²)^(−1/2)``.

        Args:
            noise_multiplier: The noise multiplier of both releases together, z.
            cohort_size: The expected number of workers in a round.

        Raises:
            ValueError: If the noise on the count alone uses up more than z allows.

        >>> round(AdaptiveClip(count_std=1.0).update_multiplier(1.0, cohort_size=100), 4)
        1.1547
        """
        count_std = self.count_std_of(cohort_size)
        if noise_multiplier >= 2 * count_std:
            raise ValueError(
                f"AdaptiveClip: noise_multiplier={noise_multiplier:g} must be less than 2 · count_std = "
                f"{2 * count_std:g}; give a larger count_std (or a larger cohort_size)"
            )
        if noise_multiplier == 0:
            return 0.0
        return float((noise_multiplier**-2 - (2 * count_std) ** -2) ** -0.5)

    def moved(self, bound: float, fraction: float) -> float:
        """Return the bound of the next round.

        Args:
            bound: The bound of this round.
            fraction: The noisy fraction of norms within the bound.

        >>> AdaptiveClip(quantile=0.5, lr=0.2).moved(1.0, fraction=0.5)
        1.0
        """
        step = self.lr * (fraction - self.quantile)
        # With much noise on a small count the exponential may overflow.
        return bound * math.exp(-min(max(step, -_LONGEST_STEP), _LONGEST_STEP))


def joint_norms(updates: Updates) -> Tensor:
    """Return the joint L2 norm of everything that a worker releases; float64 ``[n]``, on the CPU."""
    parts = [row_norms(part) for part in (updates.delta, *updates.extra.values())]
    return (parts[0] if len(parts) == 1 else row_norms(torch.stack(parts, dim=1))).cpu()


def with_norms(updates: Updates) -> tuple[Updates, Tensor]:
    """Return updates and their :func:`joint_norms`; updates with NaN or Inf become zeros, since no factor clips them.

    The outbox refuses such updates first; this covers transforms that produce them later.
    """
    norms = joint_norms(updates)
    sound = norms.isfinite()
    if sound.all():
        return updates, norms

    def zeroed(rows: Tensor) -> Tensor:
        return torch.where(sound.to(rows.device).unsqueeze(1), rows, 0.0)

    extra = {name: zeroed(rows) for name, rows in updates.extra.items()}
    return replace(updates, delta=zeroed(updates.delta), extra=extra), torch.where(sound, norms, 0.0)


# Norms and scales are rounded, but the bound must hold exactly, even for a scale stored in float32.
_SLACK = 1 - 2.0**-22


def clip_scales(norms: Tensor, bound: float) -> Tensor:
    """Return factors by which no norm exceeds the bound; 1 for updates well within the bound and for zeros.

    Compute the product in float64: in float32 a small scale is subnormal, and too large by up to a half.

    Args:
        norms: float64 ``[n]``.
        bound: C.

    >>> clip_scales(torch.tensor([0.0, 1.0, 4.0]), 2.0)
    tensor([1.0000, 1.0000, 0.5000])
    """
    scales = torch.where(norms > bound * _SLACK, bound * _SLACK / norms, 1.0)
    return torch.where(scales < torch.finfo(scales.dtype).tiny, 0.0, scales)  # subnormal numbers are inexact


def add_clipped_(total: Tensor, rows: Tensor, scales: Tensor, step: float) -> None:
    """``total += Σᵢ round(scaleᵢ · rowᵢ)`` in place, each product rounded to a grid: exact, in any order.

    Args:
        total: float64 ``[m]``, multiples of the step.
        rows: ``[n, m]``.
        scales: float64 ``[n]``.
        step: The step of ``privacy.grid``.

    Raises:
        RuntimeError: If rows and the total differ in length: a single number must not be broadcast.
    """
    if rows.shape[1:] != total.shape:
        raise RuntimeError(
            f"updates of size {list(rows.shape[1:])} cannot be added to a sum of size {list(total.shape)}"
        )
    in_steps = scales.to(rows.device).div(step).unsqueeze(1)
    for columns, block in blocks(rows):
        rounded = block.mul_(in_steps).round_()
        total[columns].add_(rounded[0] if len(rounded) == 1 else rounded.sum(dim=0), alpha=step)
