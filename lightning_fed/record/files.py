"""Files of a record: JSON Lines that grow, and one JSON file that is replaced.

A file that cannot be written causes one warning, and the training continues. A killed process leaves readable files:
lines are appended by one call, so only the last one can be incomplete, and the JSON file is replaced as a whole.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from lightning_fed._lightning import rank_zero_warn

RUN, ROUNDS, EVALUATIONS = "run.json", "rounds.jsonl", "evaluations.jsonl"
_EVERY = 1.0
"""The seconds between two writes of lines."""
_MOST_WAITING = 10_000
"""The largest number of lines that wait for a full disk; beyond it the oldest are dropped."""


def plain(value: Any) -> Any:
    """Return a value as JSON types: a number that is not finite becomes None, and an unsupported object its class.

    Args:
        value: The value.

    >>> plain({"loss": float("nan"), "sizes": (1, 2)})
    {'loss': None, 'sizes': [1, 2]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, (Sequence, Set)):
        return [plain(part) for part in value]
    return type(value).__name__


@final
class Disk:
    """The folder of a record.

    Args:
        folder: The folder; created at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting: dict[str, deque[bytes]] = {}
        self._written = time.monotonic()
        self._has_failed = False

    def add(self, file: str, line: Mapping[str, Any]) -> None:
        """Add a line to a file; it is written with others, at most once a second, or by :meth:`write`.

        Args:
            file: The file's name.
            line: The values of the line, as JSON types.
        """
        waiting = self._waiting.setdefault(file, deque(maxlen=_MOST_WAITING))
        waiting.append(json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        if time.monotonic() - self._written > _EVERY:
            self.write()

    def write(self) -> None:
        """Write all lines that wait."""
        self._written = time.monotonic()
        for file, waiting in self._waiting.items():
            if not waiting:
                continue
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with (self.folder / file).open("ab+", buffering=0) as opened:
                    content = b"".join(waiting)
                    if opened.tell():
                        opened.seek(-1, os.SEEK_END)
                        if opened.read(1) != b"\n":  # the process that wrote last was killed
                            content = b"\n" + content
                    while content:
                        content = content[opened.write(content) :]
            except OSError as error:
                self._say(self.folder / file, error)
            else:
                waiting.clear()

    def replace(self, file: str, content: Mapping[str, Any]) -> None:
        """Replace a file by another, at once.

        Args:
            file: The file's name.
            content: Its values.
        """
        path = self.folder / file
        new = path.with_name(f".{file}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            new.write_text(json.dumps(plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
            os.replace(new, path)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            self._say(path, error)

    def _say(self, path: Path, error: OSError) -> None:
        if not self._has_failed:
            self._has_failed = True
            rank_zero_warn(
                f"the record of the run cannot be written to {path} ({error.strerror or error}); the training goes on "
                "without it. Make room, or give the logger a folder that can be written"
            )
