"""For which of n workers a step fails.

One worker's label out of range makes a step of all fail. To train each one by itself instead would cost a round as many
times as there are workers. The step alone is repeated, on parts of them, until those are found that fail by themselves;
the others take it together and go on. Which ones they are does not depend on the search, so neither does the result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeAlias

Attempt: TypeAlias = Callable[[Sequence[int]], "Exception | None"]
"""Takes a step with some rows; returns what it raised, if it did."""


def failing_rows(attempt: Attempt, rows: Sequence[int], suspects: Collection[int]) -> dict[int, Exception]:
    """Find the rows for which a step fails, given that it fails for all of them together.

    Args:
        attempt: Takes the step with some rows. The last that it is called with are all those that do not fail.
        rows: The rows.
        suspects: Those that may well be to blame, and are tried first.

    Returns:
        What each row raises by itself. Nothing, if no single row fails: then it is about all of them together.

    >>> tried = []
    >>> def attempt(rows):
    ...     tried.append(list(rows))
    ...     return ValueError() if 5 in rows else None
    >>> failing_rows(attempt, range(8), suspects=())
    {5: ValueError()}
    >>> tried
    [[0, 1, 2, 3], [4, 5], [4], [5], [0, 1, 2, 3, 4, 6, 7]]
    >>> tried.clear()
    >>> failing_rows(attempt, range(8), suspects=[5])
    {5: ValueError()}
    >>> tried
    [[5], [0, 1, 2, 3, 4, 6, 7]]
    """
    failing: dict[int, Exception] = {}
    for row in rows:
        error = attempt([row]) if row in suspects else None
        if error is not None:
            failing[row] = error
    search = _first
    while True:
        others = [row for row in rows if row not in failing]
        if failing and (not others or attempt(others) is None):
            return failing
        found = search(attempt, others)
        if not found:
            return {}
        failing.update(found)
        search = _every  # one is the common case; but there may be many


def _first(attempt: Attempt, rows: Sequence[int]) -> dict[int, Exception]:
    """The error of one row, given that some of them fail."""
    error: Exception | None = None
    while len(rows) > 1:
        left = rows[: len(rows) // 2]
        error = attempt(left)
        rows = rows[len(left) :] if error is None else left
    error = attempt(rows) if error is None else error
    return {} if error is None else {rows[0]: error}


def _every(attempt: Attempt, rows: Sequence[int]) -> dict[int, Exception]:
    """The errors of all rows that fail."""
    error = attempt(rows)
    if error is None:
        return {}
    if len(rows) == 1:
        return {rows[0]: error}
    half = len(rows) // 2
    return _every(attempt, rows[:half]) | _every(attempt, rows[half:])
