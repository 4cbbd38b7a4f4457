"""Autocast for steps of workers within a step of the server, without a shared cache of cast weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def outside_autocast(device: str) -> Iterator[None]:
    """Disable ``torch.autocast`` temporarily.

    torch caches the cast copies of weights until the outermost autocast ends. Within a Trainer's autocast, the copies
    of a worker's first step would replace its weights in all later steps.

    Args:
        device: The type of the device.

    >>> with torch.autocast("cpu", torch.bfloat16), outside_autocast("cpu"):
    ...     torch.ones(1, 1) @ torch.ones(1, 1)
    tensor([[1.]])
    """
    with torch.autocast(device, enabled=False):
        depth = 1
        while torch.autocast_decrement_nesting():
            depth += 1
        torch.clear_autocast_cache()
        try:
            yield
        finally:
            for _ in range(depth):
                torch.autocast_increment_nesting()
