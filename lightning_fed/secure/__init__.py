"""Secure aggregation: a server that adds up what it cannot see."""

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.settings import STEPS, SecureAggregation

__all__ = ["STEPS", "AbortError", "SecureAggregation"]
