"""Attacks on many runs: a score, a threshold, and the ε that the guesses prove."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from lightning_fed.privacy.extra import import_extra

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"

POINTING, BOUND, SAID, FINEST = range(4)
"""Numbers seen of a round: how far its release points to the canary, in clipping bounds; the logarithm of the next
bound; what a worker says besides its update; and the exponent of the last bit that is set in the release."""

Score: TypeAlias = Callable[[Numbers], Numbers]
"""One number for each of n runs, ``[n, rounds, 4]``."""


class Attack(NamedTuple):
    """Tells runs of one world from those of the other: those whose score is no less than a threshold.

    Args:
        score: The score.
        sign: 1, or -1 if small scores tell.
        threshold: The least score, times the sign.
        told: Which world is told: 0 with the canary, 1 without it.
        delta: The δ for which that bounds ε best.
    """

    score: Score
    sign: float
    threshold: float
    told: int
    delta: float

    def counts(self, worlds: Sequence[Numbers]) -> tuple[int, int]:
        """Return how many runs of the one world are recognised, and how many of the other are taken for such."""
        told = [int((self.sign * self.score(world) >= self.threshold).sum()) for world in worlds]
        return told[self.told], told[1 - self.told]


def best_attack(worlds: Sequence[Numbers], claims: dict[float, float], confidence: float) -> Attack:
    """Choose the attack that on these runs proves most of what is claimed.

    Args:
        worlds: What was seen of n runs with the canary, and of n without it.
        claims: The ε that is claimed, by δ.
        confidence: That of the bound.
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
    """Return the attackers' scores: how far all rounds, or one, point to the canary; the last bits; all else."""
    return [
        lambda seen: seen[:, :, POINTING].sum(axis=1),
        lambda seen: seen[:, :, POINTING].max(axis=1),
        lambda seen: seen[:, :, FINEST].mean(axis=1),
        _discriminant(worlds),
    ]


def _discriminant(worlds: Sequence[Numbers]) -> Score:
    """The combination of all numbers but the last bits that tells the worlds best (Fisher 1936)."""
    each_round = (
        worlds[0].shape[1] * FINEST <= len(worlds[0]) / 5
    )  # else there are too few runs to learn so many weights

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
    """The ε that so many hits prove, ``P(hit) <= e^ε P(alarm) + δ``, by the bounds of Clopper and Pearson (1934).

    Args:
        hits: How many of n runs of the one world are told; integers ``[k]``.
        alarms: How many of n runs of the other are taken for such.
        n: How many runs of each there are.
        delta: δ.
        confidence: The probability with which both rates are within their bounds.
    """
    beta, error = import_extra("scipy.stats").beta, (1 - confidence) / 2
    least_hits = np.where(hits > 0, beta.ppf(error, np.maximum(hits, 1), n - hits + 1), 0.0)
    most_alarms = np.where(alarms < n, beta.ppf(1 - error, alarms + 1, np.maximum(n - alarms, 1)), 1.0)
    bounds: Numbers = np.log(np.maximum(least_hits - delta, 1e-300) / most_alarms)
    return bounds
