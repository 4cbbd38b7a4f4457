"""Made-up data for tiny versions of the studies, and the comparison with their loops by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def examples(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Ten classes that a network can learn."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(count) % 10
    means = torch.randn(10, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return means[label] + 0.5 * torch.randn(count, 6, generator=generator, dtype=torch.float64), label


def assert_trained_alike(ours: nn.Module, by_hand: nn.Module, start: Callable[[], nn.Module], atol: float) -> None:
    """Compare two networks that began as a third, from which training has moved them."""
    before = dict(start().named_parameters())
    for (name, mine), theirs in zip(ours.named_parameters(), by_hand.parameters(), strict=True):
        assert not torch.allclose(mine, before[name]), "nothing was trained"
        torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)
