"""Jobs and updates as bytes, and back: tensors by :mod:`lightning_fed.wire.container`, all else as JSON. No pickle.

Names travel in order, since ``job.model.layout`` is the order of the parameters, and the container has another one.
Fractions travel as float64 tensors: all bits arrive, NaN too, and the length of a message depends on names and shapes
only, and on the digits of a few integers. So :func:`job_bytes` and :func:`updates_bytes` need no encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire import container
from lightning_fed.wire.attributes import Attributes, attributes_from
from lightning_fed.wire.container import Buffer, Packed, Spec, escaped, specs_of
from lightning_fed.wire.errors import WireError
from lightning_fed.wire.global_model import GlobalModel
from lightning_fed.wire.header import VERSION, Fields, Numbers
from lightning_fed.wire.job import Job, LocalTraining, Model, Penalty, RecordPrivacy
from lightning_fed.wire.layout import Layout
from lightning_fed.wire.metric_states import MERGE
from lightning_fed.wire.updates import Updates

_JOB = "job"
_UPDATES = "updates"
_MAX_CACHED = 4096


def encode_job(job: Job) -> bytes:
    """Write a job as bytes.

    Args:
        job: Any; for one worker, ``job.of(worker)``.

    Raises:
        TypeError: If one of ``job.attributes`` is no plain value, tensor, or list, tuple or dict of them.
        WireError: If its parts do not fit together, such as a start of another length than the layout's.

    >>> model = GlobalModel({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    >>> data = encode_job(Job(7, 7, 42, model, LocalTraining(epochs=2)))
    >>> decode_job(data).local, list(decode_job(data).model.parameters)
    (LocalTraining(epochs=2, steps=None), ['weight', 'bias'])
    """
    _check_job(job)
    return container.pack(*_job_parts(job, Attributes(job.attributes)))


def decode_job(data: Buffer, *, copy: bool = True) -> Job:
    """Read what :func:`encode_job` wrote. The tensors are on the CPU.

    Args:
        data: The bytes, from anyone: nothing in them is run.
        copy: Whether tensors are copies; else they are views of ``data``, which must be writable and stay as it is for
            as long as the job is used. A tensor that does not lie at a multiple of its items' size is a copy even then.

    Raises:
        WireError: If the bytes are not a whole job of this version.
    """
    packed = Packed(data, copy)
    fields = Fields(packed.header, _JOB)
    numbers = Numbers(packed.take("numbers", copy=True))
    parameters = _take_all(packed, "parameters", fields.names("parameters"))
    buffers = _take_all(packed, "buffers", fields.names("buffers"))
    lr_factor = numbers.next()
    work = {worker: numbers.next() for worker in fields.names("work")}
    penalty = None
    corrected = fields.optional_names("penalty")
    if corrected is not None:
        linear = {worker: packed.take(f"linear/{i}") for i, worker in enumerate(corrected)}
        penalty = Penalty(numbers.next(), linear)
    start = {
        worker: Model(packed.take(f"start/{i}"), _take_all(packed, f"start/{i}/buffers", names))
        for i, (worker, names) in enumerate(fields.names_by_name("start").items())
    }
    record_privacy, record_seed = None, fields.optional("record_seed")
    if fields.flag("record_privacy"):
        record_privacy = RecordPrivacy(numbers.next(), numbers.next(), numbers.next(), record_seed)
    promise = {name: numbers.next() for name in fields.names("promise")}
    validated = {name: numbers.next() for name in fields.names("validated")}
    job = Job(
        round=fields.integer("round"),
        cohort=fields.integer("cohort"),
        seed=fields.integer("seed"),
        model=GlobalModel(parameters, buffers, frozenset(fields.names("moved"))),
        local=_local(fields.integer("epochs"), fields.optional("steps")),
        last=fields.optional("last"),
        failed=fields.integers("failed"),
        epoch=fields.integer("epoch"),
        validated=validated,
        population=fields.integer("population"),
        work=work,
        lr_factor=lr_factor,
        penalty=penalty,
        start=start,
        frozen=frozenset(fields.names("frozen")),
        wants_gradient=fields.flag("wants_gradient"),
        sent=_take_all(packed, "sent", fields.names("sent")),
        extra=fields.names("extra"),
        record_privacy=record_privacy,
        promise=promise,
        attributes=attributes_from(fields.any("attributes"), packed, numbers),
    )
    for rest in (fields, numbers, packed):
        rest.close()
    _check_job(job)
    return job


def encode_updates(updates: Updates, job: Job) -> bytes:
    """Write updates as bytes, without what stays with the workers.

    Args:
        updates: Of any number of workers.
        job: Theirs.

    Raises:
        WireError: If they do not fit the job, such as a gradient of another length than the layout's.

    >>> job = Job(0, 0, 0, GlobalModel({"weight": torch.zeros(2), "bias": torch.zeros(1)}), LocalTraining())
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> delta = torch.tensor([[1.0, 2.0, 0.0]])
    >>> updates = Updates(0, ("anna",), delta, {}, one, one, one, one, stays=frozenset({"bias"}))
    >>> decode_updates(encode_updates(updates, job), job).delta
    tensor([[1., 2., 0.]])
    """
    return container.pack(*_updates_parts(updates, job))


def encode_updates_into(updates: Updates, job: Job, buffer: bytearray | memoryview) -> int:
    """Write the bytes of :func:`encode_updates` into a buffer, such as shared memory, with one copy of each tensor.

    Args:
        updates: Of any number of workers.
        job: Theirs.
        buffer: Writable, and long enough: as the sum of :func:`updates_bytes`, or longer.

    Returns:
        The length of the message, which is ``buffer[:length]``.

    Raises:
        WireError: If the updates do not fit the job, or the buffer is too short or read only.
    """
    return container.pack_into(*_updates_parts(updates, job), buffer)


def decode_updates(data: Buffer, job: Job, *, workers: Sequence[str] | None = None, copy: bool = True) -> Updates:
    """Read what :func:`encode_updates` wrote, and check it against the job that it answers. The tensors are on the CPU.

    What stays with the workers is filled in: ``delta`` with 0, buffers with the global ones. Numbers are taken as they
    come, NaN too: a cohort's finite updates are chosen later.

    Args:
        data: The bytes, from anyone: nothing in them is run.
        job: Its cohort, parameters, buffers and ``extra`` must be those of the updates.
        workers: If given, from whom an answer is awaited, in this order: else a sender could name anyone, and as many
            as to fill the memory with the zeros of what stays with them.
        copy: Whether vectors and buffers are copies; else they are views of ``data``, which must be writable and stay
            as it is for as long as the updates are used. A tensor that does not lie at a multiple of its items' size is
            a copy even then, and so are the numbers, which reports keep.

    Raises:
        WireError: If the bytes are not whole updates of this version, or do not answer the job.
    """
    packed = Packed(data, copy)
    fields = Fields(packed.header, _UPDATES)
    cohort = fields.integer("cohort")
    _check_cohort(cohort, job)
    names = fields.names("workers")
    if workers is not None and names != tuple(workers):
        raise WireError(f"{_few(workers)} were asked, and {_few(names)} answered: send updates to whom they are for")
    stays = frozenset(fields.names("stays"))
    _check_stays(stays, job)
    n = len(names)
    numbers, metrics, rates = packed.take("numbers", copy=True), fields.names("metrics"), fields.names("rates")
    count = 4 + len(metrics) + len(rates)
    if numbers.dtype != torch.float64 or numbers.shape != (count, n):
        raise WireError(
            f"there are numbers of shape {list(numbers.shape)} in {numbers.dtype} for {n} workers, {len(metrics)} "
            f"metrics and {len(rates)} learning rates: they must be of shape {[count, n]} in float64"
        )
    buffers = {}
    for name in fields.names("buffers"):
        stay = name in stays and name in job.model.buffers
        buffers[name] = _global(job, name, n) if stay else packed.take(f"buffers/{name}")
    buffers |= {name: _global(job, name, n) for name in job.model.buffers if name in stays and name not in buffers}
    updates = Updates(
        cohort=cohort,
        workers=names,
        delta=_take_delta(packed, job.model.layout, n, stays),
        buffers=buffers,
        examples=numbers[0],
        weight=numbers[1],
        loss=numbers[2],
        steps=numbers[3],
        metrics=dict(zip(metrics, numbers[4:], strict=False)),
        rates=dict(zip(rates, numbers[4 + len(metrics) :], strict=True)),
        shown=fields.shown("shown"),
        metric_states={
            kind: _take_all(packed, f"metric_states/{kind}", own)
            for kind, own in fields.names_by_name("metric_states").items()
        },
        gradient=packed.take("gradient") if fields.flag("gradient") else None,
        extra=_take_all(packed, "extra", fields.names("extra")),
        stays=stays,
    )
    for rest in (fields, packed):
        rest.close()
    _check_updates(updates, job)
    return updates


def job_bytes(job: Job) -> int:
    """The length of :func:`encode_job`, without an encoding.

    Args:
        job: Any.
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
        header, tensors = _job_parts(job, attributes)
        return container.length(header, specs_of(tensors))

    fixed, size = _fixed(key, varies, measure)
    return container.padded(fixed + varies) + size


def updates_bytes(updates: Updates, job: Job) -> list[int]:
    """The length of :func:`encode_updates` of each worker's row alone, without an encoding.

    Args:
        updates: Of any number of workers.
        job: Theirs.
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
    )

    def measure() -> tuple[int, int]:
        first = torch.zeros(len(updates.workers), dtype=torch.bool)
        first[0] = True
        header, tensors = _updates_parts(updates.rows(first), job)
        return container.length(header, specs_of(tensors))

    cohort = _digits([updates.cohort])
    own = _escaped_all(updates.workers)
    fixed, size = _fixed(key, cohort + own[0], measure)
    # Names have few lengths.
    whole = {length: container.padded(fixed + cohort + length) + size for length in set(own)}
    return [whole[length] for length in own]


def _job_parts(job: Job, attributes: Attributes) -> tuple[dict[str, object], Tensors]:
    """A job's header and tensors."""
    private = job.record_privacy
    numbers = [job.lr_factor, *job.work.values()]
    # Vectors first: the complex parameters in them can then be viewed in place.
    tensors: Tensors = {}
    if job.penalty is not None:
        numbers.append(job.penalty.proximal)
        tensors |= {f"linear/{i}": vector for i, vector in enumerate(job.penalty.linear.values())}
    tensors |= {f"start/{i}": own.parameters for i, own in enumerate(job.start.values())}
    tensors |= _prefixed("sent", job.sent)
    tensors |= _prefixed("parameters", job.model.parameters)
    tensors |= _prefixed("buffers", job.model.buffers)
    for i, own in enumerate(job.start.values()):
        tensors |= _prefixed(f"start/{i}/buffers", own.buffers)
    tensors |= {f"attributes/{i}": tensor for i, tensor in enumerate(attributes.tensors)}
    if private is not None:
        numbers += [private.clip, private.noise_multiplier, private.sampling_rate]
    numbers += [*job.promise.values(), *job.validated.values(), *attributes.numbers]
    tensors["numbers"] = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    header: dict[str, object] = {
        "version": VERSION,
        "kind": _JOB,
        "round": int(job.round),
        "cohort": int(job.cohort),
        "seed": int(job.seed),
        "last": None if job.last is None else int(job.last),
        "failed": [int(number) for number in job.failed],
        "epoch": int(job.epoch),
        "validated": list(job.validated),
        "population": int(job.population),
        "epochs": int(job.local.epochs),
        "steps": None if job.local.steps is None else int(job.local.steps),
        "parameters": list(job.model.parameters),
        "buffers": list(job.model.buffers),
        "moved": sorted(job.model.moved),
        "work": list(job.work),
        "penalty": None if job.penalty is None else list(job.penalty.linear),
        "start": {worker: list(own.buffers) for worker, own in job.start.items()},
        "frozen": sorted(job.frozen),
        "wants_gradient": job.wants_gradient,
        "sent": list(job.sent),
        "extra": list(job.extra),
        "record_privacy": private is not None,
        "record_seed": None if private is None or private.seed is None else int(private.seed),
        "promise": list(job.promise),
        "attributes": attributes.tree,
    }
    return header, tensors


def _check_job(job: Job) -> None:
    """Refuse a job whose parts do not fit together."""
    for name, parameter in job.model.parameters.items():
        if not (parameter.is_complex() or (parameter.is_floating_point() and parameter.dtype.itemsize > 1)):
            raise WireError(f"the parameter {name!r} is {parameter.dtype}: only float and complex ones can be trained")
    size = job.model.layout.size
    vectors = {f"what is sent as {name!r}": vector for name, vector in job.sent.items()}
    vectors |= {f"the start of worker {worker!r}": own.parameters for worker, own in job.start.items()}
    if job.penalty is not None:
        vectors |= {f"the linear penalty of worker {name!r}": vector for name, vector in job.penalty.linear.items()}
    for name, vector in vectors.items():
        if vector.shape != (size,):
            raise WireError(f"{name} has the shape {list(vector.shape)}, and the parameters make a vector of {[size]}")


def _updates_parts(updates: Updates, job: Job) -> tuple[dict[str, object], Tensors]:
    """The header and tensors of updates."""
    _check_stays(updates.stays, job)
    _check_updates(updates, job)
    staying = updates.stays & job.model.buffers.keys()
    runs = [updates.delta[:, run] for run in _runs(job.model.layout, updates.stays)]
    # Vectors first: the complex parameters in them can then be viewed in place.
    tensors = {"delta": runs[0] if len(runs) == 1 else torch.cat(runs, dim=1) if runs else updates.delta[:, :0]}
    if updates.gradient is not None:
        tensors["gradient"] = updates.gradient
    tensors |= _prefixed("extra", updates.extra)
    tensors |= _prefixed("buffers", {name: b for name, b in updates.buffers.items() if name not in staying})
    for kind, own in updates.metric_states.items():
        tensors |= _prefixed(f"metric_states/{kind}", own)
    columns = [updates.examples, updates.weight, updates.loss, updates.steps, *updates.metrics.values()]
    columns += updates.rates.values()
    tensors["numbers"] = torch.stack([column.detach().to("cpu", torch.float64) for column in columns])
    header: dict[str, object] = {
        "version": VERSION,
        "kind": _UPDATES,
        "cohort": int(updates.cohort),
        "workers": list(updates.workers),
        "metrics": list(updates.metrics),
        "rates": list(updates.rates),
        "shown": {name: list(shown) for name, shown in updates.shown.items()},
        "metric_states": {kind: list(own) for kind, own in updates.metric_states.items()},
        "buffers": list(updates.buffers),
        "extra": list(updates.extra),
        "gradient": updates.gradient is not None,
        "stays": sorted(updates.stays),
    }
    return header, tensors


def _check_cohort(cohort: int, job: Job) -> None:
    if cohort != job.cohort:
        raise WireError(f"the updates answer cohort {cohort}, and the job is of cohort {job.cohort}: drop them")


def _check_stays(stays: frozenset[str], job: Job) -> None:
    unknown = stays - job.model.parameters.keys() - job.model.buffers.keys()
    if unknown:
        raise WireError(
            f"{_few(sorted(unknown))} is to stay with the workers, and is no parameter or buffer of the job"
        )


def _check_updates(updates: Updates, job: Job) -> None:
    """Refuse updates that do not answer a job."""
    _check_cohort(updates.cohort, job)
    n, layout = len(updates.workers), job.model.layout
    who = f"the updates of {_few(updates.workers)}"
    if len(set(updates.workers)) != n:
        raise WireError(f"{who} name a worker twice: encode each worker's once")
    if updates.delta.dtype != layout.dtype:
        raise WireError(f"{who}: delta is {updates.delta.dtype}, and the parameters make a vector of {layout.dtype}")
    vectors = {"delta": updates.delta, **{f"extra[{name!r}]": extra for name, extra in updates.extra.items()}}
    if updates.gradient is not None:
        vectors["gradient"] = updates.gradient
    for name, vector in vectors.items():
        _check_shape(f"{who}: {name}", vector, (n, layout.size))
    if updates.extra.keys() != set(job.extra):
        raise WireError(f"{who} have the extra {sorted(updates.extra)}, and the job asks for {sorted(job.extra)}")
    numbers = {"examples": updates.examples, "weight": updates.weight, "loss": updates.loss, "steps": updates.steps}
    for name, column in {**numbers, **updates.metrics, **updates.rates}.items():
        _check_shape(f"{who}: {name}", column, (n,))
    for kind, own in updates.metric_states.items():
        if kind not in MERGE:
            raise WireError(f"{who}: states of metrics that merge by {kind!r}: they can merge by {', '.join(MERGE)}")
        for name, state in own.items():
            _check_shape(f"{who}: the state {name!r} of a metric", state, (n, *state.shape[1:]))
    for name, buffer in updates.buffers.items():
        # In shape a buffer may differ from the global one, or be new: it grew at the worker.
        _check_shape(f"{who}: buffer {name!r}", buffer, (n, *buffer.shape[1:]))
        known = job.model.buffers.get(name, buffer)
        if buffer.dtype != known.dtype:
            raise WireError(f"{who}: buffer {name!r} is {buffer.dtype}, and the global one {known.dtype}")


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise WireError(
            f"{name} has the shape {list(tensor.shape)}, not {list(shape)}: server and workers must have one module"
        )


def _take_all(packed: Packed, prefix: str, names: Iterable[str]) -> Tensors:
    return {name: packed.take(f"{prefix}/{name}") for name in names}


def _prefixed(prefix: str, tensors: Tensors) -> Tensors:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def _take_delta(packed: Packed, layout: Layout, n: int, stays: frozenset[str]) -> Tensor:
    """The vectors, with 0 for what stays with the workers."""
    runs = _runs(layout, stays)
    width = sum(run.stop - run.start for run in runs)
    dtype, shape = packed.spec("delta")
    if dtype != layout.dtype or shape != (n, width):
        raise WireError(
            f"delta has the shape {list(shape)} in {dtype}, not {[n, width]} in {layout.dtype}: server and workers "
            "must have one module"
        )
    if width == layout.size:
        return packed.take("delta")
    try:
        delta = torch.zeros(n, layout.size, dtype=dtype)
    except (RuntimeError, MemoryError) as error:
        raise WireError(f"the memory does not hold the updates of {n} workers: say whose are awaited") from error
    # As bytes, since numpy reads what cannot be written to.
    item = dtype.itemsize
    target, source = delta.view(torch.uint8).numpy(), packed.raw("delta").reshape(n, width * item)
    begin = 0
    for run in runs:
        end = begin + (run.stop - run.start) * item
        target[:, run.start * item : run.stop * item] = source[:, begin:end]
        begin = end
    return delta


def _runs(layout: Layout, stays: frozenset[str]) -> list[slice]:
    """The columns of vectors that travel."""
    if not stays:
        return [slice(0, layout.size)]
    runs = []
    begin = 0
    for name, place in layout.places.items():
        if name in stays:
            runs.append(slice(begin, place.start))
            begin = place.stop
    return [run for run in (*runs, slice(begin, layout.size)) if run.start < run.stop]


def _global(job: Job, name: str, n: int) -> Tensor:
    """A global buffer for each of n workers."""
    buffer = job.model.buffers[name]
    return buffer.expand(n, *buffer.shape)


def _local(epochs: int, steps: int | None) -> LocalTraining:
    try:
        return LocalTraining(epochs, steps)
    except ValueError as error:
        raise WireError(f"{error}; the message was altered, send it again") from error


def _few(names: Sequence[str]) -> str:
    """Some names for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


_FIXED: dict[Hashable, tuple[int, int]] = {}
_TOKENS: WeakKeyDictionary[GlobalModel, object] = WeakKeyDictionary()


def _fixed(key: Hashable, varies: int, measure: Callable[[], tuple[int, int]]) -> tuple[int, int]:
    """The lengths of a header without what varies in it, and of the tensors behind it; measured once for each key.

    Args:
        key: All that the lengths depend on, except for what varies.
        varies: The length of that, in this message.
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
    """An object that models share if their names, dtypes and shapes are the same; quick to compare."""
    token = _TOKENS.get(model)
    if token is None:
        token = _TOKENS[model] = _token_of(specs_of(model.parameters), specs_of(model.buffers), model.moved)
    return token


@lru_cache(maxsize=256)
def _token_of(parameters: tuple[Spec, ...], buffers: tuple[Spec, ...], moved: frozenset[str]) -> object:
    return object()


def _digits(integers: Iterable[int | None]) -> int:
    return sum(4 if integer is None else len(str(integer)) for integer in integers)


def _escaped_all(names: Sequence[str]) -> list[int]:
    """The lengths that names add to a header."""
    together = "".join(names)
    return list(map(len if escaped(together) == len(together) else escaped, names))
