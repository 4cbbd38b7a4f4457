"""The grid that sums and noise lie on: by hand, exact sums, and an attack on last bits that it stops (Mironov 2012)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, fit
from private import began, job, released, updates
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.core.processes import Processes
from lightning_fed.privacy import DPFTRL, AdaptiveClip, CentralDP, LocalDP, Privacy
from lightning_fed.privacy.grid import grid_step, power_of_two, rounding, to_grid_
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.wire import GlobalModel, Job

COHORT = 4  # a power of two, so that a mean is undone exactly


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    assert power_of_two(1.0) == 1.0
    assert power_of_two(0.99) == 0.5
    assert power_of_two(1025.0) == 1024.0
    assert to_grid_(torch.tensor([0.74, 0.76, -0.74, 0.25, 0.75]).double(), 0.5).tolist() == [0.5, 1.0, -0.5, 0.0, 1.0]
    assert rounding(0.5, 4) == 0.5, "four numbers, each a quarter off: √(4 · 0.25²)"


@pytest.mark.parametrize("size", [1, 1000, 10**6, 10**9])
@pytest.mark.parametrize("z", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("bound", [1e-30, 0.1, 3.0, 1e30])
def test_it_is_far_finer_than_noise_and_updates_and_far_coarser_than_float64(bound: float, z: float, size: int) -> None:
    step = grid_step(z * bound, bound, size)
    assert math.frexp(step)[0] == 0.5, "a power of two"
    assert step <= 2.0**-22 * z * bound
    assert rounding(step, size) <= 2.0**-13 * bound
    assert 10_000 * bound + 9 * z * bound < 2.0**53 * step, "a sum of ten thousand workers is exact"


@pytest.mark.parametrize(("std", "bound"), [(0.0, 1.0), (math.inf, math.inf), (1e-322, 1e-322), (math.nan, 1.0)])
def test_what_has_no_grid_is_refused(std: float, bound: float) -> None:
    with pytest.raises(ValueError, match="cannot be put on a grid of float64 numbers"):
        grid_step(std, bound, 10)


# ---- sums are exact --------------------------------------------------------------------------------------------------

SEEDED: dict[str, Any] = {"noise_multiplier": 1.0, "delta": 1e-5, "insecure_deterministic_noise": True}
SERVERS: list[Privacy] = [
    CentralDP(clip=1.0, **SEEDED),
    CentralDP(clip=AdaptiveClip(initial=0.7, count_std=1.0), weight_cap=3, **SEEDED),
    DPFTRL(clip=1.0, **SEEDED),
]


def rows_of(n: int, size: int) -> Tensor:
    return torch.randn(n, size, generator=torch.Generator().manual_seed(0)) * 0.1


def summed(promise: Privacy, stacks: list[Any], to: Job) -> tuple[Tensor, Tensor]:
    """The sums of one round, and of what is sent besides, before they are divided."""
    run = began(promise, COHORT)
    aggregator = promise.aggregator(run)
    assert isinstance(aggregator, PrivateSum)
    partials = [aggregator.fold(stack, to) for stack in stacks]
    whole = partials[0]
    for other in partials[1:]:
        whole.delta += other.delta
        whole.extra["control"] += other.extra["control"]
        whole.within += other.within
    done = aggregator.finish(replace(whole, dtype=torch.float64), Processes())
    return done.delta * COHORT, done.extra["control"] * COHORT


@pytest.mark.parametrize("promise", SERVERS, ids=lambda p: type(p).__name__)
def test_a_sum_is_the_same_bit_for_bit_in_any_order_in_any_blocks_and_processes(promise: Privacy) -> None:
    rows, control = rows_of(7, 1000), rows_of(14, 1000)[7:]
    to = job(1000, extra=("control",))
    ones = [updates(rows[i : i + 1], extra={"control": control[i : i + 1]}) for i in range(7)]
    expected = summed(promise, [[updates(rows, extra={"control": control})]], to)
    for stacks in (
        [ones],
        [ones[::-1]],
        [ones[:2], [], ones[2:]],
        [[updates(rows[:5], extra={"control": control[:5]})], ones[5:]],
    ):
        for actual, whole in zip(summed(promise, stacks, to), expected, strict=True):
            torch.testing.assert_close(actual, whole, rtol=0, atol=0)


@pytest.mark.parametrize("promise", SERVERS, ids=lambda p: type(p).__name__)
def test_a_release_is_a_multiple_of_the_step(promise: Privacy) -> None:
    to = job(1000, extra=("control",))
    step = grid_step(promise.bound(), promise.bound(), 2000)
    sums = summed(promise, [[updates(rows_of(3, 1000), extra={"control": rows_of(3, 1000)})]], to)
    for total in sums:
        assert not (total / step).frac().any()
        assert (total != 0).all()


def test_the_noise_of_a_count_is_on_a_grid_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound tells the noised count, so its last bits would tell more: 4 ln(C/C') / −η is ±½ and such multiples."""
    counts: list[float] = []
    moved = AdaptiveClip.moved
    monkeypatch.setattr(
        AdaptiveClip, "moved", lambda self, bound, fraction: counts.append(fraction) or moved(self, bound, fraction)
    )
    promise = CentralDP(clip=AdaptiveClip(initial=1.0, count_std=0.8), noise_multiplier=1.0)
    for _ in range(20):
        released(promise, began(promise, COHORT), updates(rows_of(3, 2)))
    noised = (torch.tensor(counts, dtype=torch.float64) - 0.5) * COHORT
    assert not (noised / grid_step(0.8, 0.5, 1)).frac().any()


# ---- the attack ------------------------------------------------------------------------------------------------------


@pytest.fixture
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system's entropy be the same every time: a test that fails by chance is no test."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


