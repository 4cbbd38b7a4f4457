"""Generators that a data set keeps for itself draw in a round what no other round and no cache decides."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Scalar, fit
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.population import batches_of


class Noise:
    """A transform with a generator of its own."""

    def __init__(self, kind: str) -> None:
        made: dict[str, Any] = {
            "torch": torch.Generator().manual_seed(0),
            "numpy": np.random.default_rng(0),
            "legacy": np.random.RandomState(0),
            "python": random.Random(0),
        }
        self.generator = made[kind]

    def __call__(self, value: float) -> float:
        if isinstance(self.generator, torch.Generator):
            return value + torch.randn((), generator=self.generator, dtype=torch.float64).item()
        if isinstance(self.generator, random.Random):
            return value + self.generator.gauss(0, 1)
        return value + self.generator.standard_normal()


class Noisy(Dataset[Tensor]):
    def __init__(self, *transforms: Callable[[float], float]) -> None:
        self.options = {"transforms": list(transforms)}
        self.values = [float(n) for n in range(6)]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [torch.tensor(transform(self.values[index])) for transform in self.options["transforms"]]


class NoisyData(pl.LightningDataModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def setup(self, stage: str) -> None:
        self.rows = Noisy(Noise(self.kind))

    def train_dataloader(self) -> Any:
        return DataLoader(Subset(self.rows, range(5)), batch_size=2)


@pytest.mark.parametrize("kind", ["torch", "numpy", "legacy", "python"])
@pytest.mark.usefixtures("double")
def test_what_a_data_set_draws_depends_on_no_cache(kind: str) -> None:
    ends = []
    for cached in (1, 3):
        module = Scalar(lr=0.5)
        data = FederatedDataModule({name: NoisyData(kind) for name in "abc"}, cached_workers=cached)
        fit(FederatedModule(module, engine="sequential"), data, max_epochs=3)
        ends.append(module.x.item())
    assert ends[0] == ends[1]


@pytest.mark.parametrize("kind", ["torch", "numpy", "legacy", "python"])
def test_every_round_draws_anew_and_no_two_transforms_draw_alike(kind: str) -> None:
    batches = batches_of(DataLoader(Noisy(Noise(kind), Noise(kind)), batch_size=6))
    drawn = []
    for seed in (1, 2, 1):
        batches.reseed(seed)
        (((one, other), _),) = batches
        assert not torch.equal(one, other)
        drawn.append(one)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


class Endless:
    """Refers to itself, and to more objects than are looked at."""

    def __init__(self) -> None:
        self.me = self
        self.many = [[object() for _ in range(50)] for _ in range(50)]


def test_a_data_set_that_refers_to_itself_is_looked_at_once() -> None:
    rows = Noisy(Noise("numpy"))
    rows.options["endless"] = [Endless()]
    batches_of(DataLoader(rows, batch_size=6)).reseed(1)
