"""Bytes of a run, and planned bytes of a round."""

from __future__ import annotations

from typing import NamedTuple, final

from lightning_fed.core.words import packed_length
from lightning_fed.wire import Coder, Job
from lightning_fed.wire.codec import job_bytes
from lightning_fed.wire.sealed import Sealer


@final
class Traffic(NamedTuple):
    """Bytes that have travelled.

    Args:
        down: From the server to workers.
        up: From workers to the server.
    """

    down: int = 0
    up: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """Return the sum of both."""
        return Traffic(self.down + other.down, self.up + other.up)

    def times(self, count: int) -> Traffic:
        """Return as much for each of several workers."""
        return Traffic(self.down * count, self.up * count)

    @property
    def scalars(self) -> dict[str, float]:
        """The curves of it, in megabytes of 10⁶ bytes."""
        return {"comm/megabytes_down_total": self.down / 1e6, "comm/megabytes_up_total": self.up / 1e6}


def planned(job: Job, coder: Coder | None = None, sealer: Sealer | None = None) -> Traffic:
    """Return what one worker of a cohort receives and sends, as far as it follows from the job.

    For a run in which not even the lengths of messages may reveal who has replied, or which values were logged.

    Args:
        job: The job of the cohort, without parts for single workers.
        coder: The compression of vectors, if any.
        sealer: The sealing of vectors, if any.

    Returns:
        The length of the job; and of the answer its vectors alone, since buffers stay with the workers of a promise.
    """
    if sealer is not None:
        return Traffic(job_bytes(job), packed_length(sealer.size(job, job.model.buffers.keys()), sealer.bits))
    vector = job.model.vector.nbytes if coder is None else coder.code_bytes(job, frozenset())
    return Traffic(job_bytes(job), vector * (1 + len(job.extra)))
