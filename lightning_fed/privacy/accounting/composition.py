"""The ε, or the δ, of a history of releases: by Rényi divergences, or by privacy loss distributions on a grid.

A coarser grid is faster, and its ε is never too small, since losses are rounded up (Doroshenko et al. 2022). The step
must be small beside the spread of *one* release's loss, and large enough to bound the number of steps in the range of
all releases. Both follow from the Rényi divergences, which are cheap.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeAlias

from lightning_fed.privacy.accounting.support import GRID, Kind, dp_accountant, refusal
from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.mechanisms import RELATIONS, Mechanism, Relation, repeated

History: TypeAlias = tuple[tuple[Mechanism, int], ...]
"""Mechanisms, each once, with their numbers of charges."""

_POINTS = 400_000
"""The largest number of steps in the distribution of all releases."""
_POINTS_OF_ONE = 100_000
"""The largest number of steps in the distribution of one release, which is much slower to build."""
_PER_SPREAD = 10
"""Steps in the spread of one release's loss: ε comes out some 0.1 % too large."""
_FINEST = 1e-7
_UNHEARD_OF = 1e-22
"""The probability of a loss at which dp-accounting cuts off a single release."""
_RESOLUTION = 1e-14
"""The probability that is lost in rounding for each release of a composition (measured against Gaussians)."""


def common_relation(mechanisms: Iterable[Mechanism]) -> Relation:
    """Return the relation under which all mechanisms can be counted: that of the last in ``RELATIONS``."""
    return max((mechanism.relation for mechanism in mechanisms), key=RELATIONS.index, default="add/remove")


@lru_cache(maxsize=64)
def epsilon_of(kind: Kind, history: History, delta: float, grid: float | None) -> float:
    """Return the ε of a history; cached, since the same ε is computed before and after a round.

    Args:
        kind: The accountant.
        history: What was released.
        delta: δ.
        grid: The step of the distributions; None: one that suits the history.

    Raises:
        ValueError: If δ is smaller than floating point can tell.
    """
    if not history:
        return 0.0
    divergences = _divergences(history)
    by_rdp = math.inf if divergences is None else _epsilon_by_rdp(divergences, delta)
    if kind == "rdp" or (divergences is not None and delta < _blur(history)):
        return by_rdp
    if delta < _blur(history):
        raise ValueError(
            f"delta={delta:g} is less than floating point can tell after {_count(history)} releases: take at least "
            f"{_blur(history):g}"
        )
    try:
        losses = _losses(history, grid or suitable_grid(history))
        return math.inf if losses is None else min(by_rdp, float(losses.get_epsilon_for_delta(delta)))
    except OverflowError:  # exp(loss) is no float: ε is beyond all use, and RDP's as good
        return by_rdp


@lru_cache(maxsize=64)
def delta_of(kind: Kind, history: History, epsilon: float, grid: float | None) -> float:
    """Return the δ of a history at an ε; see :func:`epsilon_of`."""
    if not history:
        return 0.0
    divergences = _divergences(history)
    by_rdp = 1.0 if divergences is None else _delta_by_rdp(divergences, epsilon)
    if kind == "rdp":
        return by_rdp
    try:
        losses = _losses(history, grid or suitable_grid(history))
    except OverflowError:
        return by_rdp
    # What is lost in rounding may be missing from the tail.
    by_pld = 1.0 if losses is None else max(float(losses.get_delta_for_epsilon(epsilon)), _blur(history))
    return min(by_rdp, by_pld)


def suitable_grid(history: History) -> float:
    """Return a step for the distributions of a history: dp-accounting's own, or half of it or twice so often as needed.

    Args:
        history: What was released.
    """
    divergences = _divergences(history)
    if divergences is None:
        return GRID
    relation = common_relation(mechanism for mechanism, _ in history)
    singles = [(_divergences_of(mechanism, relation), count) for mechanism, count in history]
    # Of order α about α s² / 2, where s is the standard deviation of the loss.
    order = _rdp().DEFAULT_RDP_ORDERS[0]
    spread = math.sqrt(sum(2 * count * float(one[0]) / order for one, count in singles) / _count(history))
    longest = _epsilon_by_rdp(divergences, _UNHEARD_OF)
    longest_one = max(_epsilon_by_rdp(one, _UNHEARD_OF) for one, _ in singles)
    if not 0 < longest + longest_one < math.inf:
        return GRID
    step = max(min(GRID, spread / _PER_SPREAD), longest / _POINTS, longest_one / _POINTS_OF_ONE, _FINEST)
    return float(GRID * 2.0 ** math.ceil(math.log2(step / GRID)))


def _losses(history: History, grid: float) -> Any | None:
    """The privacy loss distribution of a history; None: no ε holds for it."""
    relation = common_relation(mechanism for mechanism, _ in history)
    distribution = import_extra("dp_accounting.pld.privacy_loss_distribution").identity(grid)
    for mechanism, count in history:
        if mechanism.has_losses:
            losses = mechanism.losses(relation, count, grid)
        elif (one := _one(mechanism, relation, grid)) is not None:
            losses = repeated(one, count)
        else:
            return None
        distribution = distribution.compose(losses)
    return distribution


@lru_cache(maxsize=8)
def _one(mechanism: Mechanism, relation: Relation, grid: float) -> Any | None:
    """The privacy loss distribution that dp-accounting makes of one release's event; None: no ε holds for it."""
    accountant = dp_accountant("pld", relation, grid).compose(mechanism.event(relation))
    if accountant.get_delta(1e300) == 1:
        return None
    # dp-accounting has no other way from an event to a distribution that can be composed.
    return accountant._pld


def _divergences(history: History) -> Any | None:
    """The Rényi divergences of a history at dp-accounting's default orders; None: dp-accounting cannot count them."""
    relation = common_relation(mechanism for mechanism, _ in history)
    if any(refusal("rdp", mechanism, relation) for mechanism, _ in history):
        return None
    return sum(count * _divergences_of(mechanism, relation) for mechanism, count in history)


@lru_cache(maxsize=64)
def _divergences_of(mechanism: Mechanism, relation: Relation) -> Any:
    """The Rényi divergences of one release; numpy float64 ``[orders]``, read only."""
    with _without_remarks_about_orders():
        accountant = dp_accountant("rdp", relation, GRID, whole_orders=mechanism.whole_orders)
        return accountant.compose(mechanism.event(relation)).rdp


def _epsilon_by_rdp(divergences: Any, delta: float) -> float:
    return float(_rdp().compute_epsilon(_rdp().DEFAULT_RDP_ORDERS, divergences, delta)[0])


def _delta_by_rdp(divergences: Any, epsilon: float) -> float:
    return float(_rdp().compute_delta(_rdp().DEFAULT_RDP_ORDERS, divergences, epsilon)[0])


def _rdp() -> Any:
    return import_extra("dp_accounting.rdp.rdp_privacy_accountant")


def _count(history: History) -> int:
    return sum(count for _, count in history)


def _blur(history: History) -> float:
    return _RESOLUTION * _count(history)


@contextmanager
def _without_remarks_about_orders() -> Iterator[None]:
    """Let dp-accounting's RDP leave out orders whose series does not converge without a line on stderr for each."""

    def is_another(record: logging.LogRecord) -> bool:
        return "_compute_log_a_frac" not in str(record.msg)

    logger = logging.getLogger("absl")
    logger.addFilter(is_another)
    try:
        yield
    finally:
        logger.removeFilter(is_another)
