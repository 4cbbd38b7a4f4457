"""Errors that leave an accelerator unusable for the process, so that no other worker can train in it either."""

from __future__ import annotations

from typing import final

import torch


@final
class LostDeviceError(RuntimeError):
    """An accelerator accepts no more work from this process; only another process can continue."""


def refuse_lost(device: torch.device, names: str, round: int, error: Exception) -> None:
    """Raise if an error has left an accelerator unusable, as a failed device-side assertion does.

    Args:
        device: The device of the training.
        names: The workers of the training.
        round: The round.
        error: The error.

    Raises:
        LostDeviceError: If the accelerator is unusable.
    """
    if device.type != "cuda" or isinstance(error, LostDeviceError):
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as lost:
        reason = f"{type(lost).__name__}: {lost}".partition("\n")[0]
        raise LostDeviceError(
            f"worker {names}, round {round}: {reason}. After this error the GPU takes no more work from this process, "
            "so no other worker can go on in it. It often is a label or an index out of range: one round on the CPU "
            "says which. Go on from the last checkpoint in a new process; with engine='isolated' and "
            "on_worker_error='drop' such a worker ends no process but its own"
        ) from error
