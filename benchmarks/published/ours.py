"""A run of ours, as a user would write it, and its curve; and the data of the studies as tensors."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from by_hand import Share
from study import Curve

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.datasets import MNIST, FashionMNIST


def parts_of(data: MNIST | FashionMNIST) -> tuple[Share, Share]:
    """The examples to train on and those to test on."""
    data.setup("fit")
    (x, label), (test_x, test_label) = (data.examples(part).tensors for part in ("train", "test"))
    return (x, label), (test_x, test_label)


def curve_of(
    federated: FederatedModule,
    data: FederatedDataModule,
    rounds: int,
    every: int = 1,
    target: float | None = None,
    metric: str = "val_acc",
    **settings: Any,
) -> Curve:
    """Train, and evaluate every so many rounds.

    Args:
        federated: The module.
        data: Workers, and central data to evaluate on.
        rounds: The largest number of rounds.
        every: The number of rounds from one evaluation to the next.
        target: The accuracy in % at which training ends; None: it goes on.
        metric: The name of the accuracy in the logs, a share.
        settings: Further arguments of the Trainer.
    """
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    watch = _Watch(metric, target)
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        max_steps=rounds,
        max_epochs=-1,
        val_check_interval=every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[watch],
        **{"accelerator": "cpu", "devices": 1, **off, **settings},
    )
    trainer.fit(federated, data)
    return watch.curve


class _Watch(pl.Callback):
    def __init__(self, metric: str, target: float | None) -> None:
        self.metric, self.target = metric, target
        self.curve: Curve = []

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        accuracy = 100 * float(trainer.callback_metrics[self.metric])
        self.curve.append((trainer.global_step, accuracy))
        if self.target is not None and accuracy >= self.target:
            trainer.should_stop = True
