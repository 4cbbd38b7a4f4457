"""Inner product manipulation.

Xie, Koyejo, Gupta, *Fall of Empires: Breaking Byzantine-Tolerant SGD by Inner Product Manipulation*, 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from lightning_fed.core.arguments import number, settle
from lightning_fed.testing.attacks.base import Attack, Seen


@final
@dataclass(frozen=True)
class IPM(Attack):
    """All attackers send ``-ε`` times the mean of the honest workers' updates.

    The mean of all updates then points away from the honest mean if ε > (n - f)/f, with f attackers among n workers. A
    small ε, such as 0.1, hides the lies among honest updates whose spread exceeds their length: median and Krum may
    then select lies.

    Args:
        epsilon: ε; 1 is ``SignFlipping`` of byzfl, any other number its ``InnerProductManipulation``.

    Raises:
        TypeError: If it is not a number.
        ValueError: If it is not positive and finite.
    """

    epsilon: float

    def __post_init__(self) -> None:
        settle(self, epsilon=number("epsilon", self.epsilon, above=0, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        return -self.epsilon * seen.honest.mean(dim=0)
