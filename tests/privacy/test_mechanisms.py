"""What is released: trees that can be counted by hand, and what is no mechanism."""

from __future__ import annotations

import math
from collections.abc import Callable

import dp_accounting
import pytest

from lightning_fed.privacy import (
    Accountant,
    FixedSizeGaussian,
    Gaussian,
    LocalGaussian,
    Mechanism,
    SkellamSum,
    SubsampledGaussian,
    TreeAggregation,
)
from lightning_fed.privacy.correlated import CorrelatedGaussian, tree_sensitivity_squared


@pytest.mark.parametrize(
    ("mechanism", "says"),
    [
        (SubsampledGaussian(1.0, 0.25), "Poisson sampling: each by a coin of its own, with probability 0.25"),
        (FixedSizeGaussian(1.0, 5, 20), "cohorts of a fixed size, 5 of 20, drawn without replacement"),
        (Gaussian(1.0), "no sampling: as if everyone took part in every release"),
        (SkellamSum(1.0, 100, 10), "no sampling: as if everyone took part in every release"),
        (LocalGaussian(1.0), "no sampling: for a worker that takes part in every round"),
        (TreeAggregation(1.0, 4), "no sampling: each at most once in the 4 rounds of a tree"),
        (TreeAggregation(1.0, 4, 2), "no sampling: each at most 2 times in the 8 rounds of a tree"),
        (CorrelatedGaussian(1.0, 1.5, 20, 4), "no sampling: each at most every 4 of the 20 rounds"),
    ],
    ids=lambda value: value.split(":")[0] if isinstance(value, str) else type(value).__name__,
)
def test_how_its_analysis_takes_it_that_workers_take_part(mechanism: Mechanism, says: str) -> None:
    assert mechanism.participation == says


@pytest.mark.parametrize(
    ("steps", "epochs", "completed", "squared"),
    [
        (1, 1, False, 1),
        (2, 1, False, 2),  # a leaf and the root
        (3, 1, False, 2),  # the third leaf has no partner, and there is no root
        (3, 1, True, 3),  # with a fourth, empty one there is
        (4, 1, False, 3),
        (
            2,
            2,
            False,
            8,
        ),  # two leaves and two pairs that see the worker once, a root that does twice: 1 + 1 + 1 + 1 + 4
        (1, 2, False, 6),  # two leaves, and the root twice: 1 + 1 + 4
        (1, 3, False, 7),  # three leaves, one pair: 3 + 4
        (1, 3, True, 17),  # three leaves, a pair, a pair with an empty leaf, the root: 3 + 4 + 1 + 9
    ],
)
def test_a_tree_moves_as_far_as_one_counts_by_hand(steps: int, epochs: int, completed: bool, squared: int) -> None:
    assert tree_sensitivity_squared(steps, epochs, completed) == squared


def nodes_of_a_tree(steps: int, epochs: int, completed: bool) -> int:
    """The same by building the tree: each node knows how often it sees each place of the epoch."""
    layer = [[1 if place == round % steps else 0 for place in range(steps)] for round in range(steps * epochs)]
    while completed and len(layer) & (len(layer) - 1):
        layer.append([0] * steps)
    squared = [0] * steps
    while layer:
        squared = [s + sum(node[place] ** 2 for node in layer) for place, s in enumerate(squared)]
        pairs = zip(layer[::2], layer[1::2], strict=False)
        layer = [[a + b for a, b in zip(left, right, strict=True)] for left, right in pairs]
    return max(squared)


def test_a_tree_moves_as_far_as_one_that_is_built() -> None:
    for steps in range(1, 8):
        for epochs in range(1, 8):
            for completed in (False, True):
                assert tree_sensitivity_squared(steps, epochs, completed) == nodes_of_a_tree(steps, epochs, completed)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 8, 100, 1600])
def test_a_tree_of_one_epoch_is_that_of_dp_accounting(steps: int) -> None:
    theirs = dp_accounting.rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_SPECIAL
    ).compose(dp_accounting.SingleEpochTreeAggregationDpEvent(5.0, steps), 3)
    ours = Accountant("rdp")
    ours.charge(TreeAggregation(5.0, steps), 3)
    assert ours.epsilon(1e-5) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-9)


def test_a_full_sample_is_no_sample() -> None:
    assert SubsampledGaussian(2.0, 1.0).event("add/remove") == Gaussian(2.0).event("add/remove")


@pytest.mark.parametrize("noise_multiplier", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize(
    "make",
    [
        Gaussian,
        LocalGaussian,
        lambda z: SubsampledGaussian(z, 0.1),
        lambda z: FixedSizeGaussian(z, 1, 2),
        lambda z: SkellamSum(z, 100, 10),
        lambda z: TreeAggregation(z, 4),
    ],
)
def test_without_noise_there_is_no_mechanism(make: Callable[[float], Mechanism], noise_multiplier: float) -> None:
    with pytest.raises(ValueError, match=r"noise_multiplier=.*must be positive and finite"):
        make(noise_multiplier)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, math.nan])
def test_a_sampling_rate_is_a_probability(rate: float) -> None:
    with pytest.raises(ValueError, match=r"sampling_rate=.*above 0 and at most 1"):
        SubsampledGaussian(1.0, rate)


def test_numbers_of_workers_and_rounds_are_positive_integers() -> None:
    with pytest.raises(ValueError, match=r"cohort_size=0\) must be a positive integer"):
        FixedSizeGaussian(1.0, 0, 10)
    with pytest.raises(ValueError, match=r"cohort_size=11\) must be at most population=10"):
        FixedSizeGaussian(1.0, 11, 10)
    with pytest.raises(ValueError, match=r"steps=2\.5\) must be a positive integer"):
        TreeAggregation(1.0, 2.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"epochs=0\) must be a positive integer"):
        TreeAggregation(1.0, 2, epochs=0)
