"""Errors about what an engine cannot do."""

from __future__ import annotations

from typing import final


@final
class UnvectorizableError(RuntimeError):
    """Workers cannot be trained in lockstep; the message is the reason.

    Args:
        reason: In words.
        only_this_worker: Whether it is about one worker's data, and others may still be trained together.
        only_together: Whether it is about all of them together, and nobody's fault: each is well by itself.
    """

    def __init__(self, reason: str, only_this_worker: bool = False, only_together: bool = False) -> None:
        super().__init__(reason)
        self.only_this_worker = only_this_worker
        self.only_together = only_together
