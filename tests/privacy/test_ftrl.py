"""Noise by tree aggregation: by hand, its variance over rounds, restarts, and whole fits."""

from __future__ import annotations

import pytest
import torch
from helpers import Rows, Scalar, fit
from private import Net, Seen, people
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.privacy import DPFTRL, Noise, TreeAggregation
from lightning_fed.privacy.ftrl import NoiseTree
from lightning_fed.selection import RoundRobin, Uniform

PROMISE = DPFTRL(clip=3.0, noise_multiplier=2.0)


def one_hot(patch: pytest.MonkeyPatch, size: int) -> None:
    """The n-th draw is a one at place n, so that a sum shows which draws are in it."""
    drawn = iter(torch.eye(size, dtype=torch.float64))
    patch.setattr(Noise, "gaussian", lambda *_: next(drawn))


def running_sums(tree: NoiseTree, steps: int, size: int = 1, std: float = 1.0) -> Tensor:
    return torch.stack([tree.increment(size, std, step) for step in range(steps)]).cumsum(dim=0)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step the sum is made of: leaf 1; pair 1-2; that and leaf 3; the four; and leaf 5; ..."""
    one_hot(monkeypatch, 16)
    sums = running_sums(NoiseTree(Noise(), period=16), 9, 16)
    nodes = [set(row.nonzero().flatten().tolist()) for row in sums]
    assert nodes == [{0}, {1}, {1, 2}, {3}, {3, 4}, {3, 5}, {3, 5, 6}, {7}, {7, 8}]


def test_a_sum_of_t_rounds_has_as_many_nodes_as_t_has_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    one_hot(monkeypatch, 100)
    sums = running_sums(NoiseTree(Noise(), period=100), 100, 100)
    assert set(sums.unique().tolist()) == {0.0, 1.0}
    assert sums.sum(dim=1).tolist() == [t.bit_count() for t in range(1, 101)]


def test_the_variance_of_a_sum() -> None:
    """popcount(t) σ², by real noise; each round's node is new."""
    size = 20_000
    sums = running_sums(NoiseTree(Noise(0), period=16), 16, size, std=3.0)
    for t, noise in enumerate(sums, start=1):
        expected = t.bit_count() * 9.0
        assert abs(float(noise.var()) / expected - 1) < 4 * (2 / size) ** 0.5, t


def test_a_new_tree_begins_after_a_period_and_the_old_noise_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    one_hot(monkeypatch, 8)
    sums = running_sums(NoiseTree(Noise(), period=3), 7, 8)
    nodes = [set(row.nonzero().flatten().tolist()) for row in sums]
    assert nodes == [{0}, {1}, {1, 2}, {1, 2, 3}, {1, 2, 4}, {1, 2, 4, 5}, {1, 2, 4, 5, 6}]


def test_a_fit_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four workers in turn, two to a round, lr 0: only noise. A node has zC = 6, a mean over two a half of it.

    Trees of two rounds: the running noise is 3 (leaf), 3 (pair), and then the second tree's besides: 6, 6.
    """
    seen = Seen(monkeypatch)
    module = Scalar(lr=0.0)
    fed = FederatedModule(module, privacy=PROMISE)
    xs: list[float] = []
    monkeypatch.setattr(type(fed), "on_train_batch_end", lambda *_: xs.append(-module.x.item()), raising=False)
    data = FederatedDataModule({f"w{i}": Rows([1.0]) for i in range(4)}, cohort_size=2)
    fit(fed, data, max_steps=4)
    assert xs == pytest.approx([3.0, 3.0, 6.0, 6.0])
    assert {std for _, std, _ in seen.draws} == {6.0}
    assert isinstance(data.sampler, RoundRobin), "chosen for the user"


def test_it_charges_once_for_a_tree() -> None:
    fed = FederatedModule(Net(), privacy=PROMISE)
    fit(fed, FederatedDataModule(people(10), cohort_size=3), max_steps=7)  # trees of 3, 3 and 1 rounds
    assert fed.private_run is not None
    assert fed.private_run.accountant.history == ((TreeAggregation(2.0, steps=3), 3),)


def test_a_run_that_goes_on_begins_a_new_tree_and_is_charged_for_it() -> None:
    fed = FederatedModule(Net(), privacy=PROMISE)
    for _ in range(2):
        fit(fed, FederatedDataModule(people(10), cohort_size=3), max_steps=2)
    assert fed.private_run.accountant.history == ((TreeAggregation(2.0, steps=3), 2),)  # type: ignore[union-attr]


@pytest.mark.parametrize("cohort_size", [2, 3, 4, 5])
def test_nobody_is_in_a_tree_twice(cohort_size: int) -> None:
    """Also where the population is no multiple of the cohort."""
    period = 10 // cohort_size
    cohorts = [RoundRobin().sample(10, cohort_size, number, seed=0) for number in range(6 * period)]
    for first in range(0, len(cohorts), period):
        seen = [worker for cohort in cohorts[first : first + period] for worker in cohort]
        assert len(seen) == len(set(seen))


def test_random_cohorts_are_refused_with_the_fix() -> None:
    fed = FederatedModule(Net(), privacy=PROMISE)
    data = FederatedDataModule(people(10), cohort_size=3, sampler=Uniform())
    with pytest.raises(ValueError, match=r"FederatedDataModule\(sampler=RoundRobin\(\)\), not Uniform"):
        fit(fed, data, max_steps=1)


def test_a_budget_stops_before_the_tree_that_would_exceed_it() -> None:
    """Two trees of three rounds fit; the third is not begun."""
    promise = DPFTRL(clip=1.0, noise_multiplier=4.0, delta=1e-5)
    costs = []
    for trees in (2, 3):
        fed = FederatedModule(Net(), privacy=promise)
        fit(fed, FederatedDataModule(people(9), cohort_size=3), max_steps=3 * trees)
        costs.append(fed.private_run.spent)  # type: ignore[union-attr]
    budget = (costs[0] + costs[1]) / 2
    fed = FederatedModule(Net(), privacy=DPFTRL(clip=1.0, noise_multiplier=4.0, delta=1e-5, epsilon=budget))
    run = fit(fed, FederatedDataModule(people(9), cohort_size=3), max_steps=20)
    assert run.global_step == 6
    assert fed.private_run.spent == costs[0]  # type: ignore[union-attr]
