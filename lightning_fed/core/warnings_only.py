"""Suppression of what Lightning and this package log about a Trainer that no user has asked for."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from lightning_utilities.core import rank_zero


@contextmanager
def warnings_only() -> Iterator[None]:
    """Context in which nothing below a warning is logged on rank zero."""
    level = rank_zero.log.level
    rank_zero.log.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        rank_zero.log.setLevel(level)
