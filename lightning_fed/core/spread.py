"""Distribution of a number over workers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "max": 1.0}
"""The shown quantiles of a distribution, by their labels."""

LABELS = (*QUANTILES, "std")
"""The labels of all shown statistics of a distribution."""


def spread(values: Iterable[float]) -> dict[str, float]:
    """Return the shown statistics of some numbers.

    Args:
        values: The numbers; NaN is left out.

    Returns:
        By the labels ``min``, ``p10``, ``median``, ``p90``, ``max`` the quantiles as in :func:`quantile`, and by
        ``std`` the standard deviation of these numbers, whose squared deviations are divided by their number. NaN if
        there is no number.

    >>> spread([1.0, 2.0, 6.0, float("nan")])["median"], spread([1.0, 3.0])["std"]
    (2.0, 1.0)
    """
    ordered = in_order(values)
    with np.errstate(invalid="ignore"):  # the deviations from an infinite mean
        deviation = float(ordered.std()) if len(ordered) else np.nan
    return {**{label: quantile(ordered, q) for label, q in QUANTILES.items()}, "std": deviation}


def point(values: Iterable[float], label: str) -> float:
    """Return one of the shown quantiles of some numbers.

    Args:
        values: The numbers; NaN is left out.
        label: One of :data:`QUANTILES`, such as that of :func:`~lightning_fed.core.direction.worst_decile`.

    Returns:
        The quantile as in :func:`quantile`; NaN if there is no number.

    >>> point([1.0, 2.0, 6.0, float("nan")], "p90")
    5.2
    """
    return quantile(in_order(values), QUANTILES[label])


def in_order(values: Iterable[float]) -> npt.NDArray[np.float64]:
    """Return numbers in ascending order, without NaN, as float64 ``[n]``."""
    given = np.fromiter(values, np.float64)
    return np.sort(given[~np.isnan(given)])


def quantile(ordered: npt.NDArray[np.float64], q: float) -> float:
    """Return a quantile of numbers in order: numpy's linear one, which lies between the two numbers next to it.

    Other than in ``numpy.quantile``, one between a finite and an infinite number is infinite, and not NaN.

    Args:
        ordered: The numbers in ascending order, float64 ``[n]``.
        q: The level of the quantile, from 0 to 1.

    Returns:
        The quantile; NaN if there is no number.

    >>> quantile(in_order([30.0, 10.0, 20.0]), 0.25)
    15.0
    """
    if not len(ordered):
        return np.nan
    position = q * (len(ordered) - 1)
    place = int(position)
    below, above, part = float(ordered[place]), float(ordered[min(place + 1, len(ordered) - 1)]), position - place
    if below == above or part == 0:
        return below
    if np.isinf(below) or np.isinf(above):
        return below * (1 - part) + above * part
    # From the nearer end, as numpy does.
    return below + (above - below) * part if part < 0.5 else above - (above - below) * (1 - part)
