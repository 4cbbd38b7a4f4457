"""A tiny version of NIID-Bench: FedAvg, FedProx and FedNova under momentum, beside the loop by hand, in double."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import niid_bench
import pytest
import torch
from by_hand import federated_averaging, in_order
from niid_bench import ALGORITHMS, BATCH, DECAY, EPOCHS, LR, MOMENTUM, SPLITS, WORKERS, workers_of
from studies import assert_trained_alike
from torch import nn

ROUNDING = 1e-11
"""Some hundred steps, and sums in another order, on numbers of the size of 1."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10)).double()


@pytest.mark.parametrize("split", ["Dir(0.5)", "#C=2"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_it_is_the_loop_by_hand(monkeypatch: pytest.MonkeyPatch, split: str, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(1300) % 10
    x = torch.randn(1300, 6, generator=generator, dtype=torch.float64) + torch.nn.functional.one_hot(label, 10)[:, :6]
    train, test = (x[:1200], label[:1200]), (x[1200:], label[1200:])
    monkeypatch.setattr(niid_bench, "pictures", lambda folder: (train, test))
    algorithm, mu, combine = ALGORITHMS[name]
    ours, by_hand = network(), network()
    settings: dict[str, Any] = {"partitioner": SPLITS[split], "algorithm": algorithm, "network": lambda: ours}
    niid_bench.ours(Namespace(fashion_mnist="", rounds=2), 0, shuffle=False, **settings)
    workers = workers_of(train, SPLITS[split], 0)
    parts = [torch.as_tensor(workers[worker].train_set.indices) for worker in workers]
    assert len({-(-len(part) // BATCH) for part in parts}) > 1 or split == "#C=2", "all take as many steps"
    federated_averaging(
        by_hand,
        [(train[0][part], train[1][part]) for part in parts],
        test,
        rounds=2,
        cohort=lambda round: range(WORKERS),
        batches=in_order(BATCH, EPOCHS),
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        mu=mu,
        combine=combine,
    )
    assert_trained_alike(ours, by_hand, network, ROUNDING)
