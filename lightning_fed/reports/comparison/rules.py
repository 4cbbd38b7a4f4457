"""The rule that selects the evaluations of a run for its value: the last one, the best one, or the last few.

Tables of papers rarely state the rule, and results differ between rules; so a comparison has one rule, and prints it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, final

from lightning_fed.core.arguments import nearest
from lightning_fed.core.direction import Mode

_NAMES = ("last", "best", "mean:10")


@final
@dataclass(frozen=True)
class Rule:
    """A rule by which a run's curve becomes one value.

    Args:
        kind: ``last``: the last evaluation; ``best``: that with the best value; ``mean``: the mean of the last ones.
        count: How many of the last ones.
    """

    kind: Literal["last", "best", "mean"] = "last"
    count: int = 1

    @classmethod
    def parsed(cls, text: str) -> Rule:
        """Read a rule.

        Args:
            text: ``last``, ``best``, or ``mean:K`` with a whole number K.

        Raises:
            ValueError: If the text is not a rule.

        >>> Rule.parsed("mean:10")
        Rule(kind='mean', count=10)
        """
        if text in ("last", "best"):
            return cls("last" if text == "last" else "best")
        found = re.fullmatch(r"mean:([1-9]\d{0,8})", text)
        if found is None:
            raise ValueError(
                f"rule={text!r} must be last, best, or mean:K with a whole number K of evaluations, such as mean:10"
                f"{nearest(text, _NAMES)}"
            )
        return cls("mean", int(found.group(1)))

    def __str__(self) -> str:
        return f"mean:{self.count}" if self.kind == "mean" else self.kind

    def in_words(self, of: str = "evaluation") -> str:
        """Return the description of a value for a caption.

        Args:
            of: The name of the values.
        """
        if self.kind == "mean":
            return f"the mean of a run's last {self.count} {of}s"
        if self.kind == "last":
            return f"a run's last {of}"
        return f"a run's best {of}, which was chosen by the values that are reported, and is too good for that"

    def chosen(self, values: Sequence[float], mode: Mode) -> list[int]:
        """Return the positions of the evaluations that count; NaN is never the best, but may be the last.

        Args:
            values: The values of all evaluations of a run, at least one, oldest first.
            mode: Whether low or high ones are better.

        Returns:
            Their positions.

        Raises:
            ValueError: If there are fewer than the rule needs.
        """
        if self.kind == "best":
            numbers = [position for position, value in enumerate(values) if not math.isnan(value)]
            pick = min if mode == "min" else max
            return [pick(numbers, key=values.__getitem__, default=len(values) - 1)]
        if len(values) < self.count:
            raise ValueError(f"rule={self} needs {self.count} evaluations, and there are {len(values)}")
        return list(range(len(values) - self.count, len(values)))

    def value(self, values: Sequence[float], chosen: Sequence[int]) -> float:
        """Return the mean over the evaluations that count.

        Args:
            values: The values of all evaluations.
            chosen: The positions of those that count.
        """
        return math.fsum(values[position] for position in chosen) / len(chosen)

    def first_at(self, values: Sequence[float], target: float, mode: Mode) -> int | None:
        """Return the first evaluation at which a target is reached; None if it never is.

        Under ``mean:K`` it is reached when the mean of the last K evaluations up to there does so.

        Args:
            values: The values of all evaluations, oldest first.
            target: The value to reach.
            mode: Whether to reach it from above (``min``) or from below.
        """
        for end in range(self.count, len(values) + 1):
            value = math.fsum(values[end - self.count : end]) / self.count
            if value <= target if mode == "min" else value >= target:
                return end - 1
        return None
