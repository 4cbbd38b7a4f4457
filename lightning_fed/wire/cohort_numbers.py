"""Numbers of a cohort as a whole, where the server does not see those of one worker."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

from lightning_fed.core.means import weighted_mean
from lightning_fed.wire.logged import Logged


@final
class CohortNumbers(NamedTuple):
    """Numbers that a cohort reports together.

    Args:
        examples: The number of training examples of all its workers.
        weight: The sum of the workers' weights in means.
        loss: Their mean loss.
        logged: The logged values, reduced over the workers, by name.
        rates: The mean of each learning rate at the start of local training, by name.
        within: The fraction of the workers whose updates were within the bound.
        left_out: How many of their losses and metrics could not be added.
        lost: The workers that had trained and are not in the sums, with the reason of each, by name.
        bytes_down: The bytes that the secure aggregation protocol sent to the workers.
        bytes_up: The bytes that the workers have sent.
        protocol_bytes_up: The part of ``bytes_up`` besides vectors: keys, shares and single numbers.
    """

    examples: float
    weight: float
    loss: float
    logged: Mapping[str, Logged] = {}
    rates: Mapping[str, float] = {}
    within: float = 1.0
    left_out: int = 0
    lost: Mapping[str, str] = {}
    bytes_down: int = 0
    bytes_up: int = 0
    protocol_bytes_up: int = 0


def loss_of(cohorts: Sequence[CohortNumbers]) -> float:
    """Return the mean loss of several cohorts, weighted as in each of them; NaN: no cohort has one."""
    told = [each for each in cohorts if each.weight and not math.isnan(each.loss)]
    return weighted_mean([each.loss for each in told], [each.weight for each in told])
