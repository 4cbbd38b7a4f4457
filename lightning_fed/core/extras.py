"""Packages of the extras, imported at first use; and figures of matplotlib."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, what: str, extra: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: The module's full name, such as ``dp_accounting.rdp``.
        what: The feature that requires it, for the message.
        extra: The extra of ``lightning_fed`` that brings the package.

    Raises:
        ImportError: If the package is not installed; the message has the command that installs it.

    >>> import_extra("math", "a root", "examples").sqrt(4.0)
    2.0
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ImportError(
            f'{what} needs {package} ({error}): pip install "lightning_fed[{extra}]"', name=error.name
        ) from error


def empty_figure(width: float, height: float, what: str, extra: str) -> Any:
    """Return an empty matplotlib figure with Agg's canvas.

    pyplot is not used, so a notebook's figures and backend stay unchanged. The figure is shown where it is the value of
    a cell's last line.

    Args:
        width: Its width in inches.
        height: Its height in inches.
        what: The feature that requires it, for the message.
        extra: The extra that includes matplotlib.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    import_extra("matplotlib.figure", what, extra)  # with its message; the next is a module of ours
    figure = import_extra("lightning_fed.core.notebook_figure", what, extra).NotebookFigure(
        figsize=(width, height), layout="constrained"
    )
    import_extra("matplotlib.backends.backend_agg", what, extra).FigureCanvasAgg(figure)
    return figure
