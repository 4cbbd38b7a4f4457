"""The audit: it stays within the claim of every promise that holds, and above that of one with any fault."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import FrozenInstanceError, dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.privacy import (
    DPFTRL,
    AdaptiveClip,
    Audit,
    CentralDP,
    DistributedDP,
    Gaussian,
    LocalDP,
    Mechanism,
    Noise,
    Privacy,
    PrivateRun,
    RecordDP,
    Setting,
    audit,
)
from lightning_fed.privacy.attacks import FINEST, POINTING, best_attack, lower_bounds
from lightning_fed.privacy.base import check_settings
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.selection import Uniform
from lightning_fed.wire import Aggregate, Job, Updates

CENTRAL = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5)
QUICK: dict[str, Any] = {"trials": 450, "dimension": 20}
EVERYONE: dict[str, Any] = {"population": 4, **QUICK}
PROMISES: dict[str, tuple[Privacy, dict[str, Any]]] = {
    "central": (CENTRAL, EVERYONE),
    "sampled": (CENTRAL, {"population": 8, "cohort_size": 6, "rounds": 2, **QUICK}),
    "fixed size": (CENTRAL, {"population": 8, "cohort_size": 7, "sampler": Uniform(), **QUICK}),
    "adaptive": (CentralDP(clip=AdaptiveClip(count_std=0.7), noise_multiplier=1.0), {"rounds": 2, **EVERYONE}),
    "weighted": (replace(CENTRAL, weight_cap=10), EVERYONE),
    "tree": (DPFTRL(clip=3.0, noise_multiplier=1.0, delta=1e-5), {"cohort_size": 1, "rounds": 4, **EVERYONE}),
    "local": (LocalDP(clip=1.0, noise_multiplier=2.0, delta=1e-5), EVERYONE),
    "distributed": (DistributedDP(clip=0.1, survivors=3, noise_multiplier=1.0, delta=1e-5), EVERYONE),
}


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system's entropy be the same every time: a test that fails by chance is no test."""
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_what_guesses_prove_by_hand() -> None:
    """All of 100 and none of 100, each at 97.5 %: the rates are at least, and at most, what has a chance of 2.5 %."""
    least, most = 0.025 ** (1 / 100), 1 - 0.025 ** (1 / 100)
    proved = lower_bounds(np.array([100]), np.array([0]), 100, 0.05, 0.95)
    assert float(proved[0]) == pytest.approx(math.log((least - 0.05) / most))
    nothing = lower_bounds(np.array([0, 50, 100]), np.array([0, 50, 100]), 100, 0.05, 0.95)
    assert (nothing < 0).all()


@pytest.mark.parametrize("feature", [POINTING, FINEST])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_attack_finds_where_two_worlds_differ(feature: int, sign: float) -> None:
    generator = np.random.default_rng(0)
    worlds = [generator.normal(size=(500, 2, 4)) for _ in range(2)]
    worlds[0][:, :, feature] += 3 * sign
    attack = best_attack(worlds, {0.05: 1.0}, 0.95)
    again = [generator.normal(size=(500, 2, 4)) for _ in range(2)]
    again[0][:, :, feature] += 3 * sign
    hits, alarms = attack.counts(again)
    assert hits > 400
    assert alarms < 100


def test_a_result_says_what_was_found_and_can_be_kept() -> None:
    found = Audit("CentralDP", 1.234, 2.5, 0.05, 0.99, 1000, 667, 300, 20)
    assert found.holds
    assert str(found) == (
        "CentralDP: ε >= 1.23 with 0.99 confidence, of ε = 2.5 that is claimed, both for δ = 0.05: within the claim. "
        "The attacker told 300 of 667 runs, and took 20 of 667 others for such."
    )
    beyond = replace(found, lower_bound=2.6)
    assert not beyond.holds
    assert "MORE THAN IS CLAIMED: the promise does not hold" in str(beyond)
    with pytest.raises(FrozenInstanceError):
        found.lower_bound = 0.0  # type: ignore[misc]


# ---- promises that hold ----------------------------------------------------------------------------------------------


QUICKEST = ("central", "weighted", "tree", "local", "distributed")


