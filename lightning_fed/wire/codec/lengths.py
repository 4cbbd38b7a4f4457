"""The lengths of messages, without an encoding."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch

from lightning_fed.wire import container
from lightning_fed.wire.attributes import Attributes
from lightning_fed.wire.codec.jobs import job_parts
from lightning_fed.wire.codec.updates import updates_parts
from lightning_fed.wire.container import Spec, escaped, specs_of
from lightning_fed.wire.global_model import GlobalModel
from lightning_fed.wire.job import Job
from lightning_fed.wire.updates import Updates

_MAX_CACHED = 4096
_FIXED: dict[Hashable, tuple[int, int]] = {}
_TOKENS: WeakKeyDictionary[GlobalModel, object] = WeakKeyDictionary()


def job_bytes(job: Job) -> int:
    """Return the number of bytes of :func:`encode_job`, without an encoding.

    Args:
        job: The job; for one worker, ``job.of(worker)``.
    """
    attributes = Attributes(job.attributes)
    key = (
        _token(job.model),
        len(job.work),
        len(job.failed),
        None if job.penalty is None else tuple((t.dtype, t.shape) for t in job.penalty.linear.values()),
        tuple((m.parameters.dtype, m.parameters.shape, specs_of(m.buffers)) for m in job.start.values()),
        job.frozen,
        job.wants_gradient,
        specs_of(job.sent),
        job.extra,
        job.record_privacy is None,
        tuple(job.promise),
        tuple(job.validated),
        len(attributes.numbers),
        tuple((t.dtype, t.shape) for t in attributes.tensors),
    )
    integers = [
        *job.failed,
        job.round,
        job.cohort,
        job.seed,
        job.last,
        job.epoch,
        job.population,
        job.local.epochs,
        job.local.steps,
    ]
    if job.record_privacy is not None:
        integers.append(job.record_privacy.seed)
    varies = _digits(integers) + sum(map(escaped, (*job.work, *job.start)))
    if job.penalty is not None:
        varies += sum(map(escaped, job.penalty.linear))
    if job.attributes:
        varies += container.json_length(attributes.tree)

    def measure() -> tuple[int, int]:
        header, tensors = job_parts(job, attributes)
        return container.length(header, specs_of(tensors))

    fixed, size = _fixed(key, varies, measure)
    return container.padded(fixed + varies) + size


def updates_bytes(updates: Updates, job: Job) -> list[int]:
    """Return the number of bytes of :func:`encode_updates` for each worker's row alone, without an encoding.

    Args:
        updates: Updates of any number n of workers.
        job: The job that they answer.

    Returns:
        n numbers, in the order of ``updates.workers``.
    """
    if not updates.workers:
        return []
    travel = {name: t for name, t in updates.buffers.items() if name not in updates.stays}
    key = (
        _token(job.model) if updates.stays else None,
        updates.stays,
        updates.delta.dtype,
        updates.delta.shape[1],
        None if updates.gradient is None else (updates.gradient.dtype, updates.gradient.shape[1]),
        tuple(updates.metrics),
        tuple(updates.rates),
        tuple(updates.shown.items()),
        tuple(
            (kind, name, t.dtype, t.shape[1:]) for kind, own in updates.metric_states.items() for name, t in own.items()
        ),
        tuple(updates.buffers),
        tuple((t.dtype, t.shape[1:]) for t in travel.values()),
        tuple((name, t.dtype, t.shape[1:]) for name, t in updates.extra.items()),
        None if updates.codes is None else tuple((what, t.shape[1]) for what, t in updates.codes.rows.items()),
        None if (s := updates.sealed) is None else (s.words.shape[1], s.bits, tuple(s.scalars)),
    )

    def measure() -> tuple[int, int]:
        first = torch.zeros(len(updates.workers), dtype=torch.bool)
        first[0] = True
        one = updates if len(updates.workers) == 1 else updates.rows(first)  # which is a copy
        header, tensors = updates_parts(one, job)
        return container.length(header, specs_of(tensors))

    cohort = _digits([updates.cohort])
    own = _escaped_all(updates.workers)
    fixed, size = _fixed(key, cohort + own[0], measure)
    # Names have few lengths.
    whole = {length: container.padded(fixed + cohort + length) + size for length in set(own)}
    return [whole[length] for length in own]


def _fixed(key: Hashable, varies: int, measure: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """Return the lengths of a header without its variable part, and of the tensors behind it; measured once per key.

    Args:
        key: All facts that decide the lengths, except for the variable part.
        varies: The length of the variable part in this message.
        measure: Returns the lengths of this message's header and tensors.
    """
    known = _FIXED.get(key)
    if known is None:
        if len(_FIXED) >= _MAX_CACHED:
            _FIXED.clear()
        head, size = measure()
        known = _FIXED[key] = head - varies, size
    return known


def _token(model: GlobalModel) -> object:
    """Return an object shared by all models with the same names, dtypes and shapes, for a cheap comparison."""
    token = _TOKENS.get(model)
    if token is None:
        token = _TOKENS[model] = _token_of(
            specs_of(model.parameters), specs_of(model.codes), specs_of(model.buffers), model.moved
        )
    return token


@lru_cache(maxsize=256)
def _token_of(
    parameters: tuple[Spec, ...], codes: tuple[Spec, ...], buffers: tuple[Spec, ...], moved: frozenset[str]
) -> object:
    return object()


def _digits(integers: Iterable[int | None]) -> int:
    return sum(4 if integer is None else len(str(integer)) for integer in integers)


def _escaped_all(names: Sequence[str]) -> list[int]:
    """The lengths that names add to a header."""
    together = "".join(names)
    return list(map(len if escaped(together) == len(together) else escaped, names))
