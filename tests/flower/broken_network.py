"""A relay of TCP connections that a test can cut, as a network fails: nothing arrives, and nobody is told."""

from __future__ import annotations

import contextlib
import socket
import threading


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
        threading.Thread(target=self._accept, daemon=True).start()

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
        for each in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                each.close()

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
                for ends in ((one, other), (other, one)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._lost:
                    sink.sendall(data)
        if source not in self._lost:  # else the other side would hear that this one has gone
            for each in (source, sink):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                    each.close()
                self._open.discard(each)
