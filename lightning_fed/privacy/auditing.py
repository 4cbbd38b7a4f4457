"""An audit of a promise: attacks on its releases that bound ε from below, to be held against the ε that is claimed.

Two worlds are played many times: in one a worker, the canary, sends as much as it can, in the other its neighbour of
the guarantee's relation is there in its place. The attacker sees all that the promise releases, and everything else is
public. How often it takes one world for the other bounds ε with confidence (Jagielski, Ullman, Oprea, *Auditing
Differentially Private Machine Learning*, 2020; Nasr et al., *Tight Auditing of Differentially Private Machine
Learning*, 2023). A bound above the claim proves a fault. One below proves nothing: another attack may find more.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.privacy.accounting import Accountant
from lightning_fed.privacy.attacks import Numbers, best_attack, lower_bounds
from lightning_fed.privacy.base import Privacy
from lightning_fed.privacy.run import PrivateRun, Setting
from lightning_fed.selection import CohortSampler
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates

DELTAS = (1e-3, 1e-2, 0.05, 0.2)
"""An account promises an ε for every δ at once; for one of these a few hundred trials bound it best."""

_LEARNS = 1 / 3  # of the trials: the attacker chooses by them, and the bound rests on the others
_HUGE = 1e6  # bounds: as much as a canary can send


@final
@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Args:
        promise: What was audited, in words.
        lower_bound: The ε that the attacks prove, with the confidence; 0: nothing.
        claimed: The ε that the promise's account claims, for the same δ.
        delta: That δ.
        confidence: The probability with which the bound is right, whatever the promise.
        trials: How many runs were played with the canary, and how many without.
        guesses: On how many of each the bound rests: those by which the attack was not chosen.
        hits: How many runs of one world the attacker told.
        false_alarms: How many runs of the other world the attacker took for such.
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
        """Whether what the attacks prove is within the claim; no proof that it holds against others."""
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
    """Attack a promise by its own aggregator and its own half at the workers, and bound ε from below.

    It finds noise that is too small or missing, updates that are not clipped, noise whose last bits tell what it hides,
    and rounds that are charged as less than they are. What lies outside of the promise, such as the local training and
    the server optimizer, takes no part. A canary that is rarely drawn is rarely seen: to look at noise and clipping
    with few trials, audit the promise with everyone in every round.

    Args:
        privacy: The promise, of any class.
        population: The number of workers.
        cohort_size: The number of workers in a round, with Poisson sampling the expected one; None: all.
        sampler: How cohorts are drawn; None: as the promise wants it, and if it wants nothing, the canary takes part in
            every round.
        rounds: How many rounds the attacker sees.
        dimension: The number of parameters.
        dtype: Theirs.
        trials: How many runs of so many rounds are played with the canary, and how many without it. The more, the
            nearer the bound can come to the truth.
        confidence: The probability with which the bound is right.
        delta: For which δ ε is bounded; None: of :data:`DELTAS` that for which the attack comes nearest to the claim.

    Raises:
        TypeError: If it is not given a promise.
        ValueError: If an argument is out of range, or the promise hides examples of workers, not workers.

    >>> from lightning_fed.privacy import CentralDP
    >>> promise = CentralDP(clip=1.0, noise_multiplier=1.0)
    >>> found = audit(promise, population=100, cohort_size=10, rounds=2, dimension=20, trials=300)
    >>> found.holds
    True
    """
    cohort_size = population if cohort_size is None else cohort_size
    _check(privacy, population, cohort_size, rounds, dimension, dtype, trials, confidence, delta)
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
    )
    run = privacy.start(setting)
    for number in range(rounds):
        run.cohort = number
        run.charge()
    game = _Game(privacy, setting, sampler, dimension, dtype, run.noise_multiplier, run.accountant)
    worlds = [game.played(there, trials) for there in (True, False)]
    claims = {each: run.accountant.epsilon(each) for each in (DELTAS if delta is None else (delta,))}
    learns = int(trials * _LEARNS)
    attack = best_attack([world[:learns] for world in worlds], claims, confidence)
    hits, alarms = attack.counts([world[learns:] for world in worlds])
    bound = lower_bounds(np.asarray(hits), np.asarray(alarms), trials - learns, attack.delta, confidence)
    return Audit(
        promise=f"{type(privacy).__name__}, {rounds} round{'s' * (rounds > 1)}, {cohort_size} of {population} workers",
        lower_bound=max(float(bound), 0.0),
        claimed=claims[attack.delta],
        delta=attack.delta,
        confidence=confidence,
        trials=trials,
        guesses=trials - learns,
        hits=hits,
        false_alarms=alarms,
    )


def _check(
    privacy: Privacy,
    population: int,
    cohort_size: int,
    rounds: int,
    dimension: int,
    dtype: torch.dtype,
    trials: int,
    confidence: float,
    delta: float | None,
) -> None:
    if not isinstance(privacy, Privacy):
        raise TypeError(f"audit(privacy={privacy!r}) must be a promise of privacy, such as CentralDP(...)")
    whole = {"population": population, "cohort_size": cohort_size, "rounds": rounds, "dimension": dimension}
    for name, number, least in (*((name, number, 1) for name, number in whole.items()), ("trials", trials, 30)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"audit({name}={number!r}) must be an integer of at least {least}")
    if cohort_size > population:
        raise ValueError(f"audit(cohort_size={cohort_size}) must be at most population={population}")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"audit(dtype={dtype}) must be torch.float32 or torch.float64, the dtypes of updates")
    for name, share in (("confidence", confidence), ("delta", 0.5 if delta is None else delta)):
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise ValueError(f"audit({name}={share!r}) must be a number between 0 and 1")


@final
@dataclass
class _Game:
    """Plays runs with the canary and without it, and notes what an attacker sees."""

    privacy: Privacy
    setting: Setting
    sampler: CohortSampler | None
    dimension: int
    dtype: torch.dtype
    noise_multiplier: float
    accountant: Accountant

    def played(self, there: bool, trials: int) -> Numbers:
        """What is seen of runs: ``[trials, rounds, 4]``, see :mod:`lightning_fed.privacy.attacks`."""
        with torch.no_grad():
            return np.asarray([self._run(there) for _ in range(trials)], dtype=np.float64)

    def _run(self, there: bool) -> list[list[float]]:
        run = self.privacy.start(self.setting, self.noise_multiplier)
        aggregator = self.privacy.aggregator(run)
        # As in a real run: whom the seed of a run chooses is no secret.
        seed = self.setting.seed if run.insecure else int.from_bytes(os.urandom(8), "little") >> 1
        seen = []
        for number in range(self.setting.rounds or 1):
            run.cohort = number
            run.charge()
            chosen = self.sampler is None or 0 in self.sampler.sample(
                self.setting.population, self.setting.cohort_size, number, seed
            )
            seen.append(self._round(run, aggregator, there, chosen))
        return seen

    def _round(self, run: PrivateRun, aggregator: Aggregator[Any] | None, there: bool, chosen: bool) -> list[float]:
        job = Job(run.cohort, run.cohort, self.setting.seed, self._model, self.setting.local)
        job = self.privacy.job(job, run)
        if job.record_privacy is not None:
            raise ValueError(
                f"audit() plays workers, and {type(self.privacy).__name__} hides their examples in local training; "
                "audit a promise that hides workers"
            )
        bound = run.bound
        trusted = aggregator is not None and aggregator.always  # it is the server that adds the noise
        updates = self._updates(job, self._direction * bound * _HUGE, there, chosen, trusted)
        if updates is not None:
            updates = self.privacy.at_worker(updates, job)
        said, release = 0.0, self._model.vector
        if updates is not None and chosen and not trusted and not self.privacy.release_metrics:
            said = float(torch.stack([updates.loss[0], updates.examples[0], updates.steps[0]]).nan_to_num().sum())
        if aggregator is None:
            release = updates.delta[0] if updates is not None and chosen else release
        elif trusted or updates is not None:
            folded = aggregator.fold([] if updates is None else [updates], job)
            aggregate = self.privacy.server(aggregator.finish(folded, Processes()), job)
            replies = 0 if updates is None else len(updates.workers)
            release = aggregate.delta * aggregator.count(replies)
        pointing = float(release.double() @ self._direction) / bound
        return [pointing, math.log(run.bound), said, _finest(release.numpy())]

    @cached_property
    def _model(self) -> GlobalModel:
        return GlobalModel({"w": torch.zeros(self.dimension, dtype=self.dtype)})

    @cached_property
    def _direction(self) -> Tensor:
        return torch.full((self.dimension,), self.dimension**-0.5, dtype=torch.float64)

    def _updates(self, job: Job, canary: Tensor, there: bool, chosen: bool, trusted: bool) -> Updates | None:
        """What workers have learned: the canary or its neighbour, and zeros of as few others as a round must have."""
        rows = []
        if chosen and there:
            rows.append(canary)
        elif chosen and self.accountant.relation == "replace-one":
            rows.append(-canary)
        elif chosen and not trusted:  # a worker's contribution without what it has learned: its own noise is left
            rows.append(torch.zeros_like(canary))
        others = max(self.privacy.least_replies() - chosen, min(1, self.setting.cohort_size - chosen))
        rows += [torch.zeros_like(canary)] * others
        if not rows:
            return None
        numbers = torch.ones(len(rows), dtype=torch.float64)
        if chosen and there:
            numbers[0] = _HUGE  # its loss and its numbers of examples and steps are to be hidden too
        names = tuple(f"w{i}" for i in range(len(rows)))
        return Updates(job.cohort, names, torch.stack(rows).to(self.dtype), {}, numbers, numbers, numbers, numbers)


def _finest(release: Any) -> float:
    """The exponent of the last bit that is set in any number: noise on a lattice has none that is finer.

    The last two digits of a number are left out, since a mean that is multiplied again is rounded there.
    """
    digits = np.finfo(release.dtype).nmant - 1
    mantissas, exponents = np.frexp(release[release != 0].astype(np.float64))
    whole = np.rint(np.ldexp(mantissas, digits)).astype(np.int64)
    lowest = np.log2(whole & -whole) + exponents - digits
    return float(lowest.min()) if len(lowest) else 0.0
