"""Matrix factorisation: noise that is correlated over rounds; the noise of a running sum then grows slowly.

The running sums of the rounds' aggregates x are ``A x``, with A the lower triangle of ones. For any lower triangular C
and ``B = A C⁻¹`` one may release ``B (C x + z)`` in their place, which is ``A (x + C⁻¹ z)``: every round's aggregate
with a step of the correlated noise ``w = C⁻¹ z``. The cost depends on C only: to an observer of all rounds it is one
Gaussian release of ``C x`` (Denisov et al., *Improved Differential Privacy for SGD via Optimal Private Linear Operators
on Adaptive Streams*, 2022). Here C is a Toeplitz matrix, given by its first column c, with ``c₀ = 1`` and entries that
are non-negative and non-increasing:

- :class:`BandedToeplitz`: the first coefficients of the square root of A (Fichtenberger, Henzinger & Upadhyay,
  *Constant Matters*, 2023), truncated to a number of bands (Choquette-Choo et al., *(Amplified) Banded Matrix
  Factorization*, 2023);
- :class:`BufferedToeplitz`: a sum of a few decaying exponentials, which requires one buffer per term for a run of any
  length (Dvijotham et al., *Efficient and Near-Optimal Noise Generation for Streaming Differential Privacy*,
  2024; McMahan, Xu & Zhang, *A Hassle-free Algorithm for Private Learning in Practice*, 2024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeAlias, final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.noise import Noise

Coefficients: TypeAlias = npt.NDArray[np.float64]
"""The first column c of C; float64 ``[rounds]``."""


class CorrelatedNoise(ABC):
    """A stream of ``w = C⁻¹ z``, which turns the white noise of each round into correlated noise."""

    @abstractmethod
    def step(self, white: Tensor) -> Tensor:
        """Return the noise of the next round.

        Args:
            white: This round's independent noise z; float64 ``[size]``, the same size in every round.

        Returns:
            float64 ``[size]``; the caller may modify it.
        """


class Factorization(ABC):
    """Base of the choices of C, for a run in which a worker takes part at most every ``separation`` rounds.

    C is the lower triangular Toeplitz matrix whose inverse correlates the noise of the rounds.
    """

    @abstractmethod
    def coefficients(self, rounds: int, separation: int) -> Coefficients:
        """Return the first column of C.

        Args:
            rounds: The number n of rounds.
            separation: The number b of rounds between two participations of a worker, at least.

        Returns:
            float64 ``[rounds]``; the first is 1, and they are non-negative and non-increasing.
        """

    @abstractmethod
    def stream(self, rounds: int, separation: int) -> CorrelatedNoise:
        """Return the noise of one run, from its first round on.

        Args:
            rounds: As for :meth:`coefficients`.
            separation: As for :meth:`coefficients`.
        """


@final
class FactoredNoise:
    """The noise of a run, drawn round by round; after the planned number of rounds an independent stream begins.

    Args:
        noise: The source of the white noise.
        factorization: The factorisation that correlates the noise.
        rounds: The number of rounds.
        separation: The number of rounds between two participations of a worker, at least.
    """

    def __init__(self, noise: Noise, factorization: Factorization, rounds: int, separation: int) -> None:
        self._noise = noise
        self._new = partial(factorization.stream, rounds, separation)
        self._rounds = rounds
        self._step = 0
        self._stream = self._new()

    def increment(self, size: int, std: float, *keys: int | str) -> Tensor:
        """Return the change of the running sum's noise in this round.

        Args:
            size: The number of elements.
            std: The standard deviation of the white noise.
            keys: See :meth:`Noise.gaussian`.

        Returns:
            float64 ``[size]``.
        """
        if self._step == self._rounds:
            self._step, self._stream = 0, self._new()
        self._step += 1
        return self._stream.step(self._noise.gaussian(size, std, "factored", *keys))


@final
@dataclass(frozen=True)
class BandedToeplitz(Factorization):
    """The square root of the prefix sums, truncated to a number of bands.

    For one participation per worker the best number of bands is the number of rounds; for several it should not exceed
    the separation. Memory holds the noise of the last ``bands - 1`` rounds, 8 bytes per parameter each.

    Args:
        bands: The number of coefficients; 1 is independent noise in every round.

    Raises:
        ValueError: If the number is not positive.

    >>> BandedToeplitz(bands=4).coefficients(rounds=6, separation=6)
    array([1.    , 0.5   , 0.375 , 0.3125, 0.    , 0.    ])
    """

    bands: int

    def __post_init__(self) -> None:
        settle(self, bands=whole("bands", self.bands, least=1, owner=self))

    def coefficients(self, rounds: int, separation: int) -> Coefficients:
        k = np.arange(1, min(self.bands, rounds))
        kept = np.concatenate([[1.0], np.cumprod((2 * k - 1) / (2 * k))])
        return np.pad(kept, (0, rounds - len(kept)))

    def stream(self, rounds: int, separation: int) -> CorrelatedNoise:
        kept = self.coefficients(min(self.bands, rounds), separation)
        return _Banded([float(c) for c in kept[1:]])


@final
class _Banded(CorrelatedNoise):
    """``w_t = z_t − Σ c_j w_{t−j}``."""

    def __init__(self, coefficients: list[float]) -> None:
        self._coefficients = coefficients
        self._before: deque[Tensor] = deque(maxlen=len(coefficients))  # newest first

    def step(self, white: Tensor) -> Tensor:
        noise = white.clone()
        for coefficient, before in zip(self._coefficients, self._before, strict=False):
            noise.sub_(before, alpha=coefficient)
        self._before.appendleft(noise.clone())
        return noise


@final
@dataclass(frozen=True)
class BufferedToeplitz(Factorization):
    """A buffered linear Toeplitz matrix (BLT): ``c_k = Σ ω_i θ_i^(k−1)`` for k ≥ 1, fitted to the run.

    ω and θ are fitted to a small root mean squared error of the running sums, for the number of rounds and the
    separation. Memory is 8 bytes for each parameter and buffer, for any number of rounds.

    Args:
        buffers: The number of exponentials. More than four have hardly any effect.

    Raises:
        ValueError: If the number is not positive.
    """

    buffers: int = 3

    def __post_init__(self) -> None:
        settle(self, buffers=whole("buffers", self.buffers, least=1, owner=self))

    def coefficients(self, rounds: int, separation: int) -> Coefficients:
        return _exponentials(*_fitted(self.buffers, rounds, separation), rounds)

    def stream(self, rounds: int, separation: int) -> CorrelatedNoise:
        weights, decays = _fitted(self.buffers, rounds, separation)
        return _Buffered([float(w) for w in weights], [float(d) for d in decays])


@final
class _Buffered(CorrelatedNoise):
    """``w_t = z_t − Σ ω_i s_i`` with ``s_i ← θ_i s_i + w_t`` afterwards."""

    def __init__(self, weights: list[float], decays: list[float]) -> None:
        self._weights = weights
        self._decays = decays
        self._buffers: list[Tensor] = []

    def step(self, white: Tensor) -> Tensor:
        noise = white.clone()
        if not self._buffers:
            self._buffers = [noise.clone() for _ in self._weights]
            return noise
        for weight, buffer in zip(self._weights, self._buffers, strict=True):
            noise.sub_(buffer, alpha=weight)
        for decay, buffer in zip(self._decays, self._buffers, strict=True):
            buffer.mul_(decay).add_(noise)
        return noise


class PrefixErrors(NamedTuple):
    """Errors of released running sums, in units of the clipping bound.

    All sums together are one Gaussian release with noise multiplier 1.

    Args:
        rms: The root of the mean, over rounds, of the noise's variance in each element.
        max: The standard deviation in the worst round.
    """

    rms: float
    max: float


def sensitivity(coefficients: Coefficients, separation: int) -> float:
    """Return the largest change of ``C x`` by one worker, in units of the clipping bound: ``‖Σ_j C[:, j·b]‖₂``.

    The worst worker takes part in rounds 0, b, 2b, … (Kalinin & Lampert, *Banded Square Root Matrix Factorization for
    Differentially Private Model Training*, 2024, for coefficients that are not negative and do not grow).

    Args:
        coefficients: The first column of C.
        separation: The number b of rounds between two participations of a worker, at least.

    Raises:
        TypeError: If the coefficients are not an array, or the separation is not a number.
        ValueError: If the coefficients are not non-negative and non-increasing, which the theorem requires.

    >>> sensitivity(np.array([1.0, 0.5, 0.0, 0.0]), separation=4)  # √(1 + ¼)
    1.118033988749895
    >>> sensitivity(np.array([1.0, 0.0, 0.0, 0.0]), separation=1)  # four times without any correlation
    2.0
    """
    if not isinstance(coefficients, np.ndarray) or coefficients.ndim != 1 or not coefficients.size:
        raise TypeError(f"coefficients={coefficients!r} must be an array of numbers, the first column of the matrix")
    separation = whole("separation", separation, least=1)
    if not np.isfinite(coefficients).all() or coefficients.min() < 0 or (np.diff(coefficients) > 0).any():
        raise ValueError(
            "the coefficients of a factorization must be finite, not negative, and none greater than the one before "
            "it: else its sensitivity is not known"
        )
    rounds = len(coefficients)
    padded = np.pad(coefficients, (0, -rounds % separation)).reshape(-1, separation)
    return float(np.linalg.norm(padded.cumsum(axis=0).ravel()[:rounds]))


def prefix_errors(coefficients: Coefficients, separation: int) -> PrefixErrors:
    """Return the errors of the running sums: the sensitivity times the norms of the rows of ``B = A C⁻¹``.

    Args:
        coefficients: The first column of C.
        separation: The number of rounds between two participations of a worker, at least.

    >>> rms, most = prefix_errors(BandedToeplitz(bands=100).coefficients(100, 100), separation=100)
    >>> round(rms, 4), round(most, 4)
    (2.3707, 2.5314)
    """
    moved = sensitivity(coefficients, separation)
    bands = int(np.nonzero(coefficients)[0][-1]) + 1
    return _errors(_filtered([1.0], coefficients[:bands], np.ones(len(coefficients))), moved)


def _errors(first_column_of_b: Coefficients, moved: float) -> PrefixErrors:
    variances = np.cumsum(first_column_of_b**2)
    return PrefixErrors(moved * float(np.sqrt(variances.mean())), moved * float(np.sqrt(variances[-1])))


def _exponentials(weights: Coefficients, decays: Coefficients, rounds: int) -> Coefficients:
    powers = decays[:, None] ** np.arange(rounds - 1)
    return np.concatenate([[1.0], weights @ powers])


_FITTED_ROUNDS = 4096
"""The largest number of rounds of a fit of ω and θ; longer runs use its result, since longer fits gain nothing."""


@lru_cache(maxsize=64)
def _fitted(buffers: int, rounds: int, separation: int) -> tuple[Coefficients, Coefficients]:
    """Return ω and θ by BFGS; each fit starts from the fit with one exponential less, plus one of small weight."""
    minimize = import_extra("scipy.optimize").minimize
    rounds = min(rounds, _FITTED_ROUNDS)
    separation = min(separation, rounds)
    gap = min(0.5, 1 / np.sqrt(rounds))
    best = np.array([np.log(gap / (1 - gap)), 0.0])
    for count in range(1, buffers + 1):
        starts = [best]
        if count > 1:
            gaps, weights = best[: count - 1], best[count - 1 :]
            places = np.log([0.5 / rounds, 4.0 / rounds, 0.1, 0.5])
            starts = [np.concatenate([gaps, [place], weights, [-3.0]]) for place in places]
        found = [minimize(_loss, start, args=(rounds, separation), method="BFGS") for start in starts]
        best = min(found, key=lambda result: float(result.fun)).x
    return _unpacked(best)


def _unpacked(point: Coefficients) -> tuple[Coefficients, Coefficients]:
    """Return θ in (0, 1) and ω > 0 with a sum below 1; the coefficients are then non-increasing."""
    gaps, logs = np.split(np.clip(point, -30.0, 30.0), 2)
    weights = np.exp(logs)
    return weights / (1 + weights.sum()), 1 / (1 + np.exp(gaps))


def _loss(point: Coefficients, rounds: int, separation: int) -> float:
    weights, decays = _unpacked(point)
    moved = sensitivity(_exponentials(weights, decays, rounds), separation)
    # C(x) = 1 + Σ ω_i x / (1 − θ_i x) as a fraction: a product of lines below, so B is a recursion of few terms.
    below = np.array([1.0])
    for decay in decays:
        below = np.convolve(below, [1.0, -decay])
    above = below.copy()
    for index, weight in enumerate(weights):
        others = np.array([1.0])
        for decay in np.delete(decays, index):
            others = np.convolve(others, [1.0, -decay])
        above[1:] += weight * others
    return float(np.log(_errors(_filtered(below, above, np.ones(rounds)), moved).rms))


def _filtered(above: Any, below: Any, values: Coefficients) -> Coefficients:
    result: Coefficients = import_extra("scipy.signal").lfilter(above, below, values)
    return result
