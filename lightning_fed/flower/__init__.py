"""Real machines over Flower (``flwr``): the only package that imports it. ``pip install "lightning_fed[flower]"``.

Imports are lazy: the relay is started for each message, and must not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fed.flower.apps import server_app
    from lightning_fed.flower.engine import Flower, workers
    from lightning_fed.flower.relay import client_app

__all__ = ["Flower", "client_app", "server_app", "workers"]

_HOMES = {"Flower": "engine", "client_app": "relay", "server_app": "apps", "workers": "engine"}
"""The module of each name, within this package."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
