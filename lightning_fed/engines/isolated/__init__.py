"""Each worker in a process of its own: the engine, its children, and what goes between them."""

from lightning_fed.engines.isolated.engine import Isolated

__all__ = ["Isolated"]
