"""Updates that came one by one, stacked as an engine yields them that has trained their workers itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from lightning_fed.engines.blocks import block_length
from lightning_fed.wire import Job, Updates, WorkerError
from lightning_fed.wire.codes import Codes
from lightning_fed.wire.sealed import Sealed


def in_blocks(results: Iterable[Updates | WorkerError], job: Job, workers: int) -> Iterator[Updates | WorkerError]:
    """Stack results of single workers as :class:`Sequential` does, so that sums come out the same to the last bit.

    Args:
        results: One for each worker, in the cohort's order.
        job: Theirs.
        workers: Their number.
    """
    length, rest = block_length(job), iter(results)
    for start in range(0, workers, length):
        block: list[Updates] = []
        for _ in range(min(length, workers - start)):
            result = next(rest)
            if isinstance(result, Updates):
                block.append(result)
            else:
                yield from _together(block)
                block = []
                yield result
            del result
        yield from _together(block)


def _together(updates: Sequence[Updates]) -> Iterator[Updates]:
    """Stack the updates of single workers as :class:`Sequential` does: those of one kind, as long as they follow on."""
    for _, group in groupby(updates, key=_kind):
        alike = list(group)
        if len(alike) == 1:
            yield alike[0]
            continue
        first = alike[0]

        def cat(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors))

        yield replace(
            first,
            workers=tuple(update.workers[0] for update in alike),
            delta=cat([update.delta for update in alike]),
            buffers={name: cat([update.buffers[name] for update in alike]) for name in first.buffers},
            examples=cat([update.examples for update in alike]),
            weight=cat([update.weight for update in alike]),
            loss=cat([update.loss for update in alike]),
            steps=cat([update.steps for update in alike]),
            metrics={name: cat([update.metrics[name] for update in alike]) for name in first.metrics},
            rates={name: cat([update.rates[name] for update in alike]) for name in first.rates},
            metric_states={
                kind: {name: cat([update.metric_states[kind][name] for update in alike]) for name in own}
                for kind, own in first.metric_states.items()
            },
            extra={name: cat([update.extra[name] for update in alike]) for name in first.extra},
            codes=None if first.codes is None else Codes.together([u.codes for u in alike if u.codes is not None]),
            sealed=None if first.sealed is None else Sealed.together([u.sealed for u in alike if u.sealed is not None]),
        )


def _kind(updates: Updates) -> object:
    buffers = tuple((name, buffer.shape, buffer.dtype) for name, buffer in updates.buffers.items())
    states = [(kind, list(own)) for kind, own in updates.metric_states.items()]
    return (
        tuple(updates.metrics),
        tuple(updates.rates),
        updates.shown,
        states,
        buffers,
        tuple(updates.extra),
        updates.stays,
        None if updates.sealed is None else tuple(updates.sealed.scalars),
    )
