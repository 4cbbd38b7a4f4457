"""Small modules and datamodules that many tests share."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl
from lightning_fed.module import FederatedModule
from lightning_fed.server.datamodule import FederatedDataModule

# Lightning 2.5 reads checkpoints as torch 2.4 does, and cannot be told which objects to trust.
_HAS_A_SAY = "weights_only" in inspect.signature(pl.Trainer.fit).parameters
TRUSTED: dict[str, Any] = {"weights_only": False} if _HAS_A_SAY else {}
"""How a Trainer is told to read any object in a checkpoint."""
UNTRUSTED: dict[str, Any] = {"weights_only": True} if _HAS_A_SAY else {}
"""How it is told to read numbers and plain containers only."""

OVERRIDABLE = {
    "backward",
    "configure_callbacks",
    "configure_gradient_clipping",
    "configure_optimizers",
    "forward",
    "lr_scheduler_step",
    "optimizer_step",
    "optimizer_zero_grad",
    "predict_step",
    "test_step",
    "training_step",
    "validation_step",
}
"""Methods of LightningModule itself that a Trainer calls and a user overrides."""

ACCELERATOR = os.environ.get("LIGHTNING_FED_TEST_ACCELERATOR", "cpu")
"""Where :func:`trainer` trains. On a GPU not all tests can pass: many compare with tensors of the CPU, or fork."""

NARROW = {torch.float32, torch.float16, torch.bfloat16, torch.complex64}


def assert_equal(actual: Any, expected: Any, what: str = "") -> None:
    """Compare to 1e-9: far above what rounding adds up to in float64, and far below any fault.

    Args:
        actual: Numbers, tensors, or dicts and sequences of them.
        expected: The same, computed in another way.
        what: The beginning of the message.
    """
    for tensor in pytree.tree_leaves((actual, expected)):
        assert not isinstance(tensor, Tensor) or tensor.dtype not in NARROW, f"{what}{tensor.dtype} is no float64"
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9, check_device=False, msg=lambda m: f"{what}{m}")


class Scalar(pl.LightningModule):
    """One parameter x that moves towards the mean of the data: the gradient of the loss is x - mean(batch)."""

    def __init__(self, lr: float = 1.0, x: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.x = torch.nn.Parameter(torch.tensor(x))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch
        return ((self.x - values) ** 2).mean() / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Rows(pl.LightningDataModule):
    """Float values, one per row; all in one batch unless a batch size is given."""

    def __init__(self, values: Sequence[float] | Tensor, batch_size: int | None = None, shuffle: bool = False) -> None:
        super().__init__()
        self.values = torch.as_tensor(values, dtype=torch.get_default_dtype())
        self.batch_size = batch_size or max(len(self.values), 1)
        self.shuffle = shuffle

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.values), batch_size=self.batch_size, shuffle=self.shuffle)


class EvaluatedRows(Rows):
    """The same rows for validation, test and prediction, never shuffled."""

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.values), batch_size=self.batch_size)

    def test_dataloader(self) -> Any:
        return self.val_dataloader()

    def predict_dataloader(self) -> Any:
        return self.val_dataloader()


def averaging(kind: str = "EMAWeightAveraging", **options: Any) -> pl.Callback:
    """A callback that averages weights; the test is skipped if this Lightning has none (before 2.6)."""
    if kind not in pl.callbacks.__all__:
        pytest.skip(f"Lightning {pl.__version__} has no {kind}")
    callback: pl.Callback = getattr(pl.callbacks, kind)(**options)
    return callback


def trainer(**options: Any) -> pl.Trainer:
    """A Trainer that writes nothing, on the CPU and for one epoch unless told otherwise."""
    if "max_steps" not in options:
        options.setdefault("max_epochs", 1)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(**{"accelerator": ACCELERATOR, "devices": 1, "log_every_n_steps": 1, **quiet, **options})


def fit(fed: FederatedModule, data: FederatedDataModule, **options: Any) -> pl.Trainer:
    run = trainer(**options)
    run.fit(fed, data)
    return run
