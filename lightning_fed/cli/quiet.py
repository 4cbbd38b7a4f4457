"""Suppression of messages that are not about the user's run, while a command runs; all others are shown."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core import rank_zero

from lightning_fed._lightning import pl

_LOGGED = re.compile(
    r"💡 Tip: "  # advertises other packages of Lightning's makers
    r"|(TPU|HPU) available: False"  # a device that nobody has asked for is not there
    r"|(\[rank: \d+\] )?Seed set to \d+$"  # a line of our own says what it decides
)


@contextmanager
def quiet() -> Iterator[None]:
    """Context in which a few lines of Lightning's, and no others, are left out."""
    loggers = (rank_zero.log, logging.getLogger(pl.seed_everything.__module__))
    for logger in loggers:
        logger.addFilter(_says_something)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    return _LOGGED.match(record.getMessage()) is None
