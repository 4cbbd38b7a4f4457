"""Record of the workers whose data are prepared: one of several processes on a machine calls ``prepare_data``.

A Trainer calls ``prepare_data`` in the first process of each machine, while the others wait; the same holds for workers
that exist from the start. A worker that is built on demand is prepared by the process that uses it first. No other
process builds it before the processes have communicated, since no two of them train or evaluate one worker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, final

from lightning_fed.core.shown import Shown


@final
class News(NamedTuple):
    """Message of a process to the others.

    Args:
        node: The machine of the process.
        names: The workers that it has prepared since its last message; with whether each machine must prepare them.
    """

    node: int
    names: tuple[tuple[str, bool], ...]


@final
class Prepared(Shown):
    """The workers that this process need not prepare.

    Args:
        node: The machine of this process.
        everyone: Whether the first process has prepared all workers.
        failures: The errors in the first process, by worker.
    """

    def __init__(self, node: int, everyone: bool = False, failures: Mapping[str, str] | None = None) -> None:
        self._node = node
        self.everyone = everyone
        """Whether no further messages are expected."""
        self._failures = dict(failures or {})
        self._names: set[str] = set()
        self._news: list[tuple[str, bool]] = []

    def has(self, name: str) -> bool:
        """Whether a worker is prepared.

        Raises:
            RuntimeError: If its preparation has failed.
        """
        if name in self._failures:
            raise RuntimeError(f"its prepare_data raised {self._failures[name]}")
        return self.everyone or name in self._names

    def note(self, name: str, per_node: bool) -> None:
        """Record that this process has prepared a worker.

        Args:
            name: The worker.
            per_node: Whether each machine must prepare it: its ``prepare_data_per_node``.
        """
        self._names.add(name)
        self._news.append((name, per_node))

    def news(self) -> News:
        """Return the message with everything that is new since the last one."""
        news, self._news = tuple(self._news), []
        return News(self._node, news)

    def hear(self, news: Sequence[News]) -> None:
        """Merge the messages of all processes."""
        for node, names in news:
            self._names.update(name for name, per_node in names if node == self._node or not per_node)
