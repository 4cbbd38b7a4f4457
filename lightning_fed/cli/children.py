"""Commands in separate processes, some at a time, which all end with this one."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, final

from lightning_fed.core.process_groups import send

_PATIENCE = 15.0
"""Seconds that processes have to end after a signal that asks them to: a Trainer writes its logs and checkpoints."""


@final
@dataclass(frozen=True)
class Ended:
    """A command that has ended.

    Args:
        number: Its position among all commands.
        status: Its exit status; negative: the signal that ended it.
        seconds: Seconds that it took.
        error: Why it could not be started; empty if it was.
    """

    number: int
    status: int
    seconds: float
    error: str = ""


@final
class Children:
    """Runs commands, some at a time.

    Each is a process group of its own, so that what it starts ends with it. This process's Ctrl-C (SIGINT) and SIGTERM
    go to all of them.

    Args:
        commands: The commands.
        outputs: For each the file that gets its output and its errors.
        environment: The environment of all of them.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], outputs: Sequence[Path], environment: Mapping[str, str]
    ) -> None:
        self._waiting = deque(enumerate(zip(commands, outputs, strict=True)))
        self._environment = environment
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()

    def run(self, jobs: int) -> Iterator[Ended]:
        """Run all commands.

        Args:
            jobs: How many at a time.

        Yields:
            Each as it ends.

        Raises:
            KeyboardInterrupt: If this process was told to end; all children have ended then.
        """
        with _told_to_end():
            try:
                while self._waiting or self._running:
                    while self._waiting and len(self._running) < jobs:
                        self._start()
                    ended = self._next()
                    self._running.pop(ended.number, None)
                    yield ended
            finally:
                self._end_all()

    def _start(self) -> None:
        number, (command, output) = self._waiting.popleft()
        began = time.monotonic()
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            with output.open("wb") as file:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            self._ended.put(Ended(number, 1, 0.0, str(error)))
            return
        self._running[number] = child

        def wait() -> None:
            status = child.wait()
            self._ended.put(Ended(number, status, time.monotonic() - began))

        threading.Thread(target=wait, daemon=True).start()

    def _next(self) -> Ended:
        while True:
            with contextlib.suppress(queue.Empty):
                return self._ended.get(timeout=0.5)  # in pieces, so that a signal is seen on every system

    def _end_all(self) -> None:
        """End what is still running, at first so that it can write what it has."""
        for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            for child in self._running.values():
                send(child.pid, kind)  # also if it has ended itself, and what it has started has not
            until = time.monotonic() + _PATIENCE
            with contextlib.suppress(KeyboardInterrupt):  # again: no more patience with this signal
                while time.monotonic() < until and any(child.poll() is None for child in self._running.values()):
                    time.sleep(0.05)
        self._running.clear()


@contextlib.contextmanager
def _told_to_end() -> Iterator[None]:
    """Treat what a cluster's scheduler sends (SIGTERM) and a terminal that is closed (SIGHUP) as Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for kind in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(kind) is not signal.SIG_IGN:  # as under nohup
                before[kind] = signal.signal(kind, interrupt)
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def python() -> list[str]:
    """Return how this package's command line is started in another process."""
    return [sys.executable, "-m", "lightning_fed"]
