"""Small lies: Baruch, Baruch, Goldberg, *A Little Is Enough: Circumventing Defenses For Distributed Learning*, 2019."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import final

from torch import Tensor

from lightning_fed.core.arguments import number, settle
from lightning_fed.testing.attacks.base import Attack, Seen


@final
@dataclass(frozen=True)
class ALIE(Attack):
    """All attackers send ``mean - z · std`` of the honest workers' updates, coordinate by coordinate (algorithm 3).

    z is the largest number for which the lies are nearer to the mean than the honest workers that the attackers need
    for a majority (``largest_z``). The standard deviation has n - 1 in its denominator; for one honest worker it
    is 0.

    The paper's attackers estimate both from their own updates. Here they see the honest updates, as in the code of
    Karimireddy et al. 2022, which also has this sign. ``ALittleIsEnough`` of byzfl adds ``z · std``, with 1.5 for z.

    Args:
        z: The number of standard deviations; None: ``largest_z`` of each cohort.

    Raises:
        TypeError: If ``z`` is not a number.
        ValueError: If ``z`` is not positive and finite; in a round, if ``z`` is None and there are too many attackers.
    """

    z: float | None = None

    def __post_init__(self) -> None:
        settle(self, z=self.z if self.z is None else number("z", self.z, above=0, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        try:
            z = largest_z(seen.workers, len(seen.attackers)) if self.z is None else self.z
        except ValueError as error:
            raise ValueError(f"ALIE() in round {seen.round}: {error}; give z, such as ALIE(z=1.5)") from error
        std = seen.honest.std(dim=0) if len(seen.honest) > 1 else 0.0
        return seen.honest.mean(dim=0) - z * std


def largest_z(workers: int, attackers: int) -> float:
    """Return the largest deviation of a lie, in standard deviations (algorithm 3, lines 1 and 2).

    With ``s = ⌊n/2 + 1⌋ - f`` honest workers the attackers are the majority, so z is the quantile of the standard
    normal distribution at ``(n - f - s)/(n - f)``. With few attackers it is 0 or even negative.

    Args:
        workers: The number of workers in the cohort, n.
        attackers: The number of attackers among them, f.

    Raises:
        ValueError: If the attackers are the majority by themselves, or there is no honest worker to spare.

    >>> round(largest_z(workers=50, attackers=24), 4), largest_z(workers=11, attackers=1)
    (1.4261, 0.0)
    """
    honest = workers - attackers
    needed = workers // 2 + 1 - attackers
    if not 0 < honest - needed < honest:
        raise ValueError(f"z does not follow from n={workers} workers of which f={attackers} attack")
    return NormalDist().inv_cdf((honest - needed) / honest)
