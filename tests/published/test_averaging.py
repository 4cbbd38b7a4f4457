"""Tiny versions of the studies of averages: the product beside the loop by hand, on made-up data, in double."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

import bucketing
import mcmahan
import pytest
import torch
from by_hand import Share, federated_averaging, in_order, some
from studies import assert_trained_alike, examples
from torch import nn
from torch.utils.data import TensorDataset

from lightning_fed import Uniform
from lightning_fed.datasets import IID, PartitionedPopulation, Partitioner, Shards

ROUNDING = 1e-12
"""Some tens of steps and sums in another order, on numbers below 1."""


TRAIN, TEST = examples(600, 1), examples(50, 2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10)).double()


def shares(partitioner: Partitioner) -> list[Share]:
    """What each worker holds, in order."""
    workers = PartitionedPopulation(TensorDataset(*TRAIN), partitioner)
    parts = [torch.tensor(workers[name].train_set.indices) for name in workers]
    return [(TRAIN[0][part], TRAIN[1][part]) for part in parts]


@pytest.mark.parametrize("partitioner", [partial(IID, 100), partial(Shards, 100, 2)])
@pytest.mark.parametrize(("cohort", "epochs"), [(10, 1), (100, 2)])
def test_federated_averaging(
    monkeypatch: pytest.MonkeyPatch, partitioner: partial[Partitioner], cohort: int, epochs: int
) -> None:
    monkeypatch.setattr(mcmahan, "digits", lambda folder: (TRAIN, TEST))
    ours, by_hand = network(), network()
    curve = mcmahan.ours(
        Namespace(mnist="", rounds=3),
        0,
        network=lambda: ours,
        partitioner=lambda seed: partitioner(seed=seed),
        cohort=cohort,
        epochs=epochs,
        batch_size=4,
        lr=0.3,
        target=101,
        shuffle=False,
    )
    expected = federated_averaging(
        by_hand,
        shares(partitioner(seed=0)),
        TEST,
        rounds=3,
        cohort=lambda round: Uniform().sample(100, cohort, round, seed=0),
        batches=in_order(4, epochs),
        lr=0.3,
    )
    assert_trained_alike(ours, by_hand, network, ROUNDING)
    assert curve == [(at, pytest.approx(accuracy)) for at, accuracy in expected]


@pytest.mark.parametrize("rule", bucketing.RULES)
@pytest.mark.parametrize("iid", [False, True])
def test_robust_aggregation(monkeypatch: pytest.MonkeyPatch, rule: str, iid: bool) -> None:
    aggregator, combine = bucketing.RULES[rule]
    monkeypatch.setattr(bucketing, "digits", lambda folder: (TRAIN, TEST))
    monkeypatch.setattr(bucketing, "EPOCH", 1)
    ours, by_hand = network(), network()
    options = Namespace(mnist="", rounds=4)
    curve = bucketing.ours(options, 0, iid=iid, aggregator=aggregator, network=lambda: ours, shuffle=False)
    expected = federated_averaging(
        by_hand,
        shares(IID(24, seed=0) if iid else Shards(24, 1, seed=0)),
        TEST,
        rounds=4,
        cohort=lambda round: range(24),
        batches=some(in_order(bucketing.BATCH, 1), 1),
        lr=bucketing.LR,
        combine=combine(),
    )
    assert_trained_alike(ours, by_hand, network, ROUNDING)
    assert curve == [(at, pytest.approx(accuracy)) for at, accuracy in expected]


def test_buckets() -> None:
    """Two rounds: what is dealt is drawn anew, and each update is in one bucket."""
    updates = torch.arange(24.0, dtype=torch.float64).unsqueeze(1)
    seen = []

    def combine(rows: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        seen.append(rows)
        return rows.mean(dim=0)

    means = bucketing.in_buckets(combine, seed=0)
    assert [means(updates, torch.ones(24)).item() for _ in range(2)] == [11.5, 11.5]
    assert seen[0].shape == (12, 1)
    assert not torch.equal(seen[0].sort(dim=0).values, seen[1].sort(dim=0).values)
