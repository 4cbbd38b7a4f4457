"""An audit of a promise: attacks on its releases bound ε from below, for comparison with the claimed ε.

Two worlds are simulated many times. In one a worker, the canary, sends as much as it can; in the other its neighbour
under the guarantee's relation takes its place. The attacker sees all releases of the promise, and everything else is
public. The attacker's error rates bound ε with confidence (Jagielski, Ullman, Oprea, *Auditing Differentially Private
Machine Learning*, 2020; Nasr et al., *Tight Auditing of Differentially Private Machine Learning*, 2023). A bound above
the claim proves a fault. A bound below the claim proves nothing: another attack may find more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from lightning_fed.core.arguments import instance, number, whole
from lightning_fed.privacy.accounting import Accountant, check_delta
from lightning_fed.privacy.attacks import FINEST, POINTING, Numbers, best_attack, lower_bounds
from lightning_fed.privacy.base import Privacy
from lightning_fed.privacy.canaries import CanaryRuns, finest_bit
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.selection import CohortSampler
from lightning_fed.wire import LocalTraining

DELTAS = (1e-3, 1e-2, 0.05, 0.2)
"""The values of δ that are tried. An account claims an ε for every δ; a few hundred trials bound one of these best."""


@final
@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        promise: A description of the audited promise.
        lower_bound: The ε that the attacks prove, at the given confidence; 0: nothing.
        claimed: The ε that the promise's account claims, for the same δ.
        delta: The δ of both.
        confidence: The probability that the bound is correct, for any promise.
        trials: The number of runs with the canary, and of runs without it.
        guesses: The number of runs of each world behind the bound: those that were not used to choose the attack.
        hits: The number of runs of one world that the attacker recognised.
        false_alarms: The number of runs of the other world that the attacker attributed to that world.
    """

    promise: str
    lower_bound: float
    claimed: float
    delta: float
    confidence: float
    trials: int
    guesses: int
    hits: int
    false_alarms: int

    @property
    def holds(self) -> bool:
        """Whether the lower bound is within the claim; not a proof that the claim holds against other attacks."""
        return self.lower_bound <= self.claimed

    def __str__(self) -> str:
        verdict = "within the claim" if self.holds else "MORE THAN IS CLAIMED: the promise does not hold"
        return (
            f"{self.promise}: ε >= {self.lower_bound:.3g} with {self.confidence:.4g} confidence, of ε = "
            f"{self.claimed:.3g} that is claimed, both for δ = {self.delta:.3g}: {verdict}. The attacker told "
            f"{self.hits} of {self.guesses} runs, and took {self.false_alarms} of {self.guesses} others for such."
        )


def audit(
    privacy: Privacy,
    *,
    population: int,
    cohort_size: int | None = None,
    sampler: CohortSampler | None = None,
    rounds: int = 1,
    dimension: int = 1000,
    dtype: torch.dtype = torch.float32,
    trials: int = 1000,
    confidence: float = 0.99,
    delta: float | None = None,
) -> Audit:
    """Attack a promise through its own aggregator and worker half, and bound ε from below.

    The audit finds noise that is too small or missing, unclipped updates, noise whose lowest bits reveal the hidden
    value, and rounds that are charged too little. Local training and the server optimizer are outside of the promise
    and take no part; see :func:`audit_fits`. A canary that is rarely drawn is rarely seen: to check noise and clipping
    with few trials, audit the promise with all workers in every round.

    Args:
        privacy: The promise, of any class.
        population: The number of workers.
        cohort_size: The number of workers in a round, with Poisson sampling the expected number; None: all.
        sampler: The sampler of cohorts; None: the promise's own, or if it has none, the canary takes part in every
            round.
        rounds: The number of rounds that the attacker sees.
        dimension: The number of parameters.
        dtype: The dtype of the parameters.
        trials: The number of simulated runs with the canary, and of runs without it. More trials make the bound
            tighter.
        confidence: The probability that the bound is correct.
        delta: The δ of the bound; None: the δ of ``DELTAS`` for which the attack is nearest to the claim.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or the promise hides examples of workers, not workers.

    >>> from lightning_fed.privacy import CentralDP
    >>> promise = CentralDP(clip=1.0, noise_multiplier=1.0)
    >>> found = audit(promise, population=100, cohort_size=10, rounds=2, dimension=20, trials=300)
    >>> found.holds
    True
    """
    instance("privacy", privacy, Privacy, "CentralDP(clip=1.0, noise_multiplier=1.0)")
    population = whole("population", population, least=1)
    cohort_size = population if cohort_size is None else whole("cohort_size", cohort_size, least=1, most=population)
    rounds, dimension = whole("rounds", rounds, least=1), whole("dimension", dimension, least=1)
    trials, confidence, delta = _checked(trials, confidence, delta)
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype={dtype!r} must be torch.float32 or torch.float64, the dtypes of updates")
    if sampler is not None:
        instance("sampler", sampler, CohortSampler, "Poisson()")
    if sampler is None and privacy.sampler is not None and cohort_size < population:
        sampler = privacy.sampler()
    if sampler is not None:
        sampler.prepare(lambda: [1] * population)
    setting = Setting(
        population,
        cohort_size,
        sampling=None if sampler is None else type(sampler),
        rounds=rounds,
        seed=0,
        local=LocalTraining(steps=1),
        separation=1 if sampler is None else sampler.separation(population, cohort_size),
        dimension=dimension,
    )
    run = privacy.start(setting)
    for round in range(rounds):
        run.cohort = round
        run.charge()
    game = CanaryRuns(privacy, setting, sampler, dimension, dtype, run.noise_multiplier, run.accountant)
    worlds = [game.played(there, trials) for there in (True, False)]
    words = f"{type(privacy).__name__}, {rounds} round{'s' * (rounds > 1)}, {cohort_size} of {population} workers"
    return _found(words, worlds, [run.accountant], confidence, delta)


