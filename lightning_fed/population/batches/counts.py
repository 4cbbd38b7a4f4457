"""The number of examples in a pass, where only the pass itself shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence


def examples_per_pass(batches: Sequence[tuple[int, int]], num_batches: int | None, is_whole: bool) -> float:
    """The number of examples that a pass gives, by those that were seen.

    Passes that were seen to their end tell; if the only one was cut short, it counts as far as it went, or where the
    number of batches is known, as if the rest were like it.

    Args:
        batches: Each batch's number in its pass and its number of examples.
        num_batches: The number of batches in a pass, if that is known.
        is_whole: Whether the last pass was seen to its end.

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
