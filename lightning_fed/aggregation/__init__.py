"""Aggregators: how a stack of updates becomes one."""

from lightning_fed.aggregation.base import Aggregator
from lightning_fed.aggregation.mean import WeightedMean

__all__ = ["Aggregator", "WeightedMean"]
