"""A relay of TCP connections that a test can cut, as a network fails: nothing arrives, and nobody is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable


class CutWire:
    """Listens on a port of this machine and passes all bytes on to another; a context manager.

    While it is cut, connections stay open and their bytes are lost. What was open then never carries anything again, as
    with a router that has forgotten it; new connections work once it is mended.

    Args:
        port: Where to.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._cut = threading.Event()
        self._lost: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self) -> None:
        """Lose all that is sent from now on."""
        self._cut.set()
        self._lost |= set(self._open)

    def mend(self) -> None:
        """Pass on what new connections send."""
        self._cut.clear()

    def __enter__(self) -> CutWire:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in list(self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # which wakes the thread that reads from it
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._open):
            each.close()

    def _start(self, target: Callable[..., None], *arguments: socket.socket) -> None:
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                try:
                    other = socket.create_connection(("127.0.0.1", self._to), 10)
                except OSError:  # nobody listens there any more
                    one.close()
                    continue
                other.settimeout(None)
                self._open |= {one, other}
                if self._cut.is_set():
                    self._lost |= {one, other}
                self._start(self._pass_on, one, other)
                self._start(self._pass_on, other, one)

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._lost:
                    sink.sendall(data)
        if source not in self._lost:  # else the other side would hear that this one has gone
            for each in (source, sink):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
