"""Shares in an evaluation as bytes, and back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire import container
from lightning_fed.wire.container import Buffer, Packed
from lightning_fed.wire.errors import WireError, WorkerError
from lightning_fed.wire.header import VERSION, Fields, Numbers
from lightning_fed.wire.logged import REDUCTIONS, Part
from lightning_fed.wire.share import LoggedShare, MetricState, Options, Share, StepValue

_KIND = "share"
_SHOWN = ("prog_bar", "logger")


def encode_share(share: Share) -> bytes:
    """Write one worker's share of an evaluation as bytes.

    Args:
        share: The share of a process that has evaluated that worker alone.

    Raises:
        WireError: If a torchmetrics object holds other states than tensors and lists of them.

    >>> share = Share(LoggedShare({"bob": {"val_loss": 0.5}}, {"val_loss": Part("mean", 0.5, 8.0)}))
    >>> decode_share(encode_share(share), "bob").logged.workers
    {'bob': {'val_loss': 0.5}}
    """
    logged = share.logged
    numbers = [number for part in logged.pooled.values() for number in (part.value, part.weight)]
    numbers += [value for values in logged.workers.values() for value in values.values()]
    numbers += [step.value for step in logged.steps.values()]
    tensors: Tensors = {}
    states = [_state(path, state, tensors) for path, state in share.states.items()]
    tensors["numbers"] = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    header: dict[str, object] = {
        "version": VERSION,
        "kind": _KIND,
        "pooled": {name: part.reduction for name, part in logged.pooled.items()},
        "workers": {worker: list(values) for worker, values in logged.workers.items()},
        "objects": dict(logged.objects),
        "options": {name: _options(options) for name, options in logged.options.items()},
        "examples": {worker: int(number) for worker, number in logged.examples.items()},
        "steps": {name: _shown(step.shown) for name, step in logged.steps.items()},
        "states": states,
        "failures": [[failure.worker, int(failure.round), failure.reason] for failure in share.failures],
        "loaders": None if share.loaders is None else int(share.loaders),
        "batches": {worker: int(number) for worker, number in share.batches.items()},
        "filled": list(share.filled),
    }
    return container.pack(header, tensors)


def decode_share(data: Buffer, worker: str, *, copy: bool = True) -> Share:
    """Read what :func:`encode_share` wrote.

    Numbers are not checked, and may be NaN, except for counts.

    Args:
        data: The bytes, not trusted: nothing in them is executed.
        worker: The worker whose share it must be: else a sender could answer for others.
        copy: See :func:`lightning_fed.wire.decode_updates`.

    Raises:
        WireError: If the bytes are not a whole share of this version, or that of another worker.
    """
    packed = Packed(data, copy)
    fields = Fields(packed.header, _KIND)
    numbers = Numbers(packed.take("numbers", copy=True))
    pooled: dict[str, Part] = {}
    for name, reduction in fields.texts("pooled").items():
        if reduction not in REDUCTIONS:
            raise WireError(f"{name!r} reduces by {reduction[:20]!r}: it can be {', '.join(REDUCTIONS)}")
        pooled[name] = Part(reduction, numbers.next(), numbers.next())
        if not (math.isfinite(pooled[name].weight) and pooled[name].weight >= 0):
            raise WireError(f"{name!r} has the weight {pooled[name].weight}: a weight is a number of examples")
    values = {name: {key: numbers.next() for key in keys} for name, keys in fields.names_by_name("workers").items()}
    logged = LoggedShare(
        workers=values,
        pooled=pooled,
        objects=fields.texts("objects"),
        options={name: _options_from(given) for name, given in fields.by_name("options").items()},
        examples=fields.counts("examples"),
        steps={name: StepValue(numbers.next(), _shown_from(given)) for name, given in fields.by_name("steps").items()},
    )
    share = Share(
        logged=logged,
        states=dict(_states_from(fields.entries("states"), packed)),
        failures=tuple(_failure(given) for given in fields.entries("failures")),
        loaders=fields.optional("loaders"),
        batches=fields.counts("batches"),
        filled=fields.names("filled"),
    )
    for rest in (fields, numbers, packed):
        rest.close()
    _check(share, worker)
    return share


def _check(share: Share, worker: str) -> None:
    logged = share.logged
    named = {*logged.workers, *logged.examples, *share.batches, *(failure.worker for failure in share.failures)}
    if named - {worker}:
        other = min(named - {worker})
        raise WireError(f"worker {worker!r} was asked, and {other[:50]!r} answered: send a share to whom it is for")
    if share.loaders is not None and share.loaders < 0:
        raise WireError(f"there are {share.loaders} loaders: the message was altered, send it again")


def _state(path: str, state: MetricState, tensors: Tensors) -> list[object]:
    """Add a state's tensors to a message; returns its part of the header."""
    lengths: dict[str, int | None] = {}
    for name, value in state.states.items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, Tensor) for item in items):
            raise WireError(
                f"the torchmetrics object {path!r} holds in {name!r} what is neither a tensor nor a list of tensors, "
                "and cannot leave its worker: log another object, or a plain value"
            )
        lengths[name] = len(items) if isinstance(value, list) else None
        for item in items:
            tensors[f"states/{len(tensors)}"] = item
    return [path, int(state.updates), lengths]


def _states_from(given: list[list[Any]], packed: Packed) -> Iterator[tuple[str, MetricState]]:
    seen: set[str] = set()
    place = count()
    for entry in given:
        if [type(part) for part in entry] != [str, int, dict] or entry[0] in seen or entry[1] < 0:
            raise _altered("states")
        path, updates, lengths = entry
        seen.add(path)
        states: dict[str, Any] = {}
        for name, length in lengths.items():
            if length is None:
                states[name] = packed.take(f"states/{next(place)}")
            elif type(length) is int and length >= 0:
                states[name] = [packed.take(f"states/{next(place)}") for _ in range(length)]
            else:
                raise _altered("states")
        yield path, MetricState(updates, states)


def _options(options: Options) -> list[object]:
    return [_shown(options.shown), bool(options.forked), options.suffix, options.loader]


def _options_from(given: object) -> Options:
    if not isinstance(given, list) or len(given) != 4:
        raise _altered("options")
    shown, forked, suffix, loader = given
    number = loader is None or (type(loader) is int and loader >= 0)
    if type(forked) is not bool or type(suffix) is not str or not number:
        raise _altered("options")
    return Options(_shown_from(shown), forked, suffix, loader)


def _shown(shown: Mapping[str, Any]) -> dict[str, bool]:
    return {name: bool(shown[name]) for name in _SHOWN if shown.get(name) is not None}  # None: as by default


def _shown_from(given: object) -> dict[str, bool]:
    if not isinstance(given, dict) or not given.keys() <= set(_SHOWN):
        raise _altered("options")
    if not all(type(value) is bool for value in given.values()):
        raise _altered("options")
    return given


def _failure(given: list[Any]) -> WorkerError:
    if [type(part) for part in given] != [str, int, str]:
        raise _altered("failures")
    return WorkerError(*given)


def _altered(field: str) -> WireError:
    return WireError(f"the header's field {field!r} holds no value of ours: the message was altered, send it again")
