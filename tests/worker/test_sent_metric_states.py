"""States of torchmetrics objects that anyone may have sent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from lightning_fed.worker.sent_metrics import SentMetrics, difference


class Measured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(num_classes=3)


def states() -> dict[str, dict[str, Tensor]]:
    """Those of a worker, as they cross."""
    module = Measured()
    module.accuracy(torch.tensor([0, 1]), torch.tensor([0, 2]))
    return {
        kind: {name: tensor.unsqueeze(0) for name, tensor in own.items()}
        for kind, own in SentMetrics(module).states().items()
    }


def test_those_of_a_worker_are_taken() -> None:
    assert difference(Measured(), states()) is None
    assert difference(Measured(), {}) is None


@pytest.mark.parametrize(
    ("kind", "name", "tensor", "words"),
    [
        ("sum", "accuracy.tp", torch.zeros(1, 4), "has the shape [4], not [3]"),
        ("max", "accuracy.tp", torch.zeros(1, 3), "has a state 'accuracy.tp' to max"),
        ("sum", "other.tp", torch.zeros(1, 3), "has a state 'other.tp' to sum"),
        ("sum", "accuracy._update_count", torch.tensor([float("nan")]), "is no number of updates"),
        ("sum", "accuracy._update_count", torch.tensor([-1]), "is no number of updates"),
        ("sum", "accuracy.tp", torch.zeros(1, 3, dtype=torch.complex64), "has the shape"),
    ],
)
def test_what_cannot_be_a_workers_is_said(kind: str, name: str, tensor: Tensor, words: str) -> None:
    given = states()
    given.setdefault(kind, {})[name] = tensor
    assert words in (difference(Measured(), given) or "")
