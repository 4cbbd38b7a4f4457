"""The engine that trains workers on Flower's SuperNodes, and the workers that SuperNodes announce."""

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
        grid: Flower's grid, an argument of a ServerApp's ``main``.
        timeout: The longest time of a node for one message, in seconds; see ``Remote``. It must include the
            latency of Flower, and in the first round the start of processes (benchmarks/deployment.py).
        poll: The time between two polls for answers, in seconds.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If a number is not positive.

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
        grid: Flower's grid.
        nodes: See ``RemotePopulation``.
        names: See ``RemotePopulation``.
        wait: See ``RemotePopulation``.
        most_examples: See ``RemotePopulation``.

    Raises:
        ValueError: See ``RemotePopulation``.
    """
    return RemotePopulation(GridLink(grid), nodes, names, wait, most_examples)