@pytest.mark.parametrize(
    ("promise", "setting"),
    [
        pytest.param(*each, id=name, marks=() if name in QUICKEST else pytest.mark.slow)
        for name, each in PROMISES.items()
    ],
)
def test_no_attack_beats_a_promise_that_holds(promise: Privacy, setting: dict[str, Any]) -> None:
    found = audit(promise, **setting)
    assert found.holds, str(found)
    assert found.lower_bound > 0, "an attack that finds nothing proves nothing"
    assert (found.trials, found.confidence) == (450, 0.99)


@pytest.mark.slow
def test_with_more_trials_it_comes_near_the_claim() -> None:
    found = audit(CENTRAL, population=4, dimension=2, trials=3000, delta=0.05)
    assert 0.55 * found.claimed < found.lower_bound < found.claimed
    assert found.delta == 0.05


def test_a_budget_is_spent_over_the_rounds_of_the_audit() -> None:
    found = audit(CentralDP(clip=1.0, epsilon=2.0, delta=0.05), population=4, rounds=3, delta=0.05, trials=100)
    assert 1.9 < found.claimed <= 2.0


# ---- promises that do not --------------------------------------------------------------------------------------------

_SLOW = (pytest.param(name, marks=pytest.mark.slow) for name in ("sampled", "tree"))
SOME = ["central", *_SLOW, "local", "distributed"]


@pytest.mark.parametrize("name", SOME)
def test_it_finds_half_the_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gaussian = Noise.gaussian
    monkeypatch.setattr(Noise, "gaussian", lambda self, size, std, *keys: gaussian(self, size, std / 2, *keys))
    skellam = Noise.skellam
    monkeypatch.setattr(Noise, "skellam", lambda self, size, v, *keys: skellam(self, size, v / 4, *keys))
    promise, setting = PROMISES[name]
    assert not audit(promise, **setting).holds


@pytest.mark.parametrize("name", SOME)
def test_it_finds_that_there_is_no_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Noise, "gaussian", lambda self, size, *_: torch.zeros(size, dtype=torch.float64))
    monkeypatch.setattr(Noise, "skellam", lambda self, size, *_: np.zeros(size, dtype=np.int32))
    promise, setting = PROMISES[name]
    assert not audit(promise, **{**setting, "trials": 200}).holds


@pytest.mark.parametrize("name", SOME[:-1])  # what is rounded within a bound has one; see test_skellam_audit.py
def test_it_finds_that_nothing_is_clipped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("private_sum", "local"):
        monkeypatch.setattr(f"lightning_fed.privacy.{module}.clip_scales", lambda norms, _: torch.ones_like(norms))
    promise, setting = PROMISES[name]
    assert not audit(promise, **{**setting, "trials": 300}).holds


def test_it_finds_a_count_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound that moves tells whether the canary was within it."""
    gaussian = Noise.gaussian

    def only_for_updates(self: Noise, size: int, std: float, *keys: int | str) -> Tensor:
        return gaussian(self, size, std * (keys[-1] != "count"), *keys)

    monkeypatch.setattr(Noise, "gaussian", only_for_updates)
    promise, setting = PROMISES["adaptive"]
    assert not audit(promise, **setting).holds


def test_it_finds_noise_of_a_seed() -> None:
    assert not audit(replace(CENTRAL, insecure_deterministic_noise=True), **EVERYONE).holds


@dataclass(frozen=True)
class Own(Privacy):
    """A promise of a user's own: Gaussian noise on a sum, as the package has it."""

    clip: float = 1.0
    noise_multiplier: float | None = 5.0
    epsilon: float | None = None
    delta: float | None = 1e-5
    accountant: Any = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    def __post_init__(self) -> None:
        check_settings(self, self.clip)

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return Gaussian(noise_multiplier)

    def bound(self) -> float:
        return self.clip

    def aggregator(self, run: PrivateRun) -> Aggregator[Any] | None:
        return PrivateSum(run, lambda size, _: run.noise.gaussian(size, run.noise_multiplier * run.bound))


