"""Choice of the display for the destination of a run's output."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from lightning_fed.callbacks.display.base import Display
from lightning_fed.callbacks.display.lines import Lines
from lightning_fed.callbacks.display.notebook import Notebook
from lightning_fed.callbacks.display.terminal import Terminal


def display_here(rate: float, at_once: bool) -> Display:
    """Return a display for the current standard output.

    Args:
        rate: The largest number of refreshes in a second, if the display can refresh.
        at_once: Whether a file gets its first line immediately, not only in a long run.

    Returns:
        A ``Terminal``; in a notebook a ``Notebook``; elsewhere, and on a terminal that cannot write over a
        line (``TERM=dumb``), ``Lines``.
    """
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    if not is_terminal and _is_in_a_notebook():
        return Notebook(rate)
    if is_terminal and os.environ.get("TERM") != "dumb":
        return Terminal(sys.stdout, rate)
    return Lines(None if at_once else time.monotonic())


def _is_in_a_notebook() -> bool:
    """Whether IPython runs this code in a notebook, not in a shell whose output goes to a file."""
    ipython: Any = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and type(shell).__name__ != "TerminalInteractiveShell"
