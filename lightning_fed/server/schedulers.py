"""The server optimizer's learning rate over rounds, in the form that Lightning wants."""

from __future__ import annotations

from typing import Any

from torch.optim import lr_scheduler

from lightning_fed._lightning import ReduceLROnPlateau


def scheduler_config(scheduler: Any) -> dict[str, Any]:
    """Have a scheduler stepped once a round, or one that looks at a metric once an epoch, after evaluation.

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
