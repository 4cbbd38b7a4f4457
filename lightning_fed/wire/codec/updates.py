"""Updates as bytes, and back, checked against the job that they answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.core.words import pack, packed_length, unpack
from lightning_fed.wire import container
from lightning_fed.wire.codec.tensors import prefixed, take_all
from lightning_fed.wire.codes import Coder, Codes
from lightning_fed.wire.container import Buffer, Packed
from lightning_fed.wire.errors import WireError
from lightning_fed.wire.header import VERSION, Fields
from lightning_fed.wire.job import Job
from lightning_fed.wire.layout import Layout
from lightning_fed.wire.metric_states import MERGE
from lightning_fed.wire.sealed import Sealed, Sealer
from lightning_fed.wire.updates import Updates

_KIND = "updates"


def encode_updates(updates: Updates, job: Job) -> bytes:
    """Write updates as bytes, without what stays with the workers.

    Args:
        updates: Of any number of workers.
        job: Theirs.

    Raises:
        WireError: If they do not fit the job, such as a gradient of another length than the layout's.

    >>> from lightning_fed.wire import GlobalModel, LocalTraining
    >>> job = Job(0, 0, 0, GlobalModel({"weight": torch.zeros(2), "bias": torch.zeros(1)}), LocalTraining())
    >>> one = torch.ones(1, dtype=torch.float64)
    >>> delta = torch.tensor([[1.0, 2.0, 0.0]])
    >>> updates = Updates(0, ("anna",), delta, {}, one, one, one, one, stays=frozenset({"bias"}))
    >>> decode_updates(encode_updates(updates, job), job).delta
    tensor([[1., 2., 0.]])
    """
    return container.pack(*updates_parts(updates, job))


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
    return container.pack_into(*updates_parts(updates, job), buffer)


def decode_updates(
    data: Buffer,
    job: Job,
    *,
    workers: Sequence[str] | None = None,
    copy: bool = True,
    coder: Coder | None = None,
    sealer: Sealer | None = None,
) -> Updates:
    """Read what :func:`encode_updates` wrote, and check it against the job that it answers.

    Vectors, buffers and states of metrics are on the device of the job's model, numbers on the CPU.

    Parts that stay with the workers are filled in: ``delta`` with 0, buffers with the global ones. Numbers are not
    checked here, and may be NaN: a later step selects the finite updates of a cohort.

    Args:
        data: The bytes, not trusted: nothing in them is executed.
        job: Its cohort, parameters, buffers and ``extra`` must be those of the updates.
        workers: If given, the workers that must have answered, in this order. Without, a sender could name any worker,
            and so many that the zeros for parts that stay with workers fill the memory.
        copy: Whether vectors and buffers are copies; else they are views of ``data``, which must be writable and stay
            as it is for as long as the updates are used. A tensor that does not lie at a multiple of its items' size is
            a copy even then, and so are the numbers, which reports keep.
        coder: The decoder of vectors, if codes cross in place of them; a message with other contents is refused.
        sealer: The format of sealed numbers, if they cross in place of vectors, buffers and metrics.

    Raises:
        WireError: If the bytes are not whole updates of this version, or do not answer the job.
    """
    packed = Packed(data, copy)
    fields = Fields(packed.header, _KIND)
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
    device = job.model.device
    sealed = None if sealer is None else _take_sealed(packed, fields, sealer, job, n, stays)
    buffers = {}
    for name in fields.names("buffers"):
        stay = name in stays and name in job.model.buffers
        buffers[name] = _global(job, name, n) if stay else packed.take(f"buffers/{name}").to(device)
    all_stay = job.model.buffers.keys() if sealer is not None else stays
    buffers |= {name: _global(job, name, n) for name in job.model.buffers if name in all_stay and name not in buffers}
    extra = fields.names("extra")
    codes, vectors = None, dict[str, Tensor]()
    if sealed is not None:
        nothing = torch.zeros(1, 1, dtype=job.model.layout.dtype, device=device).expand(n, job.model.layout.size)
        vectors |= dict.fromkeys(("delta", *(f"extra/{name}" for name in extra)), nothing)
    elif coder is None:
        vectors["delta"] = _take_delta(packed, job.model.layout, n, stays).to(device)
        vectors |= prefixed("extra", take_all(packed, "extra", extra, device))
    else:
        codes = _take_codes(packed, ("delta", *(f"extra/{name}" for name in extra)), coder, job, n, stays)
        vectors |= {what: coder.decode(rows, what, names, job, stays) for what, rows in codes.rows.items()}
    updates = Updates(
        cohort=cohort,
        workers=names,
        delta=vectors["delta"],
        buffers=buffers,
        examples=numbers[0],
        weight=numbers[1],
        loss=numbers[2],
        steps=numbers[3],
        metrics=dict(zip(metrics, numbers[4:], strict=False)),
        rates=dict(zip(rates, numbers[4 + len(metrics) :], strict=True)),
        shown=fields.shown("shown"),
        metric_states={
            kind: take_all(packed, f"metric_states/{kind}", own, device)
            for kind, own in fields.names_by_name("metric_states").items()
        },
        gradient=packed.take("gradient").to(device) if fields.flag("gradient") else None,
        extra={name: vectors[f"extra/{name}"] for name in extra},
        stays=stays,
        codes=codes,
        sealed=sealed,
    )
    for rest in (fields, packed):
        rest.close()
    _check_updates(updates, job)
    return updates


def updates_parts(updates: Updates, job: Job) -> tuple[dict[str, object], Tensors]:
    """Check updates against their job, and return the header and tensors of the message."""
    _check_stays(updates.stays, job)
    _check_updates(updates, job)
    return parts_as_they_are(updates, job)


def parts_as_they_are(updates: Updates, job: Job) -> tuple[dict[str, object], Tensors]:
    """Return header and tensors without checks, for lengths: within a process a buffer may change its dtype."""
    staying = (updates.stays if updates.sealed is None else updates.buffers.keys()) & job.model.buffers.keys()
    # Vectors first: the complex parameters in them can then be viewed in place.
    if updates.sealed is not None:
        tensors = _sealed_parts(updates.sealed)
    elif updates.codes is None:
        runs = [updates.delta[:, run] for run in _runs(job.model.layout, updates.stays)]
        tensors = {"delta": runs[0] if len(runs) == 1 else torch.cat(runs, dim=1) if runs else updates.delta[:, :0]}
        tensors |= prefixed("extra", updates.extra)
    else:
        tensors = prefixed("codes", updates.codes.rows)
    if updates.gradient is not None:
        tensors["gradient"] = updates.gradient
    tensors |= prefixed("buffers", {name: b for name, b in updates.buffers.items() if name not in staying})
    for kind, own in updates.metric_states.items():
        tensors |= prefixed(f"metric_states/{kind}", own)
    columns = [updates.examples, updates.weight, updates.loss, updates.steps, *updates.metrics.values()]
    columns += updates.rates.values()
    tensors["numbers"] = torch.stack([column.detach().to("cpu", torch.float64) for column in columns])
    header: dict[str, object] = {
        "version": VERSION,
        "kind": _KIND,
        "cohort": int(updates.cohort),
        "workers": list(updates.workers),
        "metrics": list(updates.metrics),
        "rates": list(updates.rates),
        "shown": {name: list(shown) for name, shown in updates.shown.items()},
        "metric_states": {kind: list(own) for kind, own in updates.metric_states.items()},
        "buffers": list(updates.buffers if updates.sealed is None else ()),
        "extra": list(updates.extra),
        "gradient": updates.gradient is not None,
        "stays": sorted(updates.stays),
    }
    if updates.sealed is not None:
        header["sealed"] = list(updates.sealed.scalars)
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
    if updates.codes is not None and updates.codes.rows.keys() != {"delta", *(f"extra/{name}" for name in job.extra)}:
        raise WireError(f"{who} have codes of {sorted(updates.codes.rows)}, and not of all that they send")
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
        # In shape and dtype a buffer may differ from the global one, or be new: so it came out of local training.
        _check_shape(f"{who}: buffer {name!r}", buffer, (n, *buffer.shape[1:]))


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise WireError(
            f"{name} has the shape {list(tensor.shape)}, not {list(shape)}: server and workers must have one module"
        )


def _take_delta(packed: Packed, layout: Layout, n: int, stays: frozenset[str]) -> Tensor:
    """Read the vectors, with 0 for parameters that stay with the workers."""
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


def _take_codes(packed: Packed, names: Sequence[str], coder: Coder, job: Job, n: int, stays: frozenset[str]) -> Codes:
    """Read the codes of vectors, whose lengths follow from the job."""
    shape, rows = (n, coder.code_bytes(job, stays)), {}
    for what in names:
        dtype, there = packed.spec(f"codes/{what}")
        if dtype != torch.uint8 or there != shape:
            raise WireError(
                f"the codes of {what} have the shape {list(there)} in {dtype}, not {list(shape)} in uint8: server and "
                "workers must have one module, and compress alike"
            )
        rows[what] = packed.take(f"codes/{what}").to(job.model.device)
    return Codes(rows)


def _sealed_parts(sealed: Sealed) -> Tensors:
    """Return sealed numbers in the form of the wire: words cut to their significant bits."""
    rows = sealed.words.cpu().numpy().view(np.uint32)
    packed = [torch.frombuffer(bytearray(pack(row, sealed.bits)), dtype=torch.uint8) for row in rows if len(row)]
    scalars = [numbers.cpu() for numbers in sealed.scalars.values()]
    n = len(rows)
    return {
        "sealed/words": torch.stack(packed) if packed else torch.zeros(n, 0, dtype=torch.uint8),
        "sealed/scalars": torch.stack(scalars, dim=1) if scalars else torch.zeros(n, 0, dtype=torch.int64),
    }


def _take_sealed(packed: Packed, fields: Fields, sealer: Sealer, job: Job, n: int, stays: frozenset[str]) -> Sealed:
    """Read sealed numbers, whose count follows from the job."""
    names, size = fields.names("sealed"), sealer.size(job, stays)
    wanted = {
        "sealed/words": (torch.uint8, (n, packed_length(size, sealer.bits))),
        "sealed/scalars": (torch.int64, (n, len(names))),
    }
    for what, (dtype, shape) in wanted.items():
        if packed.spec(what) != (dtype, shape):
            there, got = packed.spec(what)
            raise WireError(
                f"{what} has the shape {list(got)} in {there}, not {list(shape)} in {dtype}: server and workers must "
                "have one module, and seal alike"
            )
    rows = packed.take("sealed/words").numpy()
    words = (
        np.stack([unpack(row.tobytes(), size, sealer.bits) for row in rows]) if n else np.zeros((0, size), np.uint32)
    )
    scalars = packed.take("sealed/scalars", copy=True)
    by_name = dict(zip(names, scalars.unbind(1), strict=True))
    return Sealed(torch.from_numpy(words.view(np.int32)).to(job.model.device), by_name, sealer.bits)


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


def _few(names: Sequence[str]) -> str:
    """Some names for a message."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more
