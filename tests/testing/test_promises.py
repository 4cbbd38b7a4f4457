"""The suites for promises and mechanisms pass ours and one of somebody else's, and see what is wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import dp_accounting
import pytest
import torch
from torch import Tensor

from lightning_fed.core.processes import Processes
from lightning_fed.privacy import (
    DPFTRL,
    AdaptiveClip,
    BandedToeplitz,
    CentralDP,
    DistributedDP,
    FixedSizeGaussian,
    Gaussian,
    LocalDP,
    LocalGaussian,
    Mechanism,
    Privacy,
    PrivateRun,
    RecordDP,
    Relation,
    Setting,
    SkellamSum,
    SubsampledGaussian,
    TreeAggregation,
)
from lightning_fed.privacy.base import check_settings
from lightning_fed.privacy.private_sum import PrivateSum, PrivateSums
from lightning_fed.testing import PROMISE_CHECKS, check_mechanism
from lightning_fed.wire import Aggregate, Job, RecordPrivacy, Updates

CHECKS: dict[str, Callable[[Any], None]] = {check.__name__: check for check in PROMISE_CHECKS}

OURS: dict[str, Callable[[], Privacy]] = {
    "central": lambda: CentralDP(clip=1.0, noise_multiplier=1.0),
    "adaptive": lambda: CentralDP(clip=AdaptiveClip(count_std=1.0), epsilon=3.0),
    "weighted": lambda: CentralDP(clip=0.5, noise_multiplier=1.0, weight_cap=3),
    "tree": lambda: DPFTRL(clip=1.0, noise_multiplier=1.0),
    "bands": lambda: DPFTRL(clip=1.0, noise_multiplier=1.0, factorization=BandedToeplitz(4)),
    "local": lambda: LocalDP(clip=1.0, noise_multiplier=1.0),
    "distributed": lambda: DistributedDP(clip=1.0, survivors=4, noise_multiplier=1.0),
    "record": lambda: RecordDP(clip=1.0, sampling_rate=0.2, delta=1e-5, noise_multiplier=1.0),
}


@pytest.mark.parametrize("check", PROMISE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("make", OURS.values(), ids=OURS)
def test_our_promises(make: Callable[[], Privacy], check: Callable[[Any], None]) -> None:
    check(make)


@pytest.mark.parametrize(
    "make",
    [
        Gaussian,
        LocalGaussian,
        lambda z: SubsampledGaussian(z, 0.1),
        lambda z: FixedSizeGaussian(z, 2, 10),
        lambda z: SkellamSum(z, 2**12, 1000),
        lambda z: TreeAggregation(z, 8, epochs=2),
    ],
)
def test_our_mechanisms(make: Callable[[float], Mechanism]) -> None:
    check_mechanism(make)


# ---- mechanisms, each wrong in one way ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Laplace(Mechanism):
    """Right."""

    relation: ClassVar[Relation] = "add/remove"
    noise_multiplier: float

    def __post_init__(self) -> None:
        if not 0 < self.noise_multiplier < math.inf:
            raise ValueError(f"noise_multiplier={self.noise_multiplier}")

    def event(self, relation: Relation) -> Any:
        return dp_accounting.LaplaceDpEvent(self.noise_multiplier / (2 if relation == "replace-one" else 1))


class ByIdentity(Laplace):
    __eq__ = object.__eq__
    __hash__ = object.__hash__


class HasNoHash(Laplace):
    __hash__ = None  # type: ignore[assignment]


@dataclass(eq=False)
class CanBeChanged(Mechanism):
    relation: ClassVar[Relation] = "add/remove"
    noise_multiplier: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CanBeChanged)

    def __hash__(self) -> int:
        return 0

    def event(self, relation: Relation) -> Any:
        return dp_accounting.LaplaceDpEvent(self.noise_multiplier)


class TakesEverything(Laplace):
    def __post_init__(self) -> None:
        pass


class Unknown(Laplace):
    def event(self, relation: Relation) -> Any:
        return dp_accounting.UnsupportedDpEvent()


class DeafToNoise(Laplace):
    def event(self, relation: Relation) -> Any:
        return dp_accounting.LaplaceDpEvent(1.0)


class Optimist(Laplace):
    """Its own losses are those of half as many releases."""

    has_losses: ClassVar[bool] = True

    def losses(self, relation: Relation, count: int, grid: float) -> Any:
        make = dp_accounting.pld.privacy_loss_distribution.from_laplace_mechanism
        return make(2 * self.noise_multiplier, value_discretization_interval=grid).self_compose(count)


class ForgetsItsSettings(Laplace):
    @classmethod
    def of(cls, settings: Any) -> Any:
        return cls(5.0)


class DeafToTheRelation(Laplace):
    def event(self, relation: Relation) -> Any:
        return dp_accounting.LaplaceDpEvent(self.noise_multiplier)


def test_a_foreign_mechanism_that_is_right() -> None:
    check_mechanism(Laplace)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ByIdentity, "have the same settings and are not equal"),
        (HasNoHash, "has no hash"),
        (CanBeChanged, "can be changed after it was charged"),
        (TakesEverything, "a noise multiplier of 0.0 is not refused"),
        (Unknown, "no accountant counts Unknown"),
        (DeafToNoise, "with twice the noise ε is"),
        (Optimist, r"by its losses\(\) three releases of Optimist"),
        (ForgetsItsSettings, r"a checkpoint made \(\(ForgetsItsSettings\(noise_multiplier=5.0\)"),
        (DeafToTheRelation, "which is for replace-one: its event"),
    ],
)
def test_what_is_wrong_with_a_mechanism_is_said(wrong: Callable[[float], Mechanism], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_mechanism(wrong)


# ---- promises, each wrong in one way --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sum(Privacy):
    """A noised sum at the server, right; to be broken in one way each."""

    clip: float = 1.0
    noise_multiplier: float | None = 1.0
    epsilon: float | None = None
    delta: float | None = None
    accountant: Any = None
    release_metrics: bool = False
    insecure_deterministic_noise: bool = False

    def __post_init__(self) -> None:
        check_settings(self, self.clip)

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        return Gaussian(noise_multiplier)

    def bound(self) -> float:
        return self.clip

    def aggregator(self, run: PrivateRun) -> Any:
        return PrivateSum(run, lambda size, name: self.noise(run, size, name))

    def noise(self, run: PrivateRun, size: int, name: str) -> Tensor:
        return run.noise.gaussian(size, run.noise_multiplier * run.bound, run.cohort, name)


class Unchecked(Sum):
    def __post_init__(self) -> None:
        pass


@dataclass(frozen=True)
class Loose(Sum):
    """Accounts another release each time that it is asked."""

    asked: list[int] = dataclasses.field(default_factory=list)

    def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
        self.asked.append(1)
        return Gaussian(noise_multiplier * (1 + len(self.asked) / 10))


class StartsAnother(Sum):
    def start(self, setting: Setting, noise_multiplier: float | None = None) -> PrivateRun:
        return replace(super().start(setting, noise_multiplier), mechanism=Gaussian(100.0))


class SpendsNothing(Sum):
    def start(self, setting: Setting, noise_multiplier: float | None = None) -> PrivateRun:
        return replace(super().start(setting, noise_multiplier), _rounds=1, period=1000)


class Unclipped(Sum):
    """Clips to ten times the bound that the noise is for."""

    def aggregator(self, run: PrivateRun) -> Any:
        return PrivateSum(replace(run, bound=10 * run.bound), lambda size, name: self.noise(run, size, name))


class ClipsApart(LocalDP):  # type: ignore[misc]
    """Clips what a worker sends besides by itself, so that both together are longer."""

    def worker(self, updates: Updates, job: Job) -> Updates:
        alone = super().worker(replace(updates, extra={}), job)
        rest = super().worker(replace(updates, delta=updates.extra["besides"], extra={}), job)
        return replace(alone, extra={"besides": rest.delta})


class Quiet(Sum):
    def noise(self, run: PrivateRun, size: int, name: str) -> Tensor:
        return 0.5 * super().noise(run, size, name)


class OnlyTheUpdate(Sum):
    """Adds none to what workers send besides."""

    def noise(self, run: PrivateRun, size: int, name: str) -> Tensor:
        return super().noise(run, size, name) * (name == "delta")


class TheSameEachRound(Sum):
    def noise(self, run: PrivateRun, size: int, name: str) -> Tensor:
        return run.noise.gaussian(size, run.noise_multiplier * run.bound, name) if run.insecure else torch.zeros(size)


class Seeded(Sum):
    def noise(self, run: PrivateRun, size: int, name: str) -> Tensor:
        return torch.randn(size, dtype=torch.float64) * run.noise_multiplier * run.bound


class TellsWorkersLess(RecordDP):  # type: ignore[misc]
    def job(self, job: Job, run: PrivateRun) -> Job:
        job = super().job(job, run)
        return replace(job, record_privacy=RecordPrivacy(self.clip, 0.5 * run.noise_multiplier, self.sampling_rate))


class Talks(Sum):
    """Hides nothing but updates."""

    def at_worker(self, updates: Updates, job: Job) -> Updates:
        return self.worker(updates, job)


class ShowsExamples(Sum):
    def worker(self, updates: Updates, job: Job) -> Updates:
        return replace(updates, examples=updates.examples + 6)


class ByReplies(Sum):
    def aggregator(self, run: PrivateRun) -> Any:
        class Mean(PrivateSum):  # type: ignore[misc]
            def count(self, replies: int) -> float:
                return replies

        return Mean(run, lambda size, name: self.noise(run, size, name))


class QuietIfNobodyReplies(Sum):
    def aggregator(self, run: PrivateRun) -> Any:
        class Empty(PrivateSum):  # type: ignore[misc]
            replies = 0

            def fold(self, updates: Iterable[Updates], job: Job) -> PrivateSums:
                stacks = list(updates)
                self.replies = len(stacks)
                return super().fold(stacks, job)

            def finish(self, partial: PrivateSums, processes: Processes) -> Aggregate:
                aggregate = super().finish(partial, processes)
                extra = {name: e * bool(self.replies) for name, e in aggregate.extra.items()}
                return replace(aggregate, delta=aggregate.delta * bool(self.replies), extra=extra)

        return Empty(run, lambda size, name: self.noise(run, size, name))


WRONG: list[tuple[Callable[[], Privacy], str, str]] = [
    (Unchecked, "settings_are_checked", r"Unchecked\(noise_multiplier=0.0\) is taken"),
    (Loose, "the_mechanism_holds", "are not equal"),
    (StartsAnother, "the_mechanism_holds", "accounts another mechanism"),
    (SpendsNothing, "what_is_spent_survives", "ε = 0"),
    (Unclipped, "one_worker_moves_no_more_than_the_bound", "and the bound is 1: clip all"),
    (lambda: ClipsApart(1.0, 1.0), "one_worker_moves_no_more_than_the_bound", "moves the sum by 1.41"),
    (Quiet, "the_noise_is_what_the_mechanism_says", "standard deviation is 0.[45]"),
    (OnlyTheUpdate, "the_noise_is_what_the_mechanism_says", "standard deviation is 0.7"),
    (TheSameEachRound, "the_noise_is_what_the_mechanism_says", "two rounds have the same noise"),
    (Seeded, "the_noise_is_what_the_mechanism_says", "noise follows from a seed"),
    (lambda: TellsWorkersLess(1.0, 0.1, 1e-5, 1.0), "the_noise_is_what_the_mechanism_says", "workers train with"),
    (Talks, "nothing_else_leaves", "losses leave the workers"),
    (ShowsExamples, "nothing_else_leaves", "examples leave the workers"),
    (ByReplies, "no_reply_is_no_secret_told", "divided by the number of replies"),
    (QuietIfNobodyReplies, "no_reply_is_no_secret_told", "nobody answers has noise of 0"),
    (SpendsNothing, "every_release_is_charged", "three rounds were charged as"),
]


@pytest.mark.parametrize("check", PROMISE_CHECKS, ids=lambda check: check.__name__)
def test_a_foreign_promise_that_is_right(check: Callable[[Any], None]) -> None:
    check(Sum)


@pytest.mark.parametrize(("wrong", "check", "message"), WRONG)
def test_what_is_wrong_with_a_promise_is_said(wrong: Callable[[], Privacy], check: str, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        CHECKS[check](wrong)


def test_every_check_of_promises_sees_something() -> None:
    assert {check for _, check, _ in WRONG} == set(CHECKS)
