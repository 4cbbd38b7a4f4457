"""Boards: adapters that show texts, figures, histograms and a layout of charts through a logger's public interface.

Register a function for a logger of another kind: ``@board_of.register(OtherLogger)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import singledispatch
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from lightning_fed._lightning import pl
from lightning_fed.callbacks.dashboard.texts import Text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Layout: TypeAlias = Mapping[str, Mapping[str, tuple[str, list[str]]]]
"""Charts by section and title: ``("Margin", [middle, lower, upper])`` or ``("Multiline", [regular expressions])``."""


class Board(ABC):
    """Base of the boards: shows content other than scalars through one logger. Unsupported content is left out."""

    @abstractmethod
    def text(self, tag: str, text: Text, step: int) -> None:
        """Show a text.

        Args:
            tag: Its name.
            text: The text.
            step: The round that it is about.
        """

    @abstractmethod
    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """Show a figure.

        Args:
            tag: Its name.
            figure: The figure, without a window.
            step: The round that it is about.
        """

    def histogram(self, tag: str, values: NDArray[np.float64], step: int) -> None:  # noqa: B027 - not all have one
        """Show the distribution of values.

        Args:
            tag: The name of the values.
            values: The finite values; ``[n]`` with n > 0.
            step: The round of the values.
        """

    def layout(self, layout: Layout) -> None:  # noqa: B027 - few have one
        """Set the sections of charts, and their order.

        Args:
            layout: The charts.
        """


@singledispatch
def board_of(logger: object) -> Board | None:
    """Return the board of a logger; None: the logger shows scalars only.

    Args:
        logger: Any logger of a Trainer.
    """
    return None


@final
class TensorBoard(Board):
    """TensorBoard's tabs Text, Images, Histograms, Distributions and Custom Scalars.

    Args:
        logger: Its logger.
    """

    def __init__(self, logger: Any) -> None:
        self._writer: Any = logger.experiment

    def text(self, tag: str, text: Text, step: int) -> None:
        self._writer.add_text(tag, text.markdown, step)

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        # Not by add_figure(), which imports pyplot and with it a GUI backend.
        self._writer.add_image(tag, pixels(figure), step, dataformats="HWC")

    def histogram(self, tag: str, values: NDArray[np.float64], step: int) -> None:
        self._writer.add_histogram(tag, values, step, bins=30)  # a run has far fewer workers than weights

    def layout(self, layout: Layout) -> None:
        self._writer.add_custom_scalars(layout)


@final
class WeightsAndBiases(Board):
    """Tables, images and histograms of a W&B run; the layout of charts is left to its workspace.

    Args:
        logger: Its logger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def text(self, tag: str, text: Text, step: int) -> None:
        self._logger.log_text(tag, list(text.columns), [list(row) for row in text.rows], step=step)

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        self._logger.log_image(tag, [pixels(figure)], step=step)

    def histogram(self, tag: str, values: NDArray[np.float64], step: int) -> None:
        from wandb import Histogram

        self._logger.log_metrics({tag: Histogram(values)}, step=step)


@final
class MLFlow(Board):
    """Artifacts of an MLflow run: ``run/*.md`` and ``who/<name>/<step>.png``.

    Args:
        logger: Its logger.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def text(self, tag: str, text: Text, step: int) -> None:
        self._logger.experiment.log_text(self._logger.run_id, text.markdown, f"{tag}.md")

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        self._logger.experiment.log_figure(self._logger.run_id, figure, f"{tag}/{step:06}.png")


board_of.register(pl.loggers.TensorBoardLogger, TensorBoard)
board_of.register(pl.loggers.WandbLogger, WeightsAndBiases)
board_of.register(pl.loggers.MLFlowLogger, MLFlow)


def pixels(figure: Figure) -> NDArray[np.uint8]:
    """Return a figure as colours; uint8 ``[height, width, 3]``.

    Args:
        figure: The figure.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    colours: NDArray[np.uint8] = np.asarray(canvas.buffer_rgba())[..., :3].copy()
    return colours
