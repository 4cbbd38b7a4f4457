"""The contract of transforms."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from lightning_fed.state import OwnState
from lightning_fed.testing.workload import ROUNDING, job_of, layered, made_up, numbers
from lightning_fed.transforms import UpdateTransform
from lightning_fed.wire import Aggregate, Job, Updates


def check_transform(make: Callable[[], UpdateTransform]) -> None:
    """Check a transform against its contract.

    - A worker's result depends only on that worker's update, not on the rest of the stack or on earlier draws; so
      randomness is derived from the seed, the cohort and the worker's name.
    - Workers, shapes, dtypes and reports (losses, metrics, numbers) stay the same; finite numbers stay finite.
    - Inputs are not modified, at the workers and at the server.

    Args:
        make: Makes the transform.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    for dtype in (torch.float32, torch.float64):
        _check(make, dtype)


def _check(make: Callable[[], UpdateTransform], dtype: torch.dtype) -> None:
    job = job_of(layered().to(dtype))
    updates = made_up(job, [f"w{i}" for i in range(5)])
    others = replace(updates, delta=torch.cat([updates.delta[:1], 100 + updates.delta[1:]]))
    before = copy.deepcopy(updates)
    with torch.no_grad():
        after = _at_worker(make(), updates, job)
        again = _at_worker(make(), updates, job)
        among_others = _at_worker(make(), others, job)
        alone = _at_worker(make(), updates.rows(torch.arange(5) == 3), job)
        aggregate = Aggregate(before.delta[0].clone(), {name: b.clone() for name, b in job.model.buffers.items()})
        server = make().server(aggregate)
    torch.testing.assert_close(
        numbers(updates), numbers(before), rtol=0, atol=0, msg=lambda m: f"updates were changed: {m}"
    )
    torch.testing.assert_close(
        aggregate.delta, before.delta[0], rtol=0, atol=0, msg=lambda m: f"the aggregate was changed: {m}"
    )
    assert after.workers == updates.workers, f"worker() gave updates of {after.workers} for {updates.workers}"
    for name in ("loss", "steps", "examples"):
        torch.testing.assert_close(getattr(after, name), getattr(updates, name), rtol=0, atol=0)
    assert after.metrics == updates.metrics, "worker() changed the metrics"
    for given, taken, where in ((updates.delta, after.delta, "worker"), (aggregate.delta, server.delta, "server")):
        assert taken.shape == given.shape, f"{where}() gave the shape {tuple(taken.shape)} for {tuple(given.shape)}"
        assert taken.dtype == given.dtype, f"{where}() gave {taken.dtype} for {given.dtype}"
        assert bool(torch.isfinite(taken).all()), f"{where}() gave NaN or Inf for finite numbers"
    for name, buffer in updates.buffers.items():
        assert after.buffers[name].shape == buffer.shape, f"worker() changed the shape of buffer {name!r}"
    torch.testing.assert_close(
        *(again.delta, after.delta),
        rtol=0,
        atol=0,
        msg=lambda m: f"the same updates leave otherwise the second time, so derive randomness from the job: {m}",
    )
    torch.testing.assert_close(
        *(after.delta[0], among_others.delta[0]),
        rtol=ROUNDING[dtype],
        atol=ROUNDING[dtype],
        msg=lambda m: f"a worker's update depends on another's: {m}",
    )
    torch.testing.assert_close(
        *(after.delta[3], alone.delta[0]),
        rtol=ROUNDING[dtype],
        atol=ROUNDING[dtype],
        msg=lambda m: f"a worker that is alone in a stack leaves another update than among others: {m}",
    )


def _at_worker(transform: UpdateTransform, updates: Updates, job: Job) -> Updates:
    own = OwnState(transform.tables)
    own.begin(job.cohort, last=None)
    return transform.worker(updates, job, own.scope())
