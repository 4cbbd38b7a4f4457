"""Messages to the resident process of a node, which is started if it does not run. Imports no torch."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

from lightning_fed.core.channel import Channel, Message
from lightning_fed.node.settings import Settings
from lightning_fed.node.sockets import ResidentError, socket_of

__all__ = ["Caller", "ResidentError"]

_START = 60.0
"""How long a process may take until its socket is there, in seconds; its node is built after that."""
_TRIES = 3
_LONG_LOG = 10 * 2**20


@final
class Caller:
    """Sends messages to the one resident process of a node.

    Args:
        settings: The node's settings. When they change, messages go to another process, which is started if needed.
        identity: Distinguishes this node from others of the same user.
    """

    def __init__(self, settings: Settings, identity: str) -> None:
        self._settings = settings
        self.socket = socket_of(settings, identity)
        self.started: list[subprocess.Popen[bytes]] = []

    def ask(self, fields: dict[str, Any], parts: Sequence[bytes | memoryview], seconds: float) -> Message:
        """Send a message and return the answer.

        Args:
            fields: The message's fields.
            parts: Its parts.
            seconds: The longest time to wait, including the start of the process.

        Raises:
            TimeoutError: If there is no answer in time. A process that has received the message is then ended.
            ResidentError: If the process ended before it answered, or cannot be started.
        """
        deadline = time.monotonic() + seconds
        for _ in range(_TRIES):
            connection = self._connection(deadline)
            channel = Channel(connection)
            try:
                try:
                    taken, _ = channel.receive(_left(deadline))
                except TimeoutError:
                    raise TimeoutError(
                        f"the node was busy with another message, or still being built, for {seconds:g} s"
                    ) from None
                except (EOFError, OSError):
                    continue  # it ended, maybe for want of messages, just before it took this one
                return self._exchanged(channel, connection, taken["pid"], fields, parts, seconds, deadline)
            finally:
                channel.close()
        raise ResidentError(f"the node's process has ended {_TRIES} times before it took the message; see its log")

    def _exchanged(
        self,
        channel: Channel,
        connection: socket.socket,
        process: int,
        fields: dict[str, Any],
        parts: Sequence[bytes | memoryview],
        seconds: float,
        deadline: float,
    ) -> Message:
        try:
            connection.settimeout(_left(deadline))
            channel.send(parts, fields=fields)
            answer, answered = channel.receive(_left(deadline))
        except TimeoutError:
            # Else the node would be lost to all messages after this one, whose answer nobody takes any more
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
            raise TimeoutError(f"the node has not answered within {seconds:g} s; its process was ended") from None
        except (EOFError, OSError):
            raise ResidentError("the node's process ended in the middle of a message; see its log") from None
        return answer["fields"], answered

    def _connection(self, deadline: float) -> socket.socket:
        with self._one_starter(deadline):
            if (found := self._connected(deadline)) is not None:
                return found
            process = self._start()
            limit = min(deadline, time.monotonic() + _START)
            while time.monotonic() < limit:
                if (found := self._connected(deadline)) is not None:
                    return found
                if process.poll() is not None:
                    raise ResidentError("the node's process ended as soon as it was started; see its log")
                time.sleep(0.02)
        raise TimeoutError("the node's process did not start in time")

    @contextlib.contextmanager
    def _one_starter(self, deadline: float) -> Iterator[None]:
        with open(self.socket.with_suffix(".lock"), "w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise TimeoutError("another message was starting the node's process for too long") from None
                    time.sleep(0.02)
            yield

    def _connected(self, deadline: float) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(_left(deadline))
        try:
            connection.connect(str(self.socket))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        except BaseException:
            connection.close()
            raise
        return connection

    def _start(self) -> subprocess.Popen[bytes]:
        with _log_of(self._settings.home) as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lightning_fed.node.resident", str(self.socket)],
                env={**os.environ, **self._settings.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.started.append(process)
        return process


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 1e-3)


@contextlib.contextmanager
def _log_of(home: Path) -> Iterator[Any]:
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = home / "resident.log"
    if path.exists() and path.stat().st_size > _LONG_LOG:
        path.replace(path.with_suffix(".log.1"))
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        yield log
