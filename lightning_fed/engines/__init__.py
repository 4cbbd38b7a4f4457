"""Engines: *how* a cohort is trained, never *what* a round computes."""

from lightning_fed.engines.base import Engine
from lightning_fed.engines.sequential import Sequential

__all__ = ["Engine", "Sequential"]
