"""What every transform must do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import torch

from lightning_fed.testing.workload import ROUNDING, job_of, layered, made_up, numbers
from lightning_fed.transforms import UpdateTransform
from lightning_fed.wire import Aggregate


def check_transform(make: Callable[[], UpdateTransform]) -> None:
    """Hold a transform to its contract.

    - A worker's update depends on that worker's alone: what else is in the stack does not matter.
    - Workers, shapes, dtypes and what is reported (losses, metrics, numbers) stay; finite numbers stay finite.
    - What comes in is not written to, at the workers and at the server.

    Args:
        make: Makes the transform.

    Raises:
        AssertionError: Saying what does not hold.
    """
    for dtype in (torch.float32, torch.float64):
        _check(make, dtype)


def _check(make: Callable[[], UpdateTransform], dtype: torch.dtype) -> None:
    job = job_of(layered().to(dtype))
    updates = made_up(job, [f"w{i}" for i in range(5)])
    others = replace(updates, delta=torch.cat([updates.delta[:1], 100 + updates.delta[1:]]))
    before = copy.deepcopy(updates)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        after = make().worker(updates)
        torch.manual_seed(0)  # a transform may draw; the first worker's numbers are drawn first
        among_others = make().worker(others)
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
        *(after.delta[0], among_others.delta[0]),
        rtol=ROUNDING[dtype],
        atol=ROUNDING[dtype],
        msg=lambda m: f"a worker's update depends on another's: {m}",
    )
