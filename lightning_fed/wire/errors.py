"""Errors of a round, each with the worker's name, the round and the fix."""

from __future__ import annotations

from typing import final

from lightning_fed.core.watch import EndingError, said


@final
class WorkerError(RuntimeError):
    """One worker failed in one round.

    Args:
        worker: The worker's name.
        round: The round, counted from 0.
        reason: What happened, in words.
    """

    def __init__(self, worker: str, round: int, reason: str) -> None:
        super().__init__(worker, round, reason)
        self.worker = worker
        self.round = round
        self.reason = reason

    def __str__(self) -> str:
        return f"worker {self.worker!r} failed in round {self.round}: {self.reason}"


@final
class RoundError(RuntimeError):
    """A round or an evaluation could not be finished; the global model is as it was before the round.

    Raised if fewer than ``min_workers`` are left, or none whose data could be evaluated; if updates do not fit together
    (buffers of other shapes than those of most workers); or if the server's optimizer does not take its step.
    """


@final
class BudgetError(RuntimeError):
    """Another round would exceed the privacy budget, and ``min_epochs`` or ``min_steps`` of the Trainer demand it.

    Without these, training stops before that round, without an error.
    """


@final
class WireError(ValueError):
    """A message that cannot be read, does not fit its job, or cannot be written; the error contains the fix."""


def describe(error: BaseException) -> str:
    """Return an exception's type and message.

    >>> describe(KeyError("label"))
    "KeyError: 'label'"
    >>> describe(MemoryError())
    'MemoryError'
    """
    if isinstance(error, EndingError):
        return str(error)
    return said(error)
