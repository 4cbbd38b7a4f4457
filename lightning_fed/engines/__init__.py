"""Engines: *how* a cohort is trained, never *what* a round computes."""

from lightning_fed.engines.auto import Auto
from lightning_fed.engines.base import Engine, EngineOfNodes
from lightning_fed.engines.isolated import Isolated
from lightning_fed.engines.sequential import Sequential
from lightning_fed.engines.vectorized.engine import Vectorized

__all__ = ["Auto", "Engine", "EngineOfNodes", "Isolated", "Sequential", "Vectorized"]
