"""Callbacks: observers that never change the result of a round."""

from lightning_fed.callbacks.dashboard import Dashboard
from lightning_fed.callbacks.prediction_writer import PredictionWriter
from lightning_fed.callbacks.progress import RoundProgress, RoundProgressBar

__all__ = ["Dashboard", "PredictionWriter", "RoundProgress", "RoundProgressBar"]
