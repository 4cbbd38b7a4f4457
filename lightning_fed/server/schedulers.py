"""Learning rates over rounds: the server optimizer's scheduler for Lightning, and the workers' over the whole run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch.optim import lr_scheduler

from lightning_fed._lightning import ReduceLROnPlateau, pl
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.worker.kept import Kept


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """Return the config by which Lightning steps a scheduler every round; one that goes by a metric, every epoch.

    Args:
        scheduler: A scheduler of the server optimizer.

    Raises:
        ValueError: If it is a ReduceLROnPlateau that does not say which metric it looks at.
    """
    if not isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        return {"scheduler": scheduler, "interval": "step"}
    if not isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "server_lr_scheduler: torch's ReduceLROnPlateau does not say which metric to monitor; use "
            f"{ReduceLROnPlateau.__module__}.ReduceLROnPlateau(optimizer, monitor='val_loss')"
        )
    return {"scheduler": scheduler, "interval": "epoch", "monitor": scheduler.monitor}


def over_the_run(kept: Kept, trainer: pl.Trainer, datamodule: FederatedDataModule) -> Kept:
    """Return what is kept, with the number of rounds in which a worker is expected to take part.

    Args:
        kept: What is kept of the workers' optimizers and schedulers.
        trainer: The Trainer that is about to train.
        datamodule: The workers.
    """
    if kept.schedule != "continue":
        return kept
    cohorts = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches
    return replace(kept, rounds=max(1.0, cohorts * datamodule.cohort_size / len(datamodule.names)))
