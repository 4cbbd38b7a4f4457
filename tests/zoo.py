"""Modules of many kinds on one small task, for comparing engines: 8 numbers in, 3 classes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

from lightning_fed._lightning import pl

CLASSES = 3


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.view(-1, 2, 4)
        return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(dim=1))


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embedding(x.abs().mul(3).long().clamp(max=4)).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 5, batch_first=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.view(-1, 2, 4))[0][:, -1])


class HalfUsed(nn.Module):
    """One layer takes no part, so it has no gradient, and weight decay must leave it alone."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(8, CLASSES)
        self.idle = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    net[0].requires_grad_(False)
    return net


NETS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, CLASSES),
    "mlp": lambda: nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, CLASSES)),
    "cnn": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)), nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(9, CLASSES)
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES)
    ),
    "group norm": lambda: nn.Sequential(nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.LayerNorm(6), nn.Linear(6, CLASSES)),
    "dropout off": lambda: nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.0), nn.Linear(6, CLASSES)),
    "embedding": Embedded,
    "attention": Attention,
    "frozen layer": frozen,
    "idle layer": HalfUsed,
}

OPTIMIZERS: Mapping[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "weight decay": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.3, momentum=0.5),
    # With an eps that hides rounding: a bias before a batch norm has a gradient of 0, and these divide it by its size.
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, eps=1e-3, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, eps=1e-2, momentum=0.5),
}


class Zoo(pl.LightningModule):
    """A classifier around any net, which logs a number, a tensor and torchmetrics objects."""

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[[Any], Any] = OPTIMIZERS["sgd"],
        metrics: bool = False,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro") if metrics else None
        self.several = (
            MetricCollection([MulticlassAccuracy(CLASSES), MulticlassF1Score(CLASSES)], prefix="train_")
            if metrics
            else None
        )

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x.to(self.dtype))
        loss = nn.functional.cross_entropy(logits, y)
        self.log("train_loss", loss)
        self.log("largest", logits.max(), reduce_fx="max")
        self.log("steps", 1.0, reduce_fx="sum")
        if batch_idx == 1:
            self.log("second", loss, batch_size=1)
        if self.accuracy is not None and self.several is not None:
            value = self.accuracy(logits, y)
            self.log("batch_accuracy", value)
            self.log("accuracy", self.accuracy)
            self.several.update(logits, y)
            self.log_dict(self.several)
        return {"loss": loss, "logits": logits}

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Points(pl.LightningDataModule):
    """Random points of one worker."""

    def __init__(self, seed: int, examples: int, batch_size: int = 4, drop_last: bool = False, **loader: Any) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(examples, 8, generator=generator, dtype=torch.float64)
        self.rows = TensorDataset(x, torch.randint(CLASSES, (examples,), generator=generator))
        self.loader: dict[str, Any] = {"batch_size": batch_size, "drop_last": drop_last, "shuffle": True, **loader}

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, **self.loader)


__all__ = ["NETS", "OPTIMIZERS", "Points", "Recurrent", "Zoo"]
