"""Means of several updates in place of updates, for any aggregator that sees them all."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cohorts import job, stack
from helpers import Rows, Scalar, assert_equal, fit, trainer
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import (
    Aggregator,
    Bucketing,
    Bulyan,
    CenteredClipping,
    CohortAggregator,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NearestNeighborMixing,
    TrimmedMean,
    UniformMean,
    WeightedMean,
)
from lightning_fed.aggregation.robust import Gathered
from lightning_fed.algorithms import Scaffold
from lightning_fed.core.processes import Processes
from lightning_fed.testing.workload import trained
from lightning_fed.transforms import WorkerMomentum
from lightning_fed.wire import Aggregate, Job

INNER: list[CohortAggregator] = [
    *(Median(), TrimmedMean(1), Krum(1), MultiKrum(1), Bulyan(1), GeometricMedian(), CenteredClipping(1.0, 2)),
    *(Bucketing(Median(), size=1), NearestNeighborMixing(Median(), attackers=1)),
]

inner = pytest.mark.parametrize("aggregator", INNER, ids=repr)


def of(aggregator: Aggregator[Any], rows: Any, cohort: int = 0, seed: int = 0, **buffers: Tensor) -> Aggregate:
    delta = torch.as_tensor(rows, dtype=torch.get_default_dtype())
    sent = replace(
        job({"w": torch.zeros(delta.shape[1])}, {name: rows[0] for name, rows in buffers.items()}),
        cohort=cohort,
        seed=seed,
    )
    of_round = aggregator.of_round(sent, {})
    partial = of_round.fold([stack(delta, [1.0] * len(delta), buffers)], sent)
    aggregate: Aggregate = of_round.finish(partial, Processes())
    return aggregate


def gathered(rows: Any) -> Gathered:
    delta = torch.as_tensor(rows, dtype=torch.get_default_dtype())
    return Gathered(tuple(f"w{i}" for i in range(len(delta))), delta, {}, {}, torch.ones(len(delta)))


# ---- bucketing ------------------------------------------------------------------------------------------------------


def dealt(n: int, size: int, cohort: int = 0, seed: int = 0) -> list[list[int]]:
    """Who lies in which bucket."""
    sent = replace(job({"w": torch.zeros(1)}), cohort=cohort, seed=seed)
    shares = Bucketing(Median(), size).of_round(sent, {}).shares(gathered(torch.zeros(n, 1)))
    for row in shares:
        assert row.sum().item() == pytest.approx(1.0)
        assert len(row[row > 0].unique()) == 1
    return [row.nonzero().flatten().tolist() for row in shares]


def test_everyone_is_in_one_bucket_and_the_last_may_be_smaller() -> None:
    buckets = dealt(7, 3)
    assert [len(bucket) for bucket in buckets] == [3, 3, 1]
    assert sorted(worker for bucket in buckets for worker in bucket) == list(range(7))


def test_each_round_and_each_seed_deals_anew_and_again_alike() -> None:
    assert dealt(20, 2, cohort=3, seed=1) == dealt(20, 2, cohort=3, seed=1)
    assert dealt(20, 2, cohort=3, seed=1) != dealt(20, 2, cohort=4, seed=1)
    assert dealt(20, 2, cohort=3, seed=1) != dealt(20, 2, cohort=3, seed=2)


def test_all_pairs_come_together_equally_often() -> None:
    """Six workers in pairs for 1500 rounds: each of 15 pairs 300 times, with a standard deviation of 15.5."""
    pairs = Counter(tuple(sorted(bucket)) for cohort in range(1500) for bucket in dealt(6, 2, cohort))
    assert len(pairs) == 15
    assert all(abs(count - 300) < 5 * 15.5 for count in pairs.values())


def test_the_median_of_means_by_hand() -> None:
    """Of 0, 2, 4, 6 and 100 in pairs: means and median from who is dealt to whom."""
    rows = torch.tensor([[0.0], [2.0], [4.0], [6.0], [100.0]])
    for cohort in range(5):
        means = sorted(rows[bucket].mean().item() for bucket in dealt(5, 2, cohort))
        assert of(Bucketing(Median()), rows, cohort).delta.item() == means[1]
    assert dealt(5, 2) == [[0, 1], [2, 3], [4]]  # means 1, 5 and 100
    assert of(Bucketing(Median()), rows).delta.item() == 5.0


@pytest.mark.usefixtures("double")
@inner
def test_buckets_of_one_are_the_aggregator_alone(aggregator: CohortAggregator) -> None:
    rows = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    buffers = {"mean": torch.randn(9, 2), "n": torch.arange(9), "z": torch.randn(9, dtype=torch.complex128)}
    alone, wrapped = of(aggregator, rows, **buffers), of(Bucketing(aggregator, size=1), rows, **buffers)
    assert_equal(wrapped.delta, alone.delta)
    assert_equal(wrapped.buffers, alone.buffers)


@pytest.mark.usefixtures("double")
def test_one_bucket_is_the_mean() -> None:
    rows = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert_equal(of(Bucketing(Median(), size=5), rows).delta, of(UniformMean(), rows).delta)


def test_it_finds_what_the_median_alone_loses() -> None:
    """Each coordinate is rare: one worker in four has a 4, the others have 0. The mean is 1, and the median 0."""
    rows = 4 * torch.eye(4).repeat(6, 1)
    assert of(Median(), rows).delta.tolist() == [0.0] * 4
    assert of(Bucketing(Median(), size=6), rows).delta.mean().item() == pytest.approx(1.0, abs=0.35)


# ---- nearest neighbours ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_nearest_neighbours_by_hand() -> None:
    """Of 0, 1, 3 and 100 the three nearest of each: 0, 1, 3 of the first three, and 1, 3, 100 of the last."""
    shares = NearestNeighborMixing(Median(), attackers=1).shares(gathered([[0], [1], [3], [100]]))
    mixed = shares @ torch.tensor([0.0, 1.0, 3.0, 100.0])
    assert mixed.tolist() == pytest.approx([4 / 3, 4 / 3, 4 / 3, 104 / 3])
    assert of(NearestNeighborMixing(Krum(0), attackers=1), [[0], [1], [3], [100]]).delta.item() == pytest.approx(4 / 3)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("aggregator", [*INNER[:6], CenteredClipping(100.0)], ids=repr)
def test_without_attackers_everything_is_the_mean(aggregator: CohortAggregator) -> None:
    rows = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    assert_equal(of(NearestNeighborMixing(aggregator, attackers=0), rows).delta, of(UniformMean(), rows).delta)


def test_liars_far_away_are_in_no_honest_workers_mean() -> None:
    rows = torch.cat([torch.randn(7, 4, generator=torch.Generator().manual_seed(0)), torch.full((2, 4), 1e6)])
    shares = NearestNeighborMixing(Median(), attackers=2).shares(gathered(rows))
    assert (shares[:7, 7:] == 0).all()
    centre = rows[:7].mean(dim=0)
    torch.testing.assert_close(of(NearestNeighborMixing(Median(), attackers=2), rows).delta, centre)


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@inner
def test_they_go_around_each_other(aggregator: CohortAggregator) -> None:
    """Of identical updates that one, whatever is around what."""
    rows = torch.tensor([[0.1, -0.2, 0.25]]).expand(16, 3)
    for wrapped in (
        Bucketing(NearestNeighborMixing(aggregator, 1)),
        NearestNeighborMixing(Bucketing(aggregator), 1),
    ):
        assert_equal(of(wrapped, rows).delta, rows[0])


@pytest.mark.parametrize("wrap", [Bucketing, lambda a: NearestNeighborMixing(a, 1)], ids=["buckets", "neighbours"])
def test_what_is_remembered_passes_through(wrap: Any, tmp_path: Path) -> None:
    def run(rounds: int, aggregator: CohortAggregator, **options: Any) -> dict[str, Tensor]:
        federated = FederatedModule(Scalar(), aggregator=aggregator)
        one = trainer(max_steps=rounds)
        one.fit(federated, FederatedDataModule({str(i): Rows([1.0 + i]) for i in range(6)}), **options)
        one.save_checkpoint(tmp_path / f"{rounds}.ckpt")
        return {**federated.server_state, "x": federated.module.x.detach()}

    run(2, wrap(CenteredClipping(0.5)))
    assert_bits = {"rtol": 0, "atol": 0}
    whole = run(4, wrap(CenteredClipping(0.5)))
    resumed = run(4, wrap(CenteredClipping(0.5)), ckpt_path=tmp_path / "2.ckpt")
    torch.testing.assert_close(resumed, whole, **assert_bits)
    assert whole["aggregator.center"].shape == (1,)


def test_the_aggregator_goes_by_what_it_remembers() -> None:
    """In buckets of one, as it would alone; the second round is clipped around the first."""
    rows = torch.tensor([[3.0], [1.0], [0.5]])
    sent, updates = job({"w": torch.zeros(1)}), stack(rows, [1.0] * 3)
    alone, wrapped = CenteredClipping(1.0), Bucketing(CenteredClipping(1.0), size=1)
    for aggregator in (alone, wrapped):
        second = aggregator.of_round(sent, {"center": torch.tensor([2.0])})
        aggregate = second.finish(second.fold([updates], sent), Processes())
        assert aggregate.delta.item() == pytest.approx(2 + (1 - 1 - 1) / 3)


def test_integer_buffers_stay_whole() -> None:
    buffers = {"n": torch.tensor([3, 4, 4, 4, 900]), "half": torch.tensor([1.0, 1, 1, 1, 1], dtype=torch.bfloat16)}
    for wrapped in (Bucketing(Median()), NearestNeighborMixing(Median(), 2)):
        aggregate = of(wrapped, torch.zeros(5, 2), **buffers)
        assert aggregate.buffers["n"].item() == 4
        assert aggregate.buffers["half"].dtype == torch.bfloat16


def test_what_an_algorithm_sends_besides_is_mixed_alike() -> None:
    rows = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    sent: Job = replace(job({"w": torch.zeros(2)}), extra=("besides",))
    updates = replace(stack(rows, [1.0] * 6), extra={"besides": 3 * rows})
    for wrapped in (Bucketing(Median()), NearestNeighborMixing(Krum(1), 1)):
        aggregate = wrapped.finish(wrapped.fold([updates], sent), Processes())
        torch.testing.assert_close(aggregate.extra["besides"], 3 * aggregate.delta)


# ---- preconditions --------------------------------------------------------------------------------------------------


def test_the_aggregator_is_asked_about_buckets() -> None:
    wrapped = Bucketing(Krum(2), size=2)
    wrapped.check(13)
    with pytest.raises(
        ValueError, match=r"makes 6 means of n=12 workers, .*Krum\(attackers=2\) needs n >= 2 attackers"
    ):
        wrapped.check(12)
    data = FederatedDataModule({str(i): Rows([1.0]) for i in range(12)})
    with pytest.raises(ValueError, match=r"Bucketing\(aggregator=Krum\(attackers=2\), size=2\) makes 6 means"):
        fit(FederatedModule(Scalar(), aggregator=wrapped), data)


def test_half_of_the_workers_are_too_many_attackers() -> None:
    NearestNeighborMixing(Median(), 2).check(5)
    with pytest.raises(ValueError, match=r"NearestNeighborMixing.* needs attackers < n/2, but n=4 workers"):
        NearestNeighborMixing(Median(), 2).check(4)


def test_a_warning_of_the_aggregator_is_about_buckets() -> None:
    assert Bucketing(MultiKrum(1, 4), size=2).beyond_proof(14) is None
    assert "n - attackers - 2 = 3 of n=6" in str(Bucketing(MultiKrum(1, 4), size=2).beyond_proof(12))


@pytest.mark.parametrize("wrap", [Bucketing, lambda a: NearestNeighborMixing(a, 1)], ids=["buckets", "neighbours"])
def test_what_cannot_be_right_is_refused(wrap: Any) -> None:
    with pytest.raises(ValueError, match="no number of examples to count by; let workers count equally"):
        wrap(GeometricMedian(weighted=True))
    with pytest.raises(
        TypeError, match=r"aggregator\) must be a CohortAggregator, such as Median\(\), not WeightedMean"
    ):
        wrap(WeightedMean())


# ---- in a fit -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_engines_come_to_the_same() -> None:
    """With workers' momentum; the isolated engine bit for bit."""

    def run(engine: Any) -> dict[str, Tensor]:
        aggregator = Bucketing(NearestNeighborMixing(CenteredClipping(0.05, iterations=2), attackers=1))
        federated = trained(
            Scaffold(), rounds=2, aggregator=aggregator, transforms=[WorkerMomentum(0.5)], engine=engine
        )
        own = {f"{t} {worker}": row for t, rows in federated.own_state.items() for worker, row in rows.items()}
        return {**federated.module.state_dict(), **federated.server_state, **own}

    sequential = run("sequential")
    torch.testing.assert_close(run("isolated"), sequential, rtol=0, atol=0)
    assert_equal(run("vectorized"), sequential)
