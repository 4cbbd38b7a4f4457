"""A tiny version of the study of drift: SCAFFOLD and FedDyn beside their loops by hand, in double."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import drift
import pytest
import torch
from by_hand import federated_averaging, in_order
from drift import ALGORITHMS, BATCH, COHORT, WORKERS
from studies import assert_trained_alike, examples
from study import Curve
from torch import nn
from torch.utils.data import TensorDataset

from lightning_fed import Uniform
from lightning_fed.algorithms import Algorithm
from lightning_fed.datasets import PartitionedPopulation, Shards

ROUNDING = 1e-11
"""Some tens of steps, and two ways to a mean gradient, on numbers of the size of 1."""

ROUNDS, EPOCHS, LR = 8, 2, 0.3


TRAIN, TEST = examples(20 * WORKERS, 1), examples(50, 2)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 10).double()


def run(
    monkeypatch: pytest.MonkeyPatch, algorithm: Algorithm, loop: Callable[..., Curve]
) -> tuple[nn.Module, nn.Module, Curve, Curve]:
    """Both networks after some rounds, of which most workers take part in more than one, and both curves."""
    monkeypatch.setattr(drift, "digits", lambda folder: (TRAIN, TEST))
    ours, by_hand = network(), network()
    curve = drift.ours(
        *(Namespace(mnist="", rounds=ROUNDS), 0),
        **{"algorithm": algorithm, "epochs": EPOCHS, "lr": LR, "target": 101.0},
        **{"network": lambda: ours, "shuffle": False},
    )
    workers = PartitionedPopulation(TensorDataset(*TRAIN), Shards(WORKERS, 1, seed=0))
    parts = [torch.tensor(workers[name].train_set.indices) for name in workers]
    assert all(len(TRAIN[1][part].unique()) == 1 for part in parts), "a worker holds one digit"
    assert all(len(part) > BATCH for part in parts), "a worker takes several steps"
    expected = loop(
        by_hand,
        [(TRAIN[0][part], TRAIN[1][part]) for part in parts],
        TEST,
        rounds=ROUNDS,
        cohort=lambda round: Uniform().sample(WORKERS, COHORT, round, seed=0),
        batches=in_order(BATCH, EPOCHS),
        lr=LR,
    )
    return ours, by_hand, curve, expected


@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_is_the_loop_by_hand(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ours, by_hand, curve, expected = run(monkeypatch, *ALGORITHMS[name])
    assert_trained_alike(ours, by_hand, network, ROUNDING)
    assert curve == [(at, pytest.approx(accuracy)) for at, accuracy in expected]


@pytest.mark.parametrize("name", ["SCAFFOLD", "FedDyn"])
def test_the_loop_tells_it_from_fedavg(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    ours, by_hand, *_ = run(monkeypatch, ALGORITHMS[name][0], federated_averaging)
    for mine, theirs in zip(ours.parameters(), by_hand.parameters(), strict=True):
        assert (mine - theirs).abs().max() > 0.01