def possible(seen: Tensor, total: Tensor) -> bool:
    """Whether a sum of floats can be what is seen, for some float of noise: the attack of Mironov 2012.

    Args:
        seen: What is released.
        total: The sum without noise that the attacker thinks of; of the same dtype.
    """
    total = total.to(seen)
    noise = seen - total
    fits = total + noise == seen
    for way in (math.inf, -math.inf):
        fits |= total + torch.nextafter(noise, torch.full_like(noise, way)) == seen
    return bool(fits.all())


def advantage(release: Callable[[bool], Tensor], totals: dict[bool, Tensor], trials: int) -> float:
    """How much more often the attacker says "this cannot be its sum" if it is not than if it is; of both sums."""
    seen = {there: [release(there) for _ in range(trials)] for there in totals}
    says = {
        (there, thought): sum(not possible(each, total) for each in seen[there]) / trials
        for there in totals
        for thought, total in totals.items()
    }
    return max(abs(says[True, thought] - says[False, thought]) for thought in totals)


def allowed(z: float, trials: int, distance: float = 1.0) -> float:
    """What true Gaussian noise allows, and the error of so many trials at four standard deviations."""
    return math.erf(distance / (2 * z) / math.sqrt(2)) + 4 * math.sqrt(0.5 / trials)


def attack_the_sum(promise: Privacy, size: int, norm: float, dtype: torch.dtype, trials: int) -> float:
    others = rows_of(3, size).to(dtype) * 0.01
    canary = torch.full((1, size), norm / math.sqrt(size), dtype=dtype)
    to = replace(job(), model=GlobalModel({"w": torch.zeros(size, dtype=dtype)}))
    run = began(promise, COHORT)
    aggregator = promise.aggregator(run)
    assert isinstance(aggregator, PrivateSum)

    def fold(rows: Tensor) -> Any:
        return aggregator.fold([replace(updates(rows), delta=rows)], to)

    rows = {True: torch.cat([others, canary]), False: others}
    return advantage(
        lambda there: aggregator.finish(fold(rows[there]), Processes()).delta * COHORT,
        {there: fold(cohort).delta for there, cohort in rows.items()},
        trials,
    )


@pytest.mark.usefixtures("_repeatable")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "norm"), [(1000, 1e6), (1000, 0.3), (1, 1e6)])
@pytest.mark.parametrize("z", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("kind", [CentralDP, DPFTRL])
def test_the_last_bits_of_a_sum_tell_nothing(kind: Any, z: float, size: int, norm: float, dtype: torch.dtype) -> None:
    promise = kind(clip=1.0, noise_multiplier=z, delta=1e-5)
    found = attack_the_sum(promise, size, norm, dtype, trials=100)
    assert found <= allowed(z, 100, min(norm, 1.0))
    if dtype == torch.float64:
        assert found == 0, "nothing is rounded, so every multiple of the step is possible with either sum"


@pytest.mark.usefixtures("_repeatable")
@pytest.mark.parametrize("size", [1, 1000])
def test_they_would_without_the_grid(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_fed.privacy.private_sum.to_grid_", lambda noise, _: noise)
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5)
    assert attack_the_sum(promise, size, 1e6, torch.float64, trials=100) > {1: 0.3, 1000: 0.99}[size]


class Vector(Scalar):
    """A vector that moves to the mean of the data in one step."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(size))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return ((self.x - batch[0]) ** 2).sum(dim=-1).mean() / 2


@pytest.mark.usefixtures("_repeatable")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_last_bits_of_a_model_after_a_round_tell_nothing(
    dtype: torch.dtype, request: pytest.FixtureRequest
) -> None:
    if dtype == torch.float64:
        request.getfixturevalue("double")
    size, z, trials = 1000, 10.0, 30
    others = 0.001 * rows_of(3, size).to(dtype)
    canary = torch.full((1, size), 1.0 / math.sqrt(size), dtype=dtype)
    promise = CentralDP(clip=1.0, noise_multiplier=z, delta=1e-5)

    def release(there: bool) -> Tensor:
        module = Vector(size)
        rows = torch.cat([others, canary if there else torch.zeros_like(canary)])
        workers = {f"w{i}": Rows(row.unsqueeze(0)) for i, row in enumerate(rows)}
        fit(FederatedModule(module, privacy=promise, engine="sequential"), FederatedDataModule(workers), max_steps=1)
        return module.x.detach() * COHORT

    aggregator = promise.aggregator(began(promise, COHORT))
    totals = {
        there: aggregator.fold([updates(rows)], job(size)).delta
        for there, rows in {True: torch.cat([others, canary]), False: others}.items()
    }
    assert advantage(release, totals, trials) <= allowed(z, trials)


@pytest.mark.usefixtures("_repeatable")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "norm"), [(1000, 1e6), (1000, 0.3), (1, 1e6)])
def test_the_last_bits_of_what_leaves_a_worker_tell_nothing(size: int, norm: float, dtype: torch.dtype) -> None:
    z = 10.0
    promise = LocalDP(clip=1.0, noise_multiplier=z, delta=1e-5)
    model = GlobalModel({"w": torch.zeros(size, dtype=dtype)})
    to = promise.job(replace(job(), model=model), began(promise))
    length = min(norm, 1.0)
    own = {there: torch.full((1, size), length * there / math.sqrt(size), dtype=dtype) for there in (True, False)}
    learned = {True: own[True] * (norm / length), False: own[False]}
    found = advantage(
        lambda there: promise.at_worker(replace(updates(learned[there]), delta=learned[there]), to).delta[0],
        {there: row[0] for there, row in own.items()},
        trials=100,
    )
    assert found <= allowed(z, 100, length)
