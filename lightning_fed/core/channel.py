"""A connection between two processes of a machine: messages of fields and bytes."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any, TypeAlias, final

import numpy as np

Message: TypeAlias = tuple[dict[str, Any], list[memoryview]]
"""Some fields, and some parts, which are bytes."""


@final
class Channel:
    """One end of a connection between two processes of this machine.

    Args:
        connection: A connected socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._deadline: float | None = None

    def send(self, parts: Sequence[bytes | memoryview] = (), fd: int | None = None, **fields: Any) -> None:
        """Send a message.

        Args:
            parts: Its bytes.
            fd: An open file that is sent with the message; it is closed here.
            fields: The fields, sent as JSON.
        """
        head = json.dumps({**fields, "sizes": [len(part) for part in parts], "file": fd is not None}).encode()
        self._socket.sendall(struct.pack("<Q", len(head)) + head)
        if fd is not None:
            socket.send_fds(self._socket, [b"f"], [fd])
            os.close(fd)
        for part in parts:
            self._socket.sendall(part)

    def receive(self, seconds: float | None = None) -> Message:
        """Wait for a message.

        Args:
            seconds: The largest time to wait, in seconds; None: no limit.

        Raises:
            EOFError: If the other process has ended.
            TimeoutError: If the message is not complete in time; the channel is then unusable.
        """
        self._deadline = None if seconds is None else time.monotonic() + seconds
        try:
            return self._receive()
        finally:
            if self._deadline is not None:
                self._socket.settimeout(None)

    def _receive(self) -> Message:
        (length,) = struct.unpack("<Q", self._read(8))
        fields = json.loads(bytes(self._read(length)))
        if fields.pop("file"):
            _, (fields["fd"],), *_ = socket.recv_fds(self._socket, 1, 1)
        return fields, [self._read(size) for size in fields.pop("sizes")]

    def _read(self, size: int) -> memoryview:
        whole = memoryview(np.empty(size, dtype=np.uint8).data)  # not zeroed, as a bytearray is
        at = 0
        while at < size:
            if self._deadline is not None:
                self._socket.settimeout(max(self._deadline - time.monotonic(), 1e-3))
            count = self._socket.recv_into(whole[at:])
            if not count:
                raise EOFError("the other process has ended")
            at += count
        return whole

    def close(self) -> None:
        """Close this end, also if a thread reads from it; the other process ends."""
        with contextlib.suppress(OSError):  # it may have been the other process that ended
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
