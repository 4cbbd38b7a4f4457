"""Callbacks: they observe, and never change what a round computes."""

from lightning_fed.callbacks.dashboard import Dashboard
from lightning_fed.callbacks.prediction_writer import PredictionWriter
from lightning_fed.callbacks.progress import RoundProgress, RoundProgressBar

__all__ = ["Dashboard", "PredictionWriter", "RoundProgress", "RoundProgressBar"]
