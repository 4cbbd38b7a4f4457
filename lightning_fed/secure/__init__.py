"""Secure aggregation: a server that adds up what it cannot see."""

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.settings import SecureAggregation

__all__ = ["AbortError", "SecureAggregation"]
