"""The number of examples in a pass, if only the pass itself reveals it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def examples_per_pass(batches: Sequence[tuple[int, int]], num_batches: int | None, is_whole: bool) -> float:
    """Return the number of examples in a pass, from observed batches.

    Complete passes determine the number. If the only pass was interrupted, its examples are counted, and extrapolated
    to the whole pass if the number of batches is known.

    Args:
        batches: Each batch's number in its pass and its number of examples.
        num_batches: The number of batches in a pass, if known.
        is_whole: Whether the last pass was complete.

    >>> examples_per_pass([(0, 4), (1, 2), (0, 4)], num_batches=2, is_whole=False)
    6.0
    >>> examples_per_pass([(0, 4)], num_batches=3, is_whole=False), examples_per_pass([(0, 4)], None, is_whole=False)
    (12.0, 4.0)
    """
    passes: list[list[int]] = []
    for index, size in batches:
        if index == 0:
            passes.append([])
        passes[-1].append(size)
    if not passes:
        return 0.0
    whole = passes if is_whole or len(passes[-1]) >= (num_batches or math.inf) else passes[:-1]
    if whole:
        return sum(map(sum, whole)) / len(whole)
    return sum(passes[0]) * (1.0 if num_batches is None else num_batches / len(passes[0]))
