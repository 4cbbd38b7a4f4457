"""Steps of workers within a step of the server: each of them casts by itself, and forgets what it has cast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def outside_autocast(device: str) -> Iterator[None]:
    """Leave every ``torch.autocast`` for a while.

    torch keeps the narrow copies of weights until the outermost of nested autocasts ends. Within the one that a Trainer
    runs a step in, those of a worker's first step would stand for its weights in all steps after it.

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
