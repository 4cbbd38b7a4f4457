"""Supervision of workers' code: its exceptions become that worker's error, and its process-wide changes are undone.

``sys.exit``, ``KeyboardInterrupt`` and ``GeneratorExit`` end a program, since ``except Exception`` does not catch them.
In the code of one worker of many they are that worker's failure, unless a signal has arrived: then the user, or the
machine's scheduler, ends the run. ``os._exit`` and a crash end the process; only an engine with separate processes for
workers (``engine="isolated"``) continues after them.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import Any, final

from lightning_fed.core.process_settings import ProcessSettings

_log = logging.getLogger(__name__)

_ENDING = (signal.SIGINT, signal.SIGTERM)
_arrived: int | None = None  # the number of such signals while they are counted; None: they are not counted


@final
class EndingError(RuntimeError):
    """A worker's code has raised an exception that would have ended the program."""


def text_of(error: BaseException) -> str:
    """Return the text of an exception; empty if its class, which may be a worker's code, fails to return it."""
    try:
        return str(error)
    except Exception:
        return ""


def said(error: BaseException) -> str:
    """Return the text of an exception, with its type.

    >>> said(KeyError("label")), said(MemoryError())
    ("KeyError: 'label'", 'MemoryError')
    """
    text = text_of(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def counting_signals() -> Iterator[None]:
    """Count the signals that end a run; :class:`Watch` then distinguishes them from exceptions of a worker's code.

    Outside of this context :class:`Watch` counts them itself. Setting handlers is slow, so a round sets them once for
    all workers. Signals are handled as before.
    """
    global _arrived
    if _arrived is not None or threading.current_thread() is not threading.main_thread():
        yield  # only the main thread handles signals
        return
    before = {number: signal.getsignal(number) for number in _ENDING}
    _arrived = 0
    try:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, _counted(handler))
        yield
    finally:
        _arrived = None
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)


def _counted(handler: Callable[[int, Any], Any]) -> Callable[[int, Any], Any]:
    def handle(number: int, frame: Any) -> Any:
        global _arrived
        _arrived = (_arrived or 0) + 1
        return handler(number, frame)

    return handle


@final
class Watch:
    """Supervises the code of workers, one call after another.

    Example::

        with watch.over("bob", round=3):
            ...  # bob's code

    A raised object that is not an ``Exception`` becomes an :class:`EndingError`, unless a signal has arrived.
    """

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        """The settings of the process that were changed so far and set back, and the first worker that did so."""

    def over(self, worker: str, round: int) -> _Watched:
        """Return a context that supervises code.

        Args:
            worker: The worker or workers of the code.
            round: The round.
        """
        return _Watched(self, worker, round)

    def note(self, worker: str, settings: Sequence[str]) -> None:
        """Record process-wide settings that a worker has changed and that are restored."""
        for setting in settings:
            self.changed.setdefault(setting, worker)


@final
class _Watched:
    def __init__(self, watch: Watch, worker: str, round: int) -> None:
        self._watch = watch
        self._worker = worker
        self._round = round

    def __enter__(self) -> None:
        self._settings = ProcessSettings()
        self._counting = counting_signals() if _arrived is None else nullcontext()
        self._counting.__enter__()
        self._arrived = _arrived

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        arrived = _arrived
        self._counting.__exit__(None, None, None)
        changed = self._settings.set_back()
        if changed:
            self._watch.note(self._worker, changed)
        if error is None or isinstance(error, Exception):
            return
        if arrived != self._arrived:
            _log.warning("interrupted in round %d, while worker %r was at work", self._round, self._worker)
            return
        raise EndingError(
            f"its code raised {said(error)}, as if to end the whole program; raise an error that says what is wrong"
        ) from error