def audit_fits(
    fit: Callable[[bool], tuple[Tensor, PrivateRun]],
    *,
    trials: int = 300,
    confidence: float = 0.99,
    delta: float | None = None,
) -> Audit:
    """Attack whole fits of your own configuration, with your own canary, and bound ε from below.

    This audit covers what :func:`audit` leaves out: promises about examples, local training, algorithms and server
    optimizers. A canary is a worker or an example that the promise hides, as extreme as possible. The attacker sees
    the returned release, and estimates a direction from a third of the fits.

    Args:
        fit: Trains from the beginning, with the canary in the data or with its neighbour in its place. Returns the
            release, such as the change of all weights as one vector, and ``FederatedModule.private_run``.
        trials: The number of fits with the canary, and of fits without it.
        confidence: The probability that the bound is correct.
        delta: As for :func:`audit`.

    Raises:
        ValueError: If an argument is out of range.

    Example::

        def fit(there):
            module = Net()
            before = parameters_to_vector(module.parameters()).detach().clone()
            fed = FederatedModule(module, privacy=RecordDP(...), local_steps=5)
            trainer().fit(fed, FederatedDataModule(workers(with_canary=there)))
            return parameters_to_vector(module.parameters()).detach() - before, fed.private_run

        print(audit_fits(fit))
    """
    trials, confidence, delta = _checked(trials, confidence, delta)
    releases, runs = [], []
    for there in (True, False):
        fits = [fit(there) for _ in range(trials)]
        releases.append(np.stack([release.detach().flatten().numpy() for release, _ in fits]))
        runs.append(fits[0][1])
    first, second = (each[: _learnt(trials)].astype(np.float64) for each in releases)
    spread = first.var(axis=0) + second.var(axis=0)
    direction = (first.mean(axis=0) - second.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    worlds = [np.zeros((trials, 1, 4)) for _ in releases]
    for world, each in zip(worlds, releases, strict=True):
        world[:, 0, POINTING] = each @ direction
        world[:, 0, FINEST] = [finest_bit(release) for release in each]
    return _found(f"{trials} fits", worlds, [run.accountant for run in runs], confidence, delta)


def _learnt(trials: int) -> int:
    """Return the number of trials that the attacker uses to choose; the bound uses the others."""
    return trials // 3


def _found(
    promise: str, worlds: Sequence[Numbers], accountants: Sequence[Accountant], confidence: float, delta: float | None
) -> Audit:
    trials = len(worlds[0])
    learnt, guesses = _learnt(trials), trials - _learnt(trials)
    claims = {each: max(a.epsilon(each) for a in accountants) for each in (DELTAS if delta is None else (delta,))}
    attack = best_attack([world[:learnt] for world in worlds], claims, confidence)
    hits, alarms = attack.counts([world[learnt:] for world in worlds])
    bound = float(lower_bounds(np.asarray(hits), np.asarray(alarms), guesses, attack.delta, confidence))
    claimed = claims[attack.delta]
    return Audit(promise, max(bound, 0.0), claimed, attack.delta, confidence, trials, guesses, hits, alarms)


def _checked(trials: object, confidence: object, delta: object) -> tuple[int, float, float | None]:
    share = number("confidence", confidence, above=0, below=1)
    return whole("trials", trials, least=30), share, None if delta is None else check_delta(delta)
