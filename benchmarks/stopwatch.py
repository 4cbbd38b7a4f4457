"""The timing of every contender."""

from __future__ import annotations

import json
import time

WARMUP = 2
"""Rounds that are not counted: what is compiled or loaded once is compiled or loaded in them."""


class Stopwatch:
    """Times a run from the end of its warm-up, and apart from it all that came before."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._rounds = 0

    def round_ended(self) -> None:
        self._rounds += 1
        if self._rounds == WARMUP:
            self._warm = time.perf_counter()

    def stop(self) -> None:
        """Print milliseconds a round and seconds of warm-up as one line of JSON."""
        seconds = time.perf_counter() - self._warm
        result = {"ms": 1e3 * seconds / (self._rounds - WARMUP), "warmup_s": self._warm - self._started}
        print(json.dumps(result), flush=True)
