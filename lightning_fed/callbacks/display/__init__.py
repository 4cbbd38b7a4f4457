"""Displays of progress: a line of a terminal, lines of a file, a row of a notebook."""

from lightning_fed.callbacks.display.base import Display
from lightning_fed.callbacks.display.choice import display_here
from lightning_fed.callbacks.display.status import Evaluation, Status, Summary

__all__ = ["Display", "Evaluation", "Status", "Summary", "display_here"]
