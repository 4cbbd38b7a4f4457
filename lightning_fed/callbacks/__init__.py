"""Callbacks: they observe, and never change what a round computes."""

from lightning_fed.callbacks.progress import RoundProgressBar

__all__ = ["RoundProgressBar"]
