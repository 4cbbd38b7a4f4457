"""Several tensors of a message whose names have a prefix in common."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from lightning_fed.core.tree import Tensors
from lightning_fed.wire.container import Packed


def take_all(packed: Packed, prefix: str, names: Iterable[str], device: torch.device) -> Tensors:
    """Read tensors by their names without the prefix, onto a device."""
    return {name: packed.take(f"{prefix}/{name}").to(device) for name in names}


def prefixed(prefix: str, tensors: Tensors) -> Tensors:
    """Return tensors under their names in a message."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}
