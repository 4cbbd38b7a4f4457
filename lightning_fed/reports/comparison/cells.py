"""Rows of a comparison as text: the heads of the columns, and the cells."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from lightning_fed.core.direction import worst_decile
from lightning_fed.reports.comparison.groups import plain
from lightning_fed.reports.comparison.spread import Interval, Spread
from lightning_fed.reports.comparison.table import Reached, Row

NONE = "–"
_MOST_DECIMALS = 6


def cells(rows: Sequence[Row], metric: str, target: float | None) -> tuple[list[str], list[list[str]]]:
    """Return the heads of the columns and the cells; a column in which no row has a value is left out.

    Args:
        rows: The rows.
        metric: The metric's name.
        target: The value to reach; None: none.
    """
    decimals = decimals_of(row.metric for row in rows)
    worst = [row.worst for row in rows]
    columns = {name: [plain(row.differs[name]) for row in rows] for name in rows[0].differs}
    columns[metric] = [_spread(row.metric, decimals, counted=True) for row in rows]
    columns[f"worst decile ({worst_decile(metric)})"] = [_spread(each, decimals_of(worst)) for each in worst]
    if target is None:
        columns["rounds"] = [short(row.rounds) for row in rows]
        columns["MB"] = [short(row.megabytes) for row in rows]
    else:
        columns[f"rounds to {target:g}"] = [_reached(row.reached) for row in rows]
        columns[f"MB to {target:g}"] = [short(row.reached and row.reached.megabytes) for row in rows]
    columns["seconds"] = [short(row.seconds) for row in rows]
    columns["ε"] = [_epsilon(row.epsilon) for row in rows]
    columns["difference"] = [_difference(row.difference, decimals) for row in rows]
    kept = {head: column for head, column in columns.items() if set(column) - {NONE}}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def decimals_of(spreads: Iterable[Spread | None]) -> int:
    """Return the number of shown decimals: two digits of a typical deviation, or else four digits of a typical mean.

    >>> decimals_of([Spread(0.91234, 0.0123, 3)]), decimals_of([Spread(0.91234, None, 1)])
    (3, 4)
    """
    known = [each for each in spreads if each is not None]
    deviations = [each.sd for each in known if each.sd and math.isfinite(each.sd)]
    means = [abs(each.mean) for each in known if each.mean and math.isfinite(each.mean)]
    size, digits = (deviations, 2) if deviations else (means, 4)
    if not size:
        return 0
    return min(_MOST_DECIMALS, max(0, digits - 1 - math.floor(math.log10(statistics.median_low(size)))))


def short(value: float | None) -> str:
    """Return a number with about three digits.

    >>> short(None), short(0.01234), short(12.34), short(1234.5)
    ('–', '0.0123', '12.3', '1234')
    """
    if value is None:
        return NONE
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _spread(spread: Spread | None, decimals: int, counted: bool = False) -> str:
    if spread is None:
        return NONE
    deviation = "" if spread.sd is None else f" ± {spread.sd:.{decimals}f}"
    return f"{_number(spread.mean, decimals)}{deviation}" + (f" ({spread.n})" if counted else "")


def _number(value: float, decimals: int, sign: str = "") -> str:
    return f"{value:{sign}.{decimals}f}".replace("-", "−")


def _reached(reached: Reached | None) -> str:
    return NONE if reached is None else f"{short(reached.rounds)} ({reached.runs} of {reached.of})"


def _epsilon(epsilon: float | None) -> str:
    if epsilon is None:
        return NONE
    return "∞" if math.isinf(epsilon) else f"{math.ceil(epsilon * 1e3) / 1e3:.3f}"


def _difference(found: Interval | None, decimals: int) -> str:
    if found is None:
        return NONE
    mean = _number(found.mean, decimals, "+")
    if found.low is None or found.high is None:
        return f"{mean} ({found.n})"
    return f"{mean} [{_number(found.low, decimals, '+')}, {_number(found.high, decimals, '+')}] ({found.n})"
