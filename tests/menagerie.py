"""Modules of all the kinds that engines must agree on; in a file of its own, which child processes import."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_fed._lightning import pl

CLASSES = 3


class Examples(pl.LightningDataModule):
    """One worker's points: 8 numbers in, one of 3 classes out; no batch of one, which BatchNorm refuses."""

    def __init__(self, seed: int, n: int = 7, batch_size: int = 4, shift: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 8, generator=generator, dtype=torch.float64) + shift
        self.rows = TensorDataset(x.to(torch.get_default_dtype()), torch.randint(CLASSES, (n,), generator=generator))
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=self.batch_size, shuffle=True)


class Member(pl.LightningModule):
    """Two layers, ``body`` and ``head``, by SGD with momentum."""

    def __init__(self) -> None:
        super().__init__()
        self.body: nn.Module = nn.Linear(8, 6)
        self.head: nn.Module = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x)))
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


class Teacher(Member):
    """A mean teacher, which follows the student and pulls at it."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.body).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        with torch.no_grad():
            for mean, now in zip(self.teacher.parameters(), self.body.parameters(), strict=True):
                mean.mul_(0.9).add_(now, alpha=0.1)
        return loss + 0.1 * (self.teacher(batch[0]) - self.body(batch[0])).square().mean()


class Late(Member):
    """Registers a buffer as it trains first, and lets another grow."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("grows", torch.zeros(0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        centre = batch[0].mean(dim=0)
        if not hasattr(self, "centre"):
            self.register_buffer("centre", centre.clone())
        self.centre = 0.9 * self.centre + 0.1 * centre
        if not len(self.grows):
            self.grows = torch.ones(3)
        return super().training_step([batch[0] - self.centre, batch[1]], batch_idx)


class Annealed(Member):
    """The weight of a penalty and a dropout's ``p``, which the server changes between rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0.0
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(torch.tanh(self.body(x))))
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + self.weight * self.body.weight.square().sum()


class Anneals(pl.Callback):
    """The server's side of it."""

    def on_train_batch_end(self, trainer: Any, federated: Any, *_: Any) -> None:
        if isinstance(federated.module, Annealed):
            federated.module.weight += 0.05
            federated.module.dropout.p = 0.5


class Measured(Member):
    """torchmetrics, as attributes and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.others = [MulticlassAccuracy(CLASSES)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self(batch[0])
        self.accuracy(logits, batch[1])
        self.others[0].to(self.device)  # Lightning moves metrics that are attributes
        self.others[0].update(logits, batch[1])
        self.log("accuracy", self.accuracy)
        self.log("macro", self.others[0])
        return super().training_step(batch, batch_idx)


class Dropping(Member):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5))


class Normalised(Member):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6))


class Tied(Member):
    """An encoder whose weight is the decoder's too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)
        self.again.weight = self.body.weight
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.again(torch.tanh(self.body(x)))))
        return logits


class Complex(Member):
    def __init__(self) -> None:
        super().__init__()
        dtype = torch.complex128 if torch.get_default_dtype() is torch.float64 else torch.complex64
        self.phases = nn.Parameter(torch.polar(torch.full((8,), 1.0), torch.linspace(0.0, 1.0, 8)).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((self.phases * x).real + (self.phases * x).imag)


class Padded(Member):
    """Embeddings of which one stands for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Embedding(5, 6, padding_idx=0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.body(x.abs().mul(2).long().clamp(max=4)).mean(dim=1)))
        return logits


class Transformer(Member):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, dropout=0.1, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x.view(-1, 2, 4)).mean(dim=1))
        return logits


class ByAdam(Member):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01, eps=1e-3)


class Scheduled(Member):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        steps = self.trainer.estimated_stepping_batches
        last = 1 if math.isinf(steps) else int(steps)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=last)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Hooked(Member):
    """A hook of its own around a step."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.5)


class Remembering(Member):
    """Keeps a number on itself, which is set back."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.steps += 1
        return super().training_step(batch, batch_idx) * self.steps


MEMBERS: Mapping[str, Callable[[], Member]] = {
    "teacher": Teacher,
    "late buffers": Late,
    "attributes": Annealed,
    "torchmetrics": Measured,
    "dropout": Dropping,
    "batch norm": Normalised,
    "tied": Tied,
    "complex": Complex,
    "padding": Padded,
    "transformer": Transformer,
    "adam": ByAdam,
    "scheduler": Scheduled,
    "hook": Hooked,
    "remembering": Remembering,
}

ONE_BY_ONE = {
    "late buffers": "registers a buffer",
    "hook": "on_before_optimizer_step",
    "remembering": "attribute 'steps'",
}
"""Members that cannot train together, and a part of the reason."""


def member(name: str) -> Member:
    """Build a member, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MEMBERS[name]()


def cohort(**shift: float) -> dict[str, pl.LightningDataModule]:
    """Four workers of different sizes.

    Args:
        shift: By what to move a worker's data.
    """
    sizes = {"ann": 7, "bob": 4, "cyd": 10, "dee": 6}
    return {name: Examples(i, n, shift=shift.get(name, 0.0)) for i, (name, n) in enumerate(sizes.items())}
