"""The records of a ServerApp for the benchmark: ends of rounds, memory, traffic."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any


def status(field: str) -> int:
    """Bytes of a field of this process's status, such as VmRSS."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0


def high_water() -> int:
    return status("VmHWM")


class Notes:
    """Notes of a run, written to ``result.json``."""

    def __init__(self, out: str) -> None:
        self.folder = Path(out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.ends: list[float] = []
        self.peaks: dict[str, int] = {}
        self.events: list[tuple[str, float, float, list[str]]] = []
        self.more: dict[str, Any] = {}
        self.before = 0

    def begin(self) -> None:
        """The first round is about to begin: what the process has needed before does not count."""
        self.before = status("VmRSS")
        _forget_high_water()
        self.ends.append(time.time())

    def peak(self, part: str) -> None:
        """Note the most memory that the process has had since the last call, beyond that before the first round."""
        if self.ends:
            self.peaks[part] = max(self.peaks.get(part, 0), high_water() - self.before)
            _forget_high_water()

    def end_round(self) -> None:
        self.ends.append(time.time())
        self.peak("server's step, and all else")

    def write(self, weights: Iterable[float]) -> None:
        result = {
            "ends": self.ends,
            "before": self.before,
            "peaks": self.peaks,
            "events": self.events,
            "weights": list(weights)[:3],
            **self.more,
        }
        (self.folder / "result.json").write_text(json.dumps(result))


def _forget_high_water() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


class Watched:
    """Flower's Grid, with a note of each call that carries messages."""

    def __init__(self, grid: Any, notes: Notes) -> None:
        self._grid, self._notes = grid, notes

    def get_node_ids(self) -> Any:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Any) -> Any:
        self._notes.peak("until the messages are made")
        began = time.time()
        given = list(self._grid.push_messages(messages))
        self._notes.peak("push of messages")
        self._notes.events.append(("push", began, time.time(), given))
        return given

    def pull_messages(self, message_ids: Any) -> Any:
        self._notes.peak("decoding, adding up")
        began = time.time()
        replies = list(self._grid.pull_messages(message_ids))
        self._notes.peak("pull of replies")
        if replies:
            about = [reply.metadata.reply_to_message_id for reply in replies]
            self._notes.events.append(("pull", began, time.time(), about))
        return replies
