"""The task: 1000 workers with 50 random points each, batch 10, one local epoch, SGD 0.1, plain averaging.

Torch is imported where it is used, because FedJAX's environment has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

POPULATION, POINTS, BATCH, LR = 1000, 50, 10, 0.1


@dataclass(frozen=True)
class Kind:
    """One size of the task."""

    shape: tuple[int, ...]
    cohort: int


KINDS = {
    "linear": Kind((60,), 100),
    "mlp": Kind((1, 28, 28), 50),
    "cnn": Kind((3, 32, 32), 50),
    "transformer": Kind((32, 64), 50),
}


def network(kind: str) -> nn.Module:
    import torch
    from torch import nn

    torch.manual_seed(0)
    if kind == "linear":
        return nn.Linear(60, 10)
    if kind == "mlp":
        hidden = [nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(200, 10))
    if kind == "transformer":  # two layers over 32 tokens, without dropout
        layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=256, dropout=0.0, batch_first=True)
        return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(32 * 64, 10))
    return nn.Sequential(  # the CIFAR10 network of apple/pfl-research's benchmark
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(64 * 14 * 14, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )


@cache
def points(kind: str, worker: int) -> tuple[Tensor, Tensor]:
    import torch

    generator = torch.Generator().manual_seed(1000 + worker)
    x = torch.randn(POINTS, *KINDS[kind].shape, generator=generator)
    return x, torch.randint(10, (POINTS,), generator=generator)
