"""An audit of integer noise: attacks on the sum of workers' integers find no more than is claimed, and every fault."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from lightning_fed.privacy import DistributedDP, Setting, SkellamSum, audit, distributed
from lightning_fed.privacy.clipping import clip_scales
from lightning_fed.privacy.stochastic_rounding import rounded_norm
from lightning_fed.privacy.units import share_variance

EVERYONE = Setting(population=4, cohort_size=4, sampling=None, rounds=1, seed=0, dimension=1000)
DIMENSION = 20


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system's entropy be the same every time: a test that fails by chance is no test."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


def attacked(promise: DistributedDP, **options: Any) -> Any:
    return audit(promise, **{"population": 4, "dimension": DIMENSION, "trials": 450, **options})


def promised(noise_multiplier: float = 1.0, survivors: int = 3, **options: Any) -> DistributedDP:
    return DistributedDP(1.0, survivors, noise_multiplier, delta=1e-5, **options)


@pytest.mark.parametrize(
    ("survivors", "dtype"),
    [(1, torch.float32), *(pytest.param(3, each, marks=pytest.mark.slow) for each in (torch.float32, torch.float64))],
)
def test_no_attack_on_the_sum_of_integers_finds_more_than_is_claimed(survivors: int, dtype: torch.dtype) -> None:
    found = attacked(promised(survivors=survivors), dtype=dtype)
    assert found.holds, str(found)
    assert found.lower_bound > 0, "an attack that finds nothing proves nothing"


def test_with_few_units_rounding_is_in_the_claim() -> None:
    """z = 1024 is no noise to train with, but 13 of 16 units are C, and of 1000 numbers rounding makes more than C."""
    promise = DistributedDP(1.6, 3, 1024.0, delta=1e-5)
    assert promise.mechanism(1024.0, EVERYONE) == SkellamSum(1024.0, 12.8, 1000)
    assert attacked(promise, dimension=1000).holds


@pytest.mark.slow
def test_over_rounds_it_is_no_more_either() -> None:
    found = attacked(promised(1.5), rounds=2)
    assert found.holds, str(found)
    assert found.lower_bound > 0


def half_the_noise(patch: pytest.MonkeyPatch) -> DistributedDP:
    patch.setattr(distributed, "share_variance", lambda z, units, t: share_variance(z / 2, units, t))
    return promised()


def twice_the_length(patch: pytest.MonkeyPatch) -> DistributedDP:
    patch.setattr(distributed, "clip_scales", lambda norms, bound: clip_scales(norms, 2 * bound))
    patch.setattr(distributed, "rounded_norm", lambda units, size: rounded_norm(2 * units, size))
    return promised()


def noise_of_a_seed(patch: pytest.MonkeyPatch) -> DistributedDP:
    return promised(insecure_deterministic_noise=True)


@pytest.mark.parametrize(
    "wrong",
    [half_the_noise, *(pytest.param(more, marks=pytest.mark.slow) for more in (twice_the_length, noise_of_a_seed))],
)
def test_it_finds_every_fault(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = attacked(wrong(monkeypatch), trials=1000, delta=0.05)
    assert not found.holds, str(found)


def test_what_is_not_clipped_cannot_be_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "clip_scales", lambda norms, bound: torch.ones_like(norms))
    with pytest.raises(ValueError, match="worker 'w0': what it sends cannot be rounded to integers of an L2 norm"):
        attacked(promised())


@pytest.mark.slow
def test_with_many_trials_it_comes_nearer_and_no_further() -> None:
    """To the truth, above which ε by Rényi divergences lies for so large a δ."""
    found = attacked(promised(), trials=20_000, delta=0.01)
    assert found.holds, str(found)
    assert found.lower_bound > 0.55 * found.claimed
