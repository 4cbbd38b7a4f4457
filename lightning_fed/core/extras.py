"""Packages that come with an extra, imported when they are first needed; and figures of one of them."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, what: str, extra: str) -> Any:
    """Import a module of a package that not everyone has installed.

    Args:
        module: Its full name, such as ``dp_accounting.rdp``.
        what: What needs it, for the message.
        extra: The extra of ``lightning_fed`` that brings the package.

    Raises:
        ImportError: If it is not installed, with the command that installs it.

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
    """Return an empty figure of matplotlib's with Agg's canvas.

    Nothing of it is pyplot's, so a notebook's figures and backend stay as they are. As the last line of a cell it is
    shown.

    Args:
        width: Its width in inches.
        height: Its height in inches.
        what: What needs it, for the message.
        extra: The extra that brings matplotlib.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    agg = import_extra("matplotlib.backends.backend_agg", what, extra)
    import_extra("matplotlib.figure", what, extra)
    figure = import_extra("lightning_fed.core.notebook_figure", what, extra).NotebookFigure(
        figsize=(width, height), layout="constrained"
    )
    agg.FigureCanvasAgg(figure)
    return figure
