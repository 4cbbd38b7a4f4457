"""An audit of integer noise: attacks on the sum of workers' integers find no more than is claimed, and every fault."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_fed.aggregation import Aggregator
from lightning_fed.privacy import Mechanism, Noise, Privacy, PrivateRun, Setting, SkellamSum, audit
from lightning_fed.privacy.base import check_settings
from lightning_fed.privacy.clipping import clip_scales, joint_norms
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.privacy.stochastic_rounding import rounded_norm, rounded_within
from lightning_fed.privacy.units import share_variance
from lightning_fed.wire import Job, Updates

DIMENSION = 20


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system's entropy be the same every time: a test that fails by chance is no test."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


@dataclass(frozen=True)
class Integers(Privacy):
    """Workers send integers with their share of the noise; what is seen is their sum, which floats hold exactly."""

    noise_multiplier: float | None = 1.0
    units: int = 64
    survivors: int = 3
    epsilon: float | None = None
    delta: float | None = 1e-5
    accountant: Any = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    def __post_init__(self) -> None:
        check_settings(self, 1.0)

    def bound(self) -> float:
        return 1.0

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return SkellamSum(noise_multiplier, self.units, DIMENSION)

    def least_replies(self) -> int:
        return self.survivors

    def aggregator(self, run: PrivateRun) -> Aggregator[Any]:
        return PrivateSum(run, noise=None)

    def worker(self, updates: Updates, job: Job) -> Updates:
        units, size = self.longest(), updates.delta.shape[1]
        rows = updates.delta.double() * (units * clip_scales(joint_norms(updates), 1.0).unsqueeze(1))
        noise, variance = self.noise(), self.variance(job.promise["noise_multiplier"])
        integers = rounded_within(rows, rounded_norm(units, size), updates.workers, noise.uniform)
        for row, worker in zip(integers, updates.workers, strict=True):
            row += torch.from_numpy(noise.skellam(size, variance, worker))
        return replace(updates, delta=integers.double() / self.units)

    def longest(self) -> int:
        return self.units

    def noise(self) -> Noise:
        return Noise()

    def variance(self, noise_multiplier: float) -> float:
        return share_variance(noise_multiplier, self.units, self.survivors)


class HalfTheNoise(Integers):
    def variance(self, noise_multiplier: float) -> float:
        return super().variance(noise_multiplier / 2)


class TwiceTheLength(Integers):
    def longest(self) -> int:
        return 2 * self.units


class NoiseOfASeed(Integers):
    def noise(self) -> Noise:
        return Noise(0)


def attacked(promise: Privacy, **options: Any) -> Any:
    every = {"population": 4, "dimension": DIMENSION, "dtype": torch.float64, "trials": 450}
    return audit(promise, **{**every, **options})


@pytest.mark.parametrize("units", [4, 64, 2**12])
def test_no_attack_on_the_sum_of_integers_finds_more_than_is_claimed(units: int) -> None:
    found = attacked(Integers(units=units))
    assert found.holds, str(found)
    assert found.lower_bound > 0, "an attack that finds nothing proves nothing"


def test_over_rounds_it_is_no_more_either() -> None:
    found = attacked(Integers(noise_multiplier=1.5), rounds=2)
    assert found.holds, str(found)
    assert found.lower_bound > 0


@pytest.mark.parametrize("wrong", [HalfTheNoise, TwiceTheLength, NoiseOfASeed])
def test_it_finds_every_fault(wrong: type[Integers]) -> None:
    found = attacked(wrong(), trials=1000, delta=0.05)
    assert not found.holds, str(found)


@pytest.mark.slow
def test_with_many_trials_it_comes_nearer_and_no_further() -> None:
    """To the truth, above which ε by Rényi divergences lies for so large a δ."""
    found = attacked(Integers(), trials=20_000, delta=0.01)
    assert found.holds, str(found)
    assert found.lower_bound > 0.55 * found.claimed
