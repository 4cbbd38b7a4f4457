"""Record of the workers whose data are prepared: of several processes on a machine, one calls ``prepare_data``.

A Trainer calls ``prepare_data`` in the first process of each machine, while the others wait. So it is with workers that
are there from the beginning. A worker that is built when it is needed is prepared by the process that needs it first;
no other builds it before the processes have heard from each other, as no two of them train or evaluate one worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

from lightning_fed.core.shown import Shown


@final
class News(NamedTuple):
    """News of a process for the others.

    Args:
        node: Its machine.
        names: The workers that it has prepared since its last news; and whether each machine is to do so.
    """

    node: int
    names: tuple[tuple[str, bool], ...]


@final
class Prepared(Shown):
    """The workers that this process need not prepare any more.

    Args:
        node: The machine that it runs on.
        everyone: Whether all workers have been prepared by the first process.
        failures: What was raised there, by worker.
    """

    def __init__(self, node: int, everyone: bool = False, failures: Mapping[str, str] | None = None) -> None:
        self._node = node
        self.everyone = everyone
        """Whether there is nothing to hear any more."""
        self._failures = dict(failures or {})
        self._names: set[str] = set()
        self._news: list[tuple[str, bool]] = []

    def has(self, name: str) -> bool:
        """Whether a worker is prepared.

        Raises:
            RuntimeError: If that has failed.
        """
        if name in self._failures:
            raise RuntimeError(f"its prepare_data raised {self._failures[name]}")
        return self.everyone or name in self._names

    def note(self, name: str, per_node: bool) -> None:
        """Note that this process has prepared a worker.

        Args:
            name: The worker.
            per_node: Whether each machine is to do so: its ``prepare_data_per_node``.
        """
        self._names.add(name)
        self._news.append((name, per_node))

    def news(self) -> News:
        """Return what the other processes have not heard yet."""
        news, self._news = tuple(self._news), []
        return News(self._node, news)

    def hear(self, news: Sequence[News]) -> None:
        """Take in what all processes have told."""
        for node, names in news:
            self._names.update(name for name, per_node in names if node == self._node or not per_node)
