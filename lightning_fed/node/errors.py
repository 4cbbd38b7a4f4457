"""Errors of a node that does not do what a server asks for."""

from __future__ import annotations

from typing import Any, final

from lightning_fed.wire import describe


class RefusalError(ValueError):
    """A node refuses; says why in words that hold nothing of a worker's data.

    Args:
        reason: The sentence.
        more: Other fields of the answer.
    """

    def __init__(self, reason: str, **more: Any) -> None:
        super().__init__(reason)
        self.more = more


@final
class PolicyError(RefusalError):
    """The node's policy refuses what a server asks for; the message says what, and which setting it is."""


def words_of(error: BaseException, may_tell: bool) -> str:
    """Return what is told of an exception: under a promise only its type, since its words may hold data.

    Args:
        error: The exception.
        may_tell: Whether all may be told.
    """
    return describe(error) if may_tell else f"{type(error).__name__}; what it says stays at its node, in the log"
