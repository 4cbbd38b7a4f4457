"""Attacks on many runs: a score, a threshold, and the ε that the guesses imply."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lightning_fed.privacy.extra import import_extra

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

POINTING, BOUND, SAID, FINEST = range(4)
"""The numbers observed in a round: the release's component along the canary, in clipping bounds; the logarithm of the
next bound; the numbers that a worker sends beside its update; and the exponent of the lowest bit set in the release."""

Score: TypeAlias = Callable[[Numbers], Numbers]
"""One number for each of n runs, ``[n, rounds, 4]``."""


class Attack(NamedTuple):
    """Distinguishes the runs of two worlds: runs whose score reaches a threshold are attributed to one of them.

    Args:
        score: The score.
        sign: 1, or -1 if small scores are the evidence.
        threshold: The smallest score, times the sign.
        told: The attributed world: 0 with the canary, 1 without it.
        delta: The δ for which the attack bounds ε best.
    """

    score: Score
    sign: float
    threshold: float
    told: int
    delta: float

    def counts(self, worlds: Sequence[Numbers]) -> tuple[int, int]:
        """Return the numbers of hits in the attributed world and of false alarms in the other world."""
        told = [int((self.sign * self.score(world) >= self.threshold).sum()) for world in worlds]
        return told[self.told], told[1 - self.told]


def best_attack(worlds: Sequence[Numbers], claims: dict[float, float], confidence: float) -> Attack:
    """Choose the attack whose bound is largest relative to the claim on these runs.

    Args:
        worlds: The observations of n runs with the canary, and of n runs without it.
        claims: The claimed ε, by δ.
        confidence: The confidence of the bound.
    """
    n, best = len(worlds[0]), []
    for score, sign in itertools.product(_scores(worlds), (1.0, -1.0)):
        values = [np.sort(sign * score(world)) for world in worlds]
        pooled = np.unique(np.concatenate(values))
        thresholds = pooled[np.linspace(0, len(pooled) - 1, min(100, len(pooled))).astype(int)]
        counts = [n - np.searchsorted(each, thresholds) for each in values]
        for told, (delta, claimed) in itertools.product((0, 1), claims.items()):
            shares = lower_bounds(counts[told], counts[1 - told], n, delta, confidence) / max(claimed, 0.1)
            at = int(np.argmax(shares))
            best.append((float(shares[at]), Attack(score, sign, float(thresholds[at]), told, delta)))
    return max(best, key=lambda each: each[0])[1]


def _scores(worlds: Sequence[Numbers]) -> list[Score]:
    """Return the attackers' scores: components along the canary, over all rounds or in one; lowest bits; the rest."""
    return [
        lambda seen: seen[:, :, POINTING].sum(axis=1),
        lambda seen: seen[:, :, POINTING].max(axis=1),
        lambda seen: seen[:, :, FINEST].mean(axis=1),
        _discriminant(worlds),
    ]


def _discriminant(worlds: Sequence[Numbers]) -> Score:
    """Return the linear combination of all numbers but the lowest bits that separates the worlds best (Fisher 1936)."""
    each_round = (
        worlds[0].shape[1] * FINEST <= len(worlds[0]) / 5
    )  # with fewer runs so many weights cannot be estimated

    def features(seen: Numbers) -> Numbers:
        return seen[:, :, :FINEST].reshape(len(seen), -1) if each_round else seen[:, :, :FINEST].sum(axis=1)

    first, second = (features(world) for world in worlds)
    spread = np.sqrt((first.var(axis=0) + second.var(axis=0)) / 2)
    spread = np.where(spread > 0, spread, 1.0)
    centred = np.concatenate([first - first.mean(axis=0), second - second.mean(axis=0)]) / spread
    covariance = centred.T @ centred / len(centred) + 1e-6 * np.eye(len(spread))
    weights = np.linalg.solve(covariance, (first.mean(axis=0) - second.mean(axis=0)) / spread) / spread
    return lambda seen: features(seen) @ weights


def lower_bounds(hits: Any, alarms: Any, n: int, delta: float, confidence: float) -> Numbers:
    """Return lower bounds on ε from hits and false alarms: ``P(hit) <= e^ε P(alarm) + δ`` (Clopper and Pearson 1934).

    Args:
        hits: The numbers of hits among n runs of one world; integers ``[k]``.
        alarms: The numbers of false alarms among n runs of the other world.
        n: The number of runs of each world.
        delta: δ.
        confidence: The probability with which both rates are within their bounds.
    """
    beta, error = import_extra("scipy.stats").beta, (1 - confidence) / 2
    least_hits = np.where(hits > 0, beta.ppf(error, np.maximum(hits, 1), n - hits + 1), 0.0)
    most_alarms = np.where(alarms < n, beta.ppf(1 - error, alarms + 1, np.maximum(n - alarms, 1)), 1.0)
    bounds: Numbers = np.log(np.maximum(least_hits - delta, 1e-300) / most_alarms)
    return bounds
