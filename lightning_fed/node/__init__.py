"""A machine that hosts workers: what runs where the data are."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fed.node.node import Node
    from lightning_fed.node.refusal import RefusalError

__all__ = ["Node", "RefusalError"]

_HOMES = {"Node": "node", "RefusalError": "refusal"}


def __getattr__(name: str) -> Any:
    """Import when it is asked for: the relay to a node that is running already needs neither torch nor Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
