"""A stopwatch for the items of streams."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar, final

T = TypeVar("T")


@final
@dataclass
class Stopwatch:
    """Adds up the waiting time for the items of streams.

    Args:
        seconds: The sum so far, in seconds.
    """

    seconds: float = 0.0

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield items, and count the time that each takes to arrive, but not its later use.

        Args:
            items: The stream.
        """
        stream = iter(items)
        while True:
            since = time.perf_counter()
            try:
                item = next(stream)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - since
            yield item
            del item  # releases its memory before the next one is made; see worker/outbox.py
