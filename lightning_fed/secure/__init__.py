"""Secure aggregation: the server learns the sum of the updates, and no single update."""

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.settings import STEPS, SecureAggregation

__all__ = ["STEPS", "AbortError", "SecureAggregation"]
