"""Stub."""

from __future__ import annotations

from lightning_fed.wire.job import Job
from lightning_fed.wire.updates import Updates


def job_bytes(job: Job) -> int:
    """Stub."""
    return sum(t.nbytes for t in (*job.model.parameters.values(), *job.model.buffers.values(), *job.sent.values()))


def updates_bytes(updates: Updates, job: Job) -> list[int]:
    """Stub."""
    sent = sum(t.nbytes for t in (updates.delta, *updates.buffers.values(), *updates.extra.values()))
    return [sent // len(updates.workers)] * len(updates.workers)
