"""An attack on what is released: what it can tell about one worker bounds ε from below, and must not exceed the claim.

A worker that sends as much as it can is in the round, or it is not; the attacker sees the aggregate and looks along
that worker's update. From its rates of hits and of false alarms over many rounds follows, with confidence, an ε that
any true guarantee is above (Jagielski et al., *Auditing Differentially Private Machine Learning*, 2020). δ is large,
because near δ the bound is tight, and a fault in the noise shows.
"""

from __future__ import annotations

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from private import began, job, sent, updates
from scipy.stats import beta
from torch import Tensor

from lightning_fed.core.processes import Processes
from lightning_fed.privacy import CentralDP, DistributedDP, LocalDP, Noise, PrivateRun
from lightning_fed.selection import Poisson

TRIALS = 20_000
DELTA = 0.01
CONFIDENCE = 0.99
CENTRAL = CentralDP(clip=1.0, noise_multiplier=1.0, delta=DELTA)

OTHERS = [[30.0, 40.0], [-0.3, 0.1], [0.0, 0.0]]  # after clipping 0.9 along the second axis, as the attacker knows
CANARY = [0.0, -1e6]  # to be clipped to (0, −1)


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system's entropy be the same every time: a test that fails by chance is no test."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


def observed(run: PrivateRun, present: Tensor) -> Tensor:
    """What the attacker sees of each round at the server: the sum along the worker's update, in units of the bound.

    Args:
        run: A run of CentralDP.
        present: Whether the worker is in the round; bool ``[trials]``.
    """
    aggregator, to, alone = CENTRAL.aggregator(run), job(2), Processes()
    # Up to the noise every round with the same workers is the same one.
    cohorts = {True: updates([*OTHERS, CANARY]), False: updates(OTHERS)}
    folded = {is_present: aggregator.fold([cohort], to) for is_present, cohort in cohorts.items()}
    seen = []
    for is_present in present.tolist():
        partial = folded[is_present]
        partial = replace(partial, delta=partial.delta.clone(), within=partial.within.clone())
        seen.append(aggregator.finish(partial, alone).delta[1])
    return 0.9 - torch.stack(seen) * run.setting.cohort_size / run.bound


def least_epsilon(with_it: Tensor, without: Tensor) -> float:
    """With :data:`CONFIDENCE` ε is at least this much, by Clopper and Pearson's bounds.

    The threshold is chosen by one part of the trials and judged by the other.
    """

    def bound(threshold: float, rounds: slice) -> float:
        hits = int((with_it[rounds] > threshold).sum())
        alarms = int((without[rounds] > threshold).sum())
        n, error = len(with_it[rounds]), (1 - CONFIDENCE) / 2
        least_hits = beta.ppf(error, hits, n - hits + 1) if hits else 0.0
        most_alarms = beta.ppf(1 - error, alarms + 1, n - alarms)
        return math.log((least_hits - DELTA) / most_alarms) if least_hits > DELTA else -math.inf

    first, rest = slice(len(with_it) // 4), slice(len(with_it) // 4, None)
    threshold = max((t / 10 for t in range(40)), key=lambda t: bound(t, first))
    return bound(threshold, rest)


def audit(rate: float = 1.0, trials: int = TRIALS) -> tuple[float, float]:
    """What the attack proves, and what is claimed for one round.

    Args:
        rate: The probability with which the worker is sampled.
        trials: The number of rounds with it, and of those without.
    """
    setting = {} if rate == 1 else {"population": round(4 / rate), "sampling": Poisson}
    run = CENTRAL.start(began(CENTRAL, 4).setting._replace(**setting))
    run.charge()
    sampled = torch.rand(trials, generator=torch.Generator().manual_seed(0)) < rate
    return least_epsilon(observed(run, sampled), observed(run, torch.zeros(trials, dtype=torch.bool))), run.spent


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_no_attack_beats_the_claim(rate: float) -> None:
    proved, claimed = audit(rate)
    assert proved < claimed
    assert proved > 0.6 * claimed, "an attack that finds nothing proves nothing"


def test_the_attack_notices_half_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    gaussian = Noise.gaussian
    monkeypatch.setattr(Noise, "gaussian", lambda self, size, std, *keys: gaussian(self, size, std / 2, *keys))
    proved, claimed = audit()
    assert proved > claimed


def test_the_attack_notices_a_worker_that_is_not_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_fed.privacy.private_sum.clip_scales", lambda norms, bound: torch.ones_like(norms))
    proved, claimed = audit(trials=4000)
    assert proved > claimed


def test_noise_that_workers_share() -> None:
    """DistributedDP, as many replies as survivors: the worker sends what it has learned, or its noise alone."""
    privacy = DistributedDP(clip=1.0, survivors=2, noise_multiplier=1.0, delta=DELTA)
    run = began(privacy, 2)
    run.charge()

    def sums(own: float) -> Tensor:
        rows = torch.tensor([[own], [0.3]]).repeat(TRIALS // 2, 1)
        return sent(privacy, run, updates(rows)).delta.view(-1, 2).sum(dim=1) - 0.3

    proved = least_epsilon(sums(1e6), sums(0.0))
    assert 0.6 * run.spent < proved < run.spent


def test_a_worker_that_trusts_nobody() -> None:
    """LocalDP: a worker's own update, for the two values that are furthest apart."""
    privacy = LocalDP(clip=1.0, noise_multiplier=2.0, delta=DELTA)
    run = began(privacy, 1)
    run.charge()

    def along(own: float) -> Tensor:
        return (sent(privacy, run, updates(torch.full((TRIALS, 1), own))).delta.flatten() + 1) / 2

    proved = least_epsilon(along(1e6), along(-1e6))
    assert 0.6 * run.spent < proved < run.spent
