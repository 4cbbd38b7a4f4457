"""Number of workers whose updates are passed on together."""

from __future__ import annotations

from lightning_fed.wire import Job

# An update passes half a dozen steps on its way to the aggregate, each with a cost of its own that is small only beside
# a large model's arithmetic. Blocks are faster than single updates (benchmarks/overhead.py). Blocks beyond 16 MB no
# longer lie in a cache.
_BLOCK_BYTES = 8 * 2**20
_LONGEST_BLOCK = 64


def block_length(job: Job) -> int:
    """Return how many workers to train before their updates are passed on: as many as fit 8 MB, at least one."""
    size = job.model.layout.size * job.model.layout.dtype.itemsize + sum(
        buffer.nbytes for buffer in job.model.buffers.values()
    )
    return min(max(_BLOCK_BYTES // size, 1), _LONGEST_BLOCK)
