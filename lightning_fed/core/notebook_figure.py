"""A figure that notebooks show; imported where matplotlib is installed."""

from __future__ import annotations

import io
from typing import final

from matplotlib.figure import Figure


@final
class NotebookFigure(Figure):
    """A figure of matplotlib's that a notebook shows as a picture, whether or not pyplot has been imported there."""

    def _repr_png_(self) -> bytes:
        """Return the picture, as Jupyter asks for it."""
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
