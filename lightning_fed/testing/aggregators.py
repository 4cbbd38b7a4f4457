"""The contract of aggregators."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.testing.workload import ROUNDING, made_up, numbers
from lightning_fed.wire import Aggregate, GlobalModel, Job, LocalTraining, Updates, wide


def check_aggregator(make: Callable[[], Aggregator[Any]], cohort_size: int = 11) -> None:
    """Check an aggregator against its contract.

    - The aggregate of n equal updates is that update; the same holds for buffers.
    - Neither the order of workers nor the division of the stream into stacks matters.
    - The result has the shapes of the model, and at least float32 for any dtype of the model.
    - Extra vectors of an algorithm follow the same rule, if all workers took equally many steps.
    - Inputs are not modified, and the aggregator itself stays unchanged, also after ``remember``.
    - Its server state is a copy, and not a part of the aggregate.

    All checks run in one process; for several processes, write fold and finish with ``Processes`` as the classes of
    ``lightning_fed.aggregation`` do.

    Args:
        make: Makes the aggregator.
        cohort_size: A sufficient number of workers for it.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        _check(make, cohort_size, dtype)


def _check(make: Callable[[], Aggregator[Any]], n: int, dtype: torch.dtype) -> None:
    aggregator = make()
    aggregator.check(n)
    settings = copy.deepcopy(vars(aggregator))
    job = Job(
        *(0, 0, 0),
        GlobalModel(
            {"weight": torch.zeros(3, 2, dtype=dtype), "bias": torch.zeros(2, dtype=dtype)},
            {"mean": torch.zeros(2, dtype=dtype), "count": torch.zeros((), dtype=torch.int64)},
        ),
        LocalTraining(),
        extra=("besides",),
    )
    names = [f"w{i:02}" for i in range(n)]
    updates = made_up(job, names)
    updates = replace(updates, extra={"besides": updates.delta.clone()})
    before = copy.deepcopy(updates)

    whole = _combined(aggregator, job, [updates])
    torch.testing.assert_close(
        numbers(updates), numbers(before), rtol=0, atol=0, msg=lambda m: f"updates were changed: {m}"
    )
    _check_memory(aggregator, job, updates)
    assert vars(aggregator) == settings, "a round changed the aggregator's settings"
    assert whole.delta.shape == (job.model.layout.size,), f"the aggregate has shape {tuple(whole.delta.shape)}"
    assert whole.delta.dtype == wide(dtype), f"the aggregate of a {dtype} model is {whole.delta.dtype}"
    assert whole.buffers.keys() == job.model.buffers.keys(), f"the aggregate has the buffers {set(whole.buffers)}"
    for name, buffer in job.model.buffers.items():
        assert whole.buffers[name].shape == buffer.shape, f"buffer {name!r} changed its shape"
    assert not whole.buffers["count"].is_floating_point(), "an integer buffer became a float"
    equal_steps = _combined(make(), job, [replace(updates, steps=torch.ones_like(updates.steps))])
    _same(equal_steps.extra["besides"], equal_steps.delta, "extra goes by another rule than delta")

    rows = [updates.rows(torch.arange(n) == i) for i in range(n)]
    for what, stacks in (
        ("one by one", rows),
        ("backwards", rows[::-1]),
        ("in two stacks", [updates.rows(torch.arange(n) < 2), updates.rows(torch.arange(n) >= 2)]),
    ):
        other = _combined(make(), job, stacks)
        _same(other.delta, whole.delta, f"the same updates {what} give another delta")
        for name, buffer in whole.buffers.items():
            _same(other.buffers[name], buffer, f"the same updates {what} give another buffer {name!r}")

    agreed = _combined(make(), job, [replace(rows[0], workers=(name,)) for name in names])
    _same(agreed.delta, rows[0].delta[0], "equal updates do not give that update")
    for name in job.model.buffers:
        _same(agreed.buffers[name], rows[0].buffers[name][0], f"equal updates do not give that buffer, {name!r}")


def _check_memory(aggregator: Aggregator[Any], job: Job, updates: Updates) -> None:
    aggregate, server = _combined(aggregator, job, [updates]), Tensors()
    aggregator.remember(aggregate, server)
    before = copy.deepcopy(server)
    for tensor in (aggregate.delta, *aggregate.buffers.values(), *aggregate.extra.values()):
        tensor.zero_()
    _same_tensors(server, before, "what it remembers changes with the aggregate, so it is no copy")
    aggregator.of_round(job, server)
    _same_tensors(server, before, "of_round() changed what is remembered")


def _same_tensors(a: Tensors, b: Tensors, what: str) -> None:
    assert a.keys() == b.keys(), f"{what}: {sorted(a)} in place of {sorted(b)}"
    torch.testing.assert_close(a, b, rtol=0, atol=0, msg=lambda message: f"{what}: {message}")


def _combined(aggregator: Aggregator[Any], job: Job, stacks: Sequence[Updates]) -> Aggregate:
    with torch.no_grad():
        of_round = aggregator.of_round(job, {})
    return of_round.finish(of_round.fold(iter(stacks), job), Processes())


def _same(a: Tensor, b: Tensor, what: str) -> None:
    tolerance = max(ROUNDING.get(tensor.dtype, 0.0) for tensor in (a, b))
    torch.testing.assert_close(
        a.double(), b.double(), rtol=tolerance, atol=tolerance, msg=lambda message: f"{what}: {message}"
    )
