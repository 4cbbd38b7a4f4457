"""All workers of a chunk at once, on stacked parameters."""

from lightning_fed.engines.vectorized.engine import Vectorized

__all__ = ["Vectorized"]
