"""The dashboard of a run: a layout of charts, histograms, figures and texts, for loggers that show them."""

from lightning_fed.callbacks.dashboard.callback import Dashboard

__all__ = ["Dashboard"]
