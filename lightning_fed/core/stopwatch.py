"""A stopwatch for what comes piece by piece."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar, final

T = TypeVar("T")


@final
@dataclass
class Stopwatch:
    """Adds up how long one waits for the items of streams.

    Args:
        seconds: The sum so far, in seconds.
    """

    seconds: float = 0.0

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Pass on items, and count the time that each takes to come; not what is done with it afterwards.

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
            del item  # its memory is free when the next one is made; see worker/outbox.py
