"""The engine that trains workers on Flower's SuperNodes, and the workers that these announce."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar, final

from flwr.serverapp import Grid

from lightning_fed.core.arguments import number
from lightning_fed.engines.remote import Remote, RemotePopulation
from lightning_fed.flower.grid_link import GridLink


@final
class Flower(Remote):
    """Trains each worker on the SuperNode that hosts it.

    Args:
        grid: Flower's, as a ServerApp's ``main`` gets it.
        timeout: How many seconds a node may take for one message; see :class:`Remote`. A synchronous round over Flower
            takes some seconds of waiting whatever the model, and the first one the start of processes besides.
        poll: The seconds between two looks for answers.

    Raises:
        TypeError: If a number is none.
        ValueError: If it is not positive.

    Example::

        fed = FederatedModule(module, engine=Flower(grid))
        trainer.fit(fed, FederatedDataModule(workers(grid)))
    """

    no_settings: ClassVar[Collection[str]] = ("grid", *Remote.no_settings)

    def __init__(self, grid: Grid, timeout: float = 600.0, poll: float = 0.25) -> None:
        super().__init__(timeout)
        self._grid = grid
        self._poll = float(number("poll", poll, above=0))
        self._link = GridLink(grid, self._poll)

    @property
    def link(self) -> GridLink:
        return self._link


def workers(
    grid: Grid,
    nodes: int | None = None,
    names: Sequence[str] | None = None,
    wait: float = 120.0,
    most_examples: int | None = None,
) -> RemotePopulation:
    """Return the workers that the SuperNodes announce.

    Args:
        grid: Flower's.
        nodes: See :class:`RemotePopulation`.
        names: See there.
        wait: See there.
        most_examples: See there.

    Raises:
        ValueError: See there.
    """
    return RemotePopulation(GridLink(grid), nodes, names, wait, most_examples)
