"""Errors that a node answers when it refuses a request of a server."""

from __future__ import annotations

from typing import Any, final

from lightning_fed.wire import describe


class RefusalError(ValueError):
    """A node refuses a request. The reason contains nothing of a worker's data.

    Args:
        reason: The reason, one sentence.
        more: Further fields of the answer.
    """

    def __init__(self, reason: str, **more: Any) -> None:
        super().__init__(reason)
        self.more = more


@final
class PolicyError(RefusalError):
    """The node's policy refuses a request; the message names the request and the setting."""


def words_of(error: BaseException, may_tell: bool) -> str:
    """Return the description of an exception that may leave: under a promise only its type, as its text may hold data.

    Args:
        error: The exception.
        may_tell: Whether the text of the exception may leave, too.
    """
    return describe(error) if may_tell else f"{type(error).__name__}; what it says stays at its node, in the log"
