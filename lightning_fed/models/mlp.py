"""A multilayer perceptron that classifies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import listed, number, whole


@final
class MLPClassifier(pl.LightningModule):
    """Flatten, a stack of Linear and ReLU, cross entropy (mean over the batch), SGD.

    Logs ``train_loss``, ``train_acc``, ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc``; the accuracies are
    torchmetrics objects (micro average: the share of examples classified rightly), one per stage.

    Args:
        in_features: Values of an example once flattened.
        hidden: The width of each hidden layer; empty for multinomial logistic regression.
        classes: The number of classes.
        lr: The learning rate.
        momentum: The momentum of SGD.
        weight_decay: The weight decay of SGD: the weight of half the squared norm in the loss.

    Raises:
        TypeError: If an argument is not a number, or ``hidden`` is not a list.
        ValueError: If an argument is out of range.

    Example::

        >>> import torch
        >>> model = MLPClassifier(in_features=4, hidden=(8, 8), classes=3)
        >>> model(torch.zeros(5, 2, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        in_features: int = 64,
        hidden: Sequence[int] = (64,),
        classes: int = 10,
        lr: float = 0.3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [
            whole("in_features", in_features, least=1),
            *(
                whole(f"hidden[{i}]", width, least=1)
                for i, width in enumerate(listed("hidden", hidden, what="widths, such as [64]"))
            ),
        ]
        classes = whole("classes", classes, least=2)
        lr, weight_decay = number("lr", lr, least=0), number("weight_decay", weight_decay, least=0)
        momentum = number("momentum", momentum, least=0, below=1)
        self.save_hyperparameters()
        layers: list[nn.Module] = [nn.Flatten()]
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(widths[-1], classes))
        # validate_args=False: cross entropy already refuses bad labels, and the checks would wait for the device.
        self.train_acc = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.val_acc = MulticlassAccuracy(classes, average="micro", validate_args=False)
        self.test_acc = MulticlassAccuracy(classes, average="micro", validate_args=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Score: float ``[n, ...]`` with ``in_features`` values an example -> logits, float ``[n, classes]``."""
        logits: Tensor = self.net(x)
        return logits

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the mean cross entropy of ``(x, label)``, labels int64 ``[n]``; a scalar."""
        return self._step(batch, "train", self.train_acc)

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``val_loss`` and ``val_acc``."""
        self._step(batch, "val", self.val_acc)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``test_loss`` and ``test_acc``."""
        self._step(batch, "test", self.test_acc)

    @override
    def predict_step(self, batch: Tensor | tuple[Tensor, ...] | list[Tensor], batch_idx: int) -> Tensor:
        """Return the logits for a batch that is ``x`` or begins with it, as ``(x, label)`` does."""
        logits: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return logits

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return ``SGD(lr, momentum, weight_decay)`` over all parameters."""
        settings = {name: self.hparams[name] for name in ("lr", "momentum", "weight_decay")}
        return torch.optim.SGD(self.parameters(), **settings)

    def _step(self, batch: tuple[Tensor, Tensor], stage: str, accuracy: MulticlassAccuracy) -> Tensor:
        x, label = batch
        logits = self(x)
        loss = cross_entropy(logits, label)
        accuracy(logits, label)
        self.log(f"{stage}_loss", loss, batch_size=len(x))
        self.log(f"{stage}_acc", accuracy, batch_size=len(x))
        return loss
