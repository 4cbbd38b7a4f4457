"""The process that holds a node's module and data and answers messages over a unix socket, one at a time.

``python -m lightning_fed.node.resident SOCKET``, with the node's settings in the environment. The first
message starts the process (:mod:`lightning_fed.node.caller`). It ends after the idle time, or with the node.

On each connection the process first sends its process id, to confirm that it takes the message. Then it receives the
message and sends the answer; both are one field ``fields`` and the parts.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, final

from lightning_fed.core.channel import Channel
from lightning_fed.node.building import BuildError, load
from lightning_fed.node.settings import Settings
from lightning_fed.node.sockets import is_running, listening

_log = logging.getLogger(__name__)

_LOOKS = 0.5
"""Interval between two checks for a reason to go on waiting, in seconds."""
_SPEECHLESS = 60.0
"""How long a connection may be silent before it has sent its message, in seconds."""

Answer: TypeAlias = Callable[[dict[str, Any], list[memoryview]], tuple[dict[str, Any], Sequence[Any]]]


class Answering(Protocol):
    """Object that a build function returns."""

    def answer(self, fields: dict[str, Any], parts: list[memoryview]) -> tuple[dict[str, Any], Sequence[Any]]:
        """Return the answer to a message, as fields and parts."""


@final
class Resident:
    """Serves a node on a unix socket.

    Args:
        path: The socket, in a folder that is private to this user.
        settings: The node's settings.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._listener = listening(path)
        self._gone = threading.Lock()  # held by whoever removes the socket, and never given back

    def serve(self) -> int:
        """Build the node and answer messages until none comes for the idle time.

        Returns:
            The process's exit status.
        """
        if self._settings.owner is not None:
            threading.Thread(target=self._end_with, args=(self._settings.owner,), daemon=True).start()
        try:
            # What connects meanwhile waits in the socket's queue
            answer, status = self._built()
            if status:
                self._take(answer, until=time.monotonic() + _SPEECHLESS)
                return status
            while self._take(answer, until=time.monotonic() + self._settings.idle_timeout):
                pass
            _log.info("no message for %g s: the process ends", self._settings.idle_timeout)
            return 0
        finally:
            self._leave()

    def _built(self) -> tuple[Answer, int]:
        """Return the node's method, or a function that answers with the error if there is no node."""
        _log.info("build the node by %s", self._settings.build)
        try:
            node: Answering = load(self._settings.build)(self._settings.config)
            if not callable(getattr(node, "answer", None)):
                raise BuildError(f"{self._settings.build} has made no node but a {type(node).__name__}")
        except Exception as error:
            _log.exception("the node cannot be built")
            # Other texts may quote the data that was read
            text = f": {error}" if isinstance(error, (BuildError, ImportError)) else ""
            refused = f"the node cannot be built: {type(error).__name__}{text}; see the node's log"
            return lambda fields, parts: ({"refused": refused}, []), 1
        for name in ("pytorch_lightning", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.WARNING)  # in each round it would say which device it uses
        _log.info("the node is ready")
        return node.answer, 0

    def _take(self, answer: Answer, until: float) -> bool:
        """Take one message; False if none comes in time."""
        while time.monotonic() < until:
            self._listener.settimeout(_LOOKS)
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            channel = Channel(connection)
            try:
                channel.send(pid=os.getpid())
                head, parts = channel.receive(_SPEECHLESS)
                fields, answered = _answered(answer, head["fields"], parts)
                channel.send(answered, fields=fields)
            except (OSError, EOFError) as error:
                _log.warning("the asking process has gone: %s", error)
            except Exception:
                _log.exception("a message that cannot be read")
            finally:
                channel.close()
            return True
        return False

    def _end_with(self, owner: int) -> None:
        while is_running(owner):
            time.sleep(_LOOKS)
        _log.info("the node's main process %d has ended: so does this one", owner)
        self._leave()
        os._exit(0)  # whatever the main thread is at: nobody waits for it

    def _leave(self) -> None:
        """Remove the socket before it is closed: once it is closed, another process may make one in its place."""
        if self._gone.acquire(blocking=False):
            self._path.unlink(missing_ok=True)
            self._listener.close()


def _answered(answer: Answer, fields: dict[str, Any], parts: list[memoryview]) -> tuple[dict[str, Any], list[Any]]:
    try:
        answered, others = answer(fields, parts)
        return dict(answered), [memoryview(part).cast("B") for part in others]
    except Exception as error:
        # The text stays here: it may quote a worker's data
        _log.exception("the message could not be answered")
        return {"refused": f"{type(error).__name__}; see the node's log"}, []


def main(arguments: Sequence[str]) -> int:
    """Run the process.

    Args:
        arguments: The path of the socket.

    Returns:
        The exit status.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the socket is removed
    return Resident(Path(arguments[0]), Settings.of_environment()).serve()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
