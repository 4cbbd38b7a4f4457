"""The children of the engine ``Isolated`` in their parent: a process, and a thread that exchanges messages with it."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, final

from lightning_fed.core.channel import Channel, Message
from lightning_fed.core.process_groups import send
from lightning_fed.engines.isolated.child import serve
from lightning_fed.engines.isolated.shared_memory import Slot, create


@final
class EndedError(RuntimeError):
    """A child has ended in the middle of a training; the message names the exit code."""


@dataclass
class Task:
    """One worker's training.

    Args:
        worker: The worker's name.
        job: The job as bytes.
        parts: The datamodule and the worker's own state.
        size: How large the message with its update may become.
        seconds: How long the child may take; None: as long as it does.
        answer: The child's answer. Its exception is an :class:`EndedError` if the child has ended, or a
            ``TimeoutError`` if it was ended because it took too long.
    """

    worker: str
    job: bytes
    parts: list[bytes]
    size: int
    seconds: float | None
    answer: Future[Message]


# Smaller updates are sent as fast through the pipe; and whoever keeps many updates (a robust aggregator) gets the
# others through it.
_LEAST_SHARED = 2**18
_MOST_SLOTS = 8


_GUARD = 'a script must begin its run under `if __name__ == "__main__":`, since children import it'
_PATIENCE = 5.0  # seconds to wait for a child that is in the middle of something


@final
class Child:
    """A child process, and the thread that speaks with it.

    Args:
        tasks: Where the thread takes its tasks from; None ends it.
    """

    def __init__(self, tasks: queue.SimpleQueue[Task | None]) -> None:
        self._settings = b""
        self._tasks = tasks
        self._channel: Channel | None = None
        self._process: Any = None
        self._job: bytes | None = None
        self._slots: list[Slot] = []
        self._is_busy = threading.Lock()
        self._is_hung_up = False
        self._thread = threading.Thread(target=self._work, daemon=True)

    def set_up(self, settings: bytes) -> None:
        """Begin a fit, without waiting until the child is ready.

        Args:
            settings: The child's settings from the beginning.
        """
        self._settings = settings
        try:
            if self._channel is not None:
                self._send_settings()
        except ConnectionError:
            self._forget_process()
        if self._channel is None:
            self._begin()

    def _begin(self) -> None:
        self._job, self._slots = None, []
        ours, theirs = socket.socketpair()
        method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, method))
        try:
            process.start()
        except RuntimeError:  # this is a child that has not imported the script yet
            ours.close()
            raise RuntimeError(f'engine="isolated": a child process began the run again; {_GUARD}') from None
        finally:
            theirs.close()
        self._process = process
        self._channel = Channel(ours)
        self._send_settings()

    def _send_settings(self) -> None:
        assert self._channel is not None
        self._job, self._slots = None, []
        self._channel.send([self._settings], settings=True)

    def _forget_process(self, patience: float = _PATIENCE) -> int | None:
        """Let go of a child that has ended, or that is to end now; the next task gets another one.

        Returns:
            Its exit code, if it has one.
        """
        assert self._channel is not None
        self._channel.close()
        self._channel, self._job, self._slots = None, None, []
        return self._end_process(time.monotonic() + patience)

    def rest(self) -> bool:
        """End a fit: let the child drop module and data; returns whether it does, as it is not in a training."""
        if not self._is_busy.acquire(timeout=_PATIENCE):
            return False
        try:
            self._settings, self._job, self._slots = b"", None, []
            if self._channel is not None:
                self._channel.send(rest=True)
        except ConnectionError:
            self._forget_process()
        finally:
            self._is_busy.release()
        return True

    def await_start(self) -> None:
        """Wait until the child is ready, and begin to work.

        Raises:
            RuntimeError: If it could not start.
        """
        self._hear_that_it_is_ready()
        if not self._thread.is_alive():
            self._thread.start()

    def _hear_that_it_is_ready(self) -> None:
        assert self._channel is not None
        try:
            fields, _ = self._channel.receive()
        except (EOFError, ConnectionError):
            code = self._forget_process(patience=0.0 if self._is_hung_up else _PATIENCE)
            raise RuntimeError(
                f'engine="isolated": a child process ended as it started (exit code {code}); {_GUARD}'
            ) from None
        if "failed" in fields:
            raise RuntimeError(
                f'engine="isolated": a child process could not start: {fields["failed"]}; classes and functions that '
                f"it needs must lie in a file that it can import\n{fields['traceback']}"
            )

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            if task.answer.set_running_or_notify_cancel():
                with self._is_busy:
                    try:
                        answer: Message | BaseException = self._exchange(task)
                    except BaseException as error:
                        answer = error
                if isinstance(answer, BaseException):
                    task.answer.set_exception(answer)
                else:
                    task.answer.set_result(answer)
                del task, answer  # while it waits for another, nobody needs these

    def _exchange(self, task: Task) -> Message:
        if self._is_hung_up:
            raise EndedError("the fit is over")
        if self._channel is None:
            self._begin()
            self._hear_that_it_is_ready()
        assert self._channel is not None
        try:
            if task.job is not self._job:
                self._channel.send([task.job], job=True)
                self._job = task.job
            number, fd = self._slot(task.size)
            self._channel.send(task.parts, fd, train=task.worker, slot=number, size=task.size)
            fields, parts = self._channel.receive(task.seconds)
            if fields.get("in_slot") is not None:
                parts[0] = self._slots[number].read(fields["in_slot"])
            if fields["is_lost"]:  # its device takes no more work from it; the next task gets another child
                self._forget_process(patience=0.0)
            return fields, parts
        except TimeoutError:  # one of OSError's
            self._forget_process(patience=0.0)
            raise
        except (EOFError, OSError):
            raise EndedError(f"exit code {self._forget_process()}") from None

    def _slot(self, size: int) -> tuple[int, int | None]:
        """Find memory for an update that nobody reads any more; its number, and its file if it is new to the child."""
        if size < _LEAST_SHARED:
            return -1, None
        for number, slot in enumerate(self._slots):
            if slot.is_free and slot.size >= size:
                return number, None
        fd = create(size) if len(self._slots) < _MOST_SLOTS else None
        if fd is None:
            return -1, None
        self._slots.append(Slot(os.dup(fd), size))
        return len(self._slots) - 1, fd

    def hang_up(self) -> None:
        """Close the channel, at which the child ends, and start no other child."""
        self._is_hung_up = True
        if self._channel is not None:
            self._channel.close()

    def end(self, deadline: float) -> None:
        """Wait until the child has ended, or end it, and with it all processes that it has started.

        Args:
            deadline: When to wait no longer, by ``time.monotonic``.
        """
        self._end_process(deadline)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)  # it may be about to start another process
            self._end_process(deadline)

    def _end_process(self, deadline: float) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        process.join(max(0.0, deadline - time.monotonic()))
        # Those of a DataLoader live on if the child was killed, and for ever if they hang; see child.serve().
        send(process.pid, signal.SIGKILL)
        process.kill()  # in case it was not yet as far as to have a group of its own
        process.join()
        return int(process.exitcode)


def stop(children: Sequence[Child], tasks: queue.SimpleQueue[Task | None], parent: int) -> None:
    """End children and their threads.

    Args:
        children: The children.
        tasks: Where they take their tasks from.
        parent: The process that has them. In one that was forked from it this does nothing: a connection that is shut
            down there is shut down in both.
    """
    if os.getpid() != parent:
        return
    for child in children:
        tasks.put(None)
        child.hang_up()
    deadline = time.monotonic() + _PATIENCE
    for child in children:
        child.end(deadline)
