"""What the tests of privacy share: updates and runs by hand, and noise that can be seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl
from lightning_fed.core.processes import Processes
from lightning_fed.privacy import Noise, Privacy, PrivateRun, Setting
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.wire import Aggregate, GlobalModel, Job, LocalTraining, Updates

EVERYONE = Setting(population=10, cohort_size=10, sampling=None, rounds=None, seed=0, dimension=2**20)


def job(size: int = 2, buffers: dict[str, Tensor] | None = None, **options: Any) -> Job:
    """A job for a model with one parameter ``w`` of zeros."""
    return Job(0, 0, 0, GlobalModel({"w": torch.zeros(size)}, buffers or {}), LocalTraining(), **options)


def updates(rows: Sequence[Sequence[float]] | Tensor, **changes: Any) -> Updates:
    """Updates of workers ``w0``, ``w1``, ... with one example each."""
    delta = torch.as_tensor(rows, dtype=torch.get_default_dtype())
    n = len(delta)
    ones = torch.ones(n, dtype=torch.float64)
    plain = Updates(0, tuple(f"w{i}" for i in range(n)), delta, {}, ones, ones, ones, ones)
    return replace(plain, **changes)


def began(privacy: Privacy, cohort_size: int = 10, **setting: Any) -> PrivateRun:
    """A run with everyone in every round."""
    return privacy.start(EVERYONE._replace(population=cohort_size, cohort_size=cohort_size, **setting))


def sent(privacy: Privacy, run: PrivateRun, stack: Updates) -> Updates:
    """Updates that have left the workers, by their half of a promise."""
    return privacy.at_worker(stack, privacy.job(job(stack.delta.shape[1]), run))


def released(privacy: Privacy, run: PrivateRun, *stacks: Updates, to: Job | None = None) -> Aggregate:
    """One round's aggregate by the server's part of a promise, of stacks that have left the workers."""
    aggregator = privacy.aggregator(run)
    assert isinstance(aggregator, PrivateSum)
    to = to or job(stacks[0].delta.shape[1] if stacks else 2)
    return aggregator.finish(aggregator.fold(stacks, to), Processes())


class Seen:
    """Noise that is as large as its standard deviation, times a factor; and what it was drawn for.

    Args:
        patch: Puts it in the place of all noise.
        factor: 0: no noise at all.
    """

    def __init__(self, patch: pytest.MonkeyPatch, factor: float = 1.0) -> None:
        self.draws: list[tuple[int, float, tuple[int | str, ...]]] = []

        def gaussian(_: Noise, size: int, std: float, *keys: int | str) -> Tensor:
            self.draws.append((size, std, keys))
            return torch.full((size,), factor * std, dtype=torch.float64)

        patch.setattr(Noise, "gaussian", gaussian)


class Net(pl.LightningModule):
    """Two layers of a regression; logs its loss."""

    def __init__(self, hidden: int = 4, lr: float = 0.1, norm: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.body = nn.Linear(3, hidden)
        self.norm = nn.BatchNorm1d(hidden) if norm else nn.Identity()
        self.head = nn.Linear(hidden, 1)
        self.lr = lr

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.tanh(self.norm(self.body(x))))
        return y

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class ValidatedNet(Net):
    """The same with evaluation."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    test_step = validation_step


class Points(pl.LightningDataModule):
    """Points on a plane; each worker's own."""

    def __init__(self, seed: int, n: int = 6, batch_size: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 3, generator=generator)
        self.set = TensorDataset(x, x.sum(dim=1, keepdim=True) + 0.1 * seed)
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=self.batch_size, shuffle=True)


class ValidatedPoints(Points):
    """The same for evaluation."""

    def val_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=self.batch_size)

    test_dataloader = val_dataloader


def people(n: int = 10, kind: type[Points] = Points) -> dict[str, Points]:
    """n workers, ``w0`` and so on."""
    return {f"w{i}": kind(i) for i in range(n)}


def weights(module: nn.Module) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()
