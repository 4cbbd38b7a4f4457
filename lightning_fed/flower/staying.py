"""The program named ``flwr-clientapp`` of a node: the first process of it stays, and forks one for each later message.

Flower starts a process for each message, and the import of Flower's modules dominates the cost of a round of a small
model (benchmarks/deployment.py). So the first process that has imported them answers its message in a child, and waits
on a unix socket. A process started for a later message sends its command line there and returns the exit status. It
imports little, and no flwr. Where no process waits, it answers by itself.

A message is answered once: a process that has connected waits until its command line is taken or the other process has
ended, without a time limit. A command line that was not taken before the other process ended has not been executed.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, final

from lightning_fed.node.settings import Settings
from lightning_fed.node.sockets import ResidentError, is_running, listening, socket_of

_LOOKS = 0.5
"""How often is looked whether there is still a reason to wait, in seconds."""
_SLOW = 10.0
"""How long a connection may be silent before it has sent its words, in seconds."""
_LONGEST = 2**20
_TAKEN = b"taken\n"

Run = Callable[[Sequence[str]], None]


def answer(words: Sequence[str], prepare: Callable[[], Run], settings: Settings) -> int:
    """Answer a message, in this process or the one that has stayed.

    Args:
        words: The command line, which locates the message.
        prepare: Imports the modules, and returns the function that answers a message.
        settings: The node's settings.

    Returns:
        The exit status; a process that stays returns it when it need not wait any more.
    """
    try:
        path = socket_of(settings, "relay")
    except (ResidentError, OSError):
        return _status_of(prepare(), words)
    status = _handed_over(path, words)
    if status is not None:
        return status
    with _only_one(path) as lock:
        run = prepare()
        if lock is None:
            return _status_of(run, words)
        owner = os.getppid() if settings.owner is None else settings.owner
        Staying(path, run, owner, settings.idle_timeout, [lock]).serve(words)
    return 0


def _handed_over(path: Path, words: Sequence[str]) -> int | None:
    """Return the exit status of the process forked for the command line; None: no process has taken it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(list(words)).encode() + b"\n")
            lines = connection.makefile("rb")
            if lines.readline() != _TAKEN:
                return None
        except OSError:
            return None
        try:
            return int(lines.readline())
        except (OSError, ValueError):
            return 1


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[int | None]:
    """Hold a file, and yield its descriptor; None if another process holds it."""
    lock = os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield lock
    finally:
        os.close(lock)


@final
class Staying:
    """Forks a process for each message.

    Args:
        path: The socket.
        run: Answers a message.
        owner: The id of the process with which this one ends.
        idle: The longest time to wait for a message, in seconds.
        held: File descriptors of this process, which its children close.
    """

    def __init__(self, path: Path, run: Run, owner: int, idle: float, held: Sequence[int] = ()) -> None:
        self._run = run
        self._owner = owner
        self._idle = idle
        self._held = held
        self._path = path
        self._listener = listening(path)

    def serve(self, words: Sequence[str]) -> None:
        """Answer a first message, and those that come after it.

        Args:
            words: The command line of the first.
        """
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that the socket is removed
        gc.collect()
        gc.freeze()  # else a collection in a child would copy what it shares with this process
        children = [self._forked(words, None)]
        until = time.monotonic() + self._idle
        try:
            while time.monotonic() < until and is_running(self._owner):
                children = [child for child in children if os.waitpid(child, os.WNOHANG)[0] == 0]
                if select.select([self._listener], [], [], _LOOKS)[0]:
                    connection, _ = self._listener.accept()
                    children += self._taken(connection)
                    until = time.monotonic() + self._idle
        finally:
            self._path.unlink(missing_ok=True)
            self._listener.close()

    def _taken(self, connection: socket.socket) -> list[int]:
        """Fork a process for the next command line, if one comes."""
        with connection:
            connection.settimeout(_SLOW)
            try:
                words = json.loads(connection.makefile("rb").readline(_LONGEST))
                connection.sendall(_TAKEN)
            except (OSError, ValueError):
                return []  # the other process has ended
            connection.settimeout(None)
            return [self._forked(words, connection)]

    def _forked(self, words: Sequence[str], connection: socket.socket | None) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            self._be_the_child(words, connection)
        return child

    def _be_the_child(self, words: Sequence[str], connection: socket.socket | None) -> NoReturn:
        """Answer the message; this process never returns to the loop."""
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._listener.close()
            for descriptor in self._held:  # else a child holds the lock when this process has ended
                os.close(descriptor)
            status = _status_of(self._run, words)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
                if connection is not None:
                    connection.sendall(b"%d\n" % status)
            os._exit(status)


def _status_of(run: Run, words: Sequence[str]) -> int:
    try:
        run(words)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        arguments: Those of :func:`lightning_fed.flower.clientapp.main`.

    Returns:
        The exit status.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        settings = Settings.of_environment()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if sys.platform != "linux" or words == ["--check"]:  # macOS has libraries that do not bear a fork
        return _status_of(_prepared(), words)
    return answer(words, _prepared, settings)


def _prepared() -> Any:
    """Import the relay, and Flower's modules for a message; an unsupported version of Flower ends the process."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"  # NumPy, which Flower imports, would start threads, and those do not survive a fork
    try:
        from lightning_fed.flower import clientapp

        with contextlib.suppress(ImportError):  # main() says it
            clientapp.runner()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
    return clientapp.main


if __name__ == "__main__":
    sys.exit(main())
