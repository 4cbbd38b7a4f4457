"""The task in PyTorch alone: networks, losses and data of three sites."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

SITES = ("north", "south", "west")
KINDS = ("linear", "large")
BATCH = 16
LR = {"linear": 0.01, "large": 1.0}


class Large(nn.Module):
    """25 million float32, 100 MB. A step is one product, which moves every number: equal pieces would cross once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(25_000, 1000))

    def forward(self, factor: Tensor) -> Tensor:
        return 0.5 * factor * self.weight.square().sum()


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1) if kind == "linear" else Large()


def loss(kind: str, net: nn.Module, batch: Any) -> Tensor:
    x, y = batch
    return nn.functional.mse_loss(net(x), y) if kind == "linear" else net(x.sum())


def rows(kind: str, site: str) -> tuple[Tensor, Tensor]:
    number = SITES.index(site)
    if kind == "large":
        return torch.full((1, 1), 0.01 * (1 + number)), torch.zeros(1, 1)
    drawn = torch.Generator().manual_seed(100 + number)
    x = torch.randn(64 + 8 * number, 2, generator=drawn)
    return x, x @ torch.tensor([[1.0], [-2.0]]) + 0.3 * number


def batches(kind: str, site: str) -> Iterable[tuple[Tensor, Tensor]]:
    x, y = rows(kind, site)
    return zip(x.split(BATCH), y.split(BATCH), strict=True)


def train(kind: str, site: str, net: nn.Module) -> int:
    """Train for an epoch, as a user of PyTorch writes it; return the number of examples."""
    optimizer = torch.optim.SGD(net.parameters(), lr=LR[kind])
    count = 0
    for batch in batches(kind, site):
        optimizer.zero_grad()
        loss(kind, net, batch).backward()
        optimizer.step()
        count += len(batch[0])
    return count
