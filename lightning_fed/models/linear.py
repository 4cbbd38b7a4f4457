"""Linear regression as in the notebook: plain SGD on the *sum* of squared errors."""

from __future__ import annotations

import warnings
from typing import final

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import number, whole


@final
class LinearRegression(pl.LightningModule):
    """One linear layer, trained with ``SGD(lr)`` on the sum of squared errors over the batch.

    Logs ``train_loss``, ``val_loss`` and ``test_loss``: the sum over the batch. Pooled over several batches such a sum
    depends on the batch size, so validation and test also log the mean squared error, ``val_mse`` and ``test_mse``.

    Args:
        in_features: Features of an example.
        out_features: Values predicted for an example.
        lr: The learning rate. The loss is a sum, so a larger batch takes a proportionally larger step.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    .. warning::
        A target whose shape differs from the prediction's broadcasts as torch broadcasts it, so that the notebook
        can be replayed: targets ``[n, 2]`` against predictions ``[n, 1]`` count every example twice, targets ``[n]``
        compare every prediction with every target. A ``UserWarning`` names both shapes, once per pair of shapes.

    Example::

        >>> import torch
        >>> model = LinearRegression(2, 1)
        >>> _ = torch.nn.init.ones_(model.linear.weight), torch.nn.init.zeros_(model.linear.bias)
        >>> model(torch.tensor([[1.0, 2.0]])).tolist()
        [[3.0]]
    """

    def __init__(self, in_features: int, out_features: int, lr: float = 0.1) -> None:
        super().__init__()
        in_features = whole("in_features", in_features, least=1)
        out_features = whole("out_features", out_features, least=1)
        lr = number("lr", lr, least=0)
        self.save_hyperparameters()
        self.linear = nn.Linear(in_features, out_features)
        self._warned_shapes: set[tuple[torch.Size, torch.Size]] = set()

    @override
    def forward(self, x: Tensor) -> Tensor:
        """Predict: float ``[n, in_features]`` -> float ``[n, out_features]``."""
        prediction: Tensor = self.linear(x)
        return prediction

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the sum of squared errors of ``(x, target)``, a scalar."""
        loss = self._squared_errors(batch).sum()
        self.log("train_loss", loss, batch_size=len(batch[0]))
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``val_loss`` and ``val_mse``."""
        self._evaluate(batch, "val")

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log ``test_loss`` and ``test_mse``."""
        self._evaluate(batch, "test")

    @override
    def predict_step(self, batch: Tensor | tuple[Tensor, ...] | list[Tensor], batch_idx: int) -> Tensor:
        """Predict for a batch that is ``x`` or begins with it, as ``(x, target)`` does."""
        prediction: Tensor = self(batch if isinstance(batch, Tensor) else batch[0])
        return prediction

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return ``SGD(lr)`` over all parameters."""
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"])

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str) -> None:
        errors = self._squared_errors(batch)
        self.log_dict({f"{stage}_loss": errors.sum(), f"{stage}_mse": errors.mean()}, batch_size=len(batch[0]))

    def _squared_errors(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, target = batch
        prediction: Tensor = self(x)
        shapes = (target.shape, prediction.shape)
        # Stored here: Python clears its registry of issued warnings whenever the warning filters change.
        if target.shape != prediction.shape and shapes not in self._warned_shapes:
            self._warned_shapes.add(shapes)
            warnings.warn(
                f"the target's shape {tuple(target.shape)} differs from the prediction's {tuple(prediction.shape)}, "
                "so the two broadcast; reshape the target unless that is what you want",
                UserWarning,
                stacklevel=2,
            )
        return (prediction - target) ** 2