class Careless(Own):
    """A promise of a user's own: noise as usual."""

    def aggregator(self, run: PrivateRun) -> Aggregator[Any]:
        return Float32Sum(run)


class Float32Sum(Aggregator[Tensor]):
    """Noise in float32 on a sum in float32, as much as is claimed: it lies on a lattice."""

    always = True

    def __init__(self, run: PrivateRun) -> None:
        self.run = run

    def count(self, replies: int) -> float:
        return self.run.setting.cohort_size

    def fold(self, updates: Iterable[Updates], job: Job) -> Tensor:
        total = torch.zeros_like(job.model.vector)
        for update in updates:
            norms = update.delta.norm(dim=1, keepdim=True).clamp(min=self.run.bound)
            total += (update.delta / norms).sum(dim=0) * self.run.bound
        return total

    def finish(self, partial: Tensor, processes: Processes) -> Aggregate:
        noise = self.run.noise.gaussian(len(partial), self.run.noise_multiplier * self.run.bound).to(partial)
        return Aggregate((partial + noise) / self.run.setting.cohort_size, {})


@pytest.mark.parametrize("cohort_size", [4, 3])
def test_it_finds_the_lattice_of_float32_noise(cohort_size: int) -> None:
    assert audit(Own(), population=cohort_size, trials=300).holds
    found = audit(Careless(), population=cohort_size, trials=450)
    assert found.claimed < 0.2
    assert found.lower_bound > 1.5


def test_it_finds_the_lattice_without_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = replace(CENTRAL, noise_multiplier=5.0)
    assert audit(promise, population=4, trials=450, dtype=torch.float64).holds
    monkeypatch.setattr("lightning_fed.privacy.private_sum.to_grid_", lambda noise, _: noise)
    assert not audit(promise, population=4, trials=450, dtype=torch.float64).holds


class ChargesTooLittle(Own):
    """Claims twice the noise that it has."""

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return Gaussian(2 * noise_multiplier)


class ChargesRarely(Own):
    """Charges for one round of four."""

    def period(self, setting: Setting) -> int:
        return 4


@pytest.mark.slow
def test_it_finds_a_wrong_charge() -> None:
    assert audit(Own(noise_multiplier=1.0), **EVERYONE).holds
    assert not audit(ChargesTooLittle(noise_multiplier=1.0), **EVERYONE).holds
    assert audit(Own(noise_multiplier=2.0), rounds=4, **EVERYONE).holds
    assert not audit(ChargesRarely(noise_multiplier=2.0), rounds=4, **EVERYONE).holds


@dataclass(frozen=True)
class Talkative(Own):
    """Noises what is learned, and says how much was lost."""

    any_aggregator = True

    def aggregator(self, run: PrivateRun) -> None:
        return None

    def at_worker(self, updates: Updates, job: Job) -> Updates:
        noise = Noise().gaussian(updates.delta.numel(), 5.0).view_as(updates.delta).to(updates.delta)
        return replace(updates, delta=noise)


def test_it_finds_what_a_worker_says_besides() -> None:
    assert not audit(Talkative(), **EVERYONE).holds


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_promises_about_examples_are_refused() -> None:
    record = RecordDP(clip=1.0, noise_multiplier=1.0, sampling_rate=0.1, delta=1e-5)
    with pytest.raises(ValueError, match="RecordDP hides their examples in local training"):
        audit(record, population=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"population": 0}, "population=0"),
        ({"population": 2.5}, "population=2.5"),
        ({"cohort_size": 5}, "cohort_size=5"),
        ({"cohort_size": 0}, "cohort_size=0"),
        ({"rounds": True}, "rounds=True"),
        ({"dimension": -1}, "dimension=-1"),
        ({"trials": 10}, "trials=10"),
        ({"confidence": 1.0}, "confidence=1.0"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"dtype": torch.float16}, "dtype=torch.float16"),
    ],
)
def test_arguments_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        audit(CENTRAL, **{"population": 4, **options})


def test_what_is_no_promise_is_refused() -> None:
    with pytest.raises(TypeError, match=r"privacy must be a Privacy, such as CentralDP\(clip=1.0"):
        audit("CentralDP", population=4)  # type: ignore[arg-type]
