"""Jobs as bytes, and back."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire import container
from lightning_fed.wire.attributes import Attributes, attributes_from
from lightning_fed.wire.codec.tensors import prefixed, take_all
from lightning_fed.wire.codes import ModelCoder
from lightning_fed.wire.container import Buffer, Packed, Spec
from lightning_fed.wire.errors import WireError
from lightning_fed.wire.global_model import GlobalModel
from lightning_fed.wire.header import VERSION, Fields, Numbers
from lightning_fed.wire.job import Job, LocalTraining, Model, Penalty, RecordPrivacy

_KIND = "job"
_CPU = torch.device("cpu")
_MOST_DIMS = 64
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in container.CODES
    if dtype.is_complex or (dtype.is_floating_point and dtype.itemsize > 1)
}


def encode_job(job: Job) -> bytes:
    """Write a job as bytes.

    Args:
        job: The job; for one worker, ``job.of(worker)``.

    Raises:
        TypeError: If one of ``job.attributes`` is no plain value, tensor, or list, tuple or dict of them.
        WireError: If its parts do not fit together, such as a start of another length than the layout's.

    >>> model = GlobalModel({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    >>> data = encode_job(Job(7, 7, 42, model, LocalTraining(epochs=2)))
    >>> decode_job(data).local, list(decode_job(data).model.parameters)
    (LocalTraining(epochs=2, steps=None), ['weight', 'bias'])
    """
    _check_job(job)
    return container.pack(*job_parts(job, Attributes(job.attributes)))


def decode_job(data: Buffer, *, copy: bool = True, device: torch.device = _CPU, coder: ModelCoder | None = None) -> Job:
    """Read what :func:`encode_job` wrote.

    Args:
        data: The bytes, not trusted: nothing in them is executed.
        copy: Whether tensors are copies; else they are views of ``data``, which must be writable and stay as it is for
            as long as the job is used. A tensor that does not lie at a multiple of its items' size is a copy even then.
        device: The device of the tensors.
        coder: The compression of the model in this run, if any; a job with an uncompressed model is read, too.

    Raises:
        WireError: If the bytes are not a whole job of this version.
    """
    packed = Packed(data, copy)
    fields = Fields(packed.header, _KIND)
    numbers = Numbers(packed.take("numbers", copy=True))
    names, coded = fields.names("parameters"), fields.by_name("coded")
    unknown = coded.keys() - set(names)
    if unknown:
        raise WireError(f"the header has codes of {min(unknown)!r}, which is no parameter: send the message again")
    plain = take_all(packed, "parameters", [name for name in names if name not in coded], device)
    codes = take_all(packed, "codes", coded, device)
    buffers = take_all(packed, "buffers", fields.names("buffers"), device)
    lr_factor = numbers.next()
    work = {worker: numbers.next() for worker in fields.names("work")}
    penalty = None
    corrected = fields.optional_names("penalty")
    if corrected is not None:
        linear = {worker: packed.take(f"linear/{i}").to(device) for i, worker in enumerate(corrected)}
        penalty = Penalty(numbers.next(), linear)
    start = {
        worker: Model(packed.take(f"start/{i}").to(device), take_all(packed, f"start/{i}/buffers", names, device))
        for i, (worker, names) in enumerate(fields.names_by_name("start").items())
    }
    record_privacy, record_seed = None, fields.optional("record_seed")
    if fields.flag("record_privacy"):
        record_privacy = RecordPrivacy(numbers.next(), numbers.next(), numbers.next(), record_seed)
    promise = {name: numbers.next() for name in fields.names("promise")}
    validated = {name: numbers.next() for name in fields.names("validated")}
    cohort, seed = fields.integer("cohort"), fields.integer("seed")
    decoded = {name: _coder(coder).decode(codes[name], _spec(name, coded[name]), seed, cohort) for name in coded}
    parameters = {name: decoded[name] if name in coded else plain[name] for name in names}
    job = Job(
        round=fields.integer("round"),
        cohort=cohort,
        seed=seed,
        model=GlobalModel(parameters, buffers, frozenset(fields.names("moved")), codes=codes),
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
        sent=take_all(packed, "sent", fields.names("sent"), device),
        extra=fields.names("extra"),
        record_privacy=record_privacy,
        promise=promise,
        attributes=attributes_from(fields.any("attributes"), packed, numbers, device),
    )
    for rest in (fields, numbers, packed):
        rest.close()
    _check_job(job)
    return job


def job_parts(job: Job, attributes: Attributes) -> tuple[dict[str, object], Tensors]:
    """A job's header and tensors."""
    private = job.record_privacy
    numbers = [job.lr_factor, *job.work.values()]
    # Vectors first: the complex parameters in them can then be viewed in place.
    tensors: Tensors = {}
    if job.penalty is not None:
        numbers.append(job.penalty.proximal)
        tensors |= {f"linear/{i}": vector for i, vector in enumerate(job.penalty.linear.values())}
    tensors |= {f"start/{i}": own.parameters for i, own in enumerate(job.start.values())}
    tensors |= prefixed("sent", job.sent)
    model = job.model
    tensors |= prefixed("parameters", {name: p for name, p in model.parameters.items() if name not in model.codes})
    tensors |= prefixed("codes", model.codes)
    tensors |= prefixed("buffers", model.buffers)
    for i, own in enumerate(job.start.values()):
        tensors |= prefixed(f"start/{i}/buffers", own.buffers)
    tensors |= {f"attributes/{i}": tensor for i, tensor in enumerate(attributes.tensors)}
    if private is not None:
        numbers += [private.clip, private.noise_multiplier, private.sampling_rate]
    numbers += [*job.promise.values(), *job.validated.values(), *attributes.numbers]
    tensors["numbers"] = torch.tensor([float(number) for number in numbers], dtype=torch.float64)
    header: dict[str, object] = {
        "version": VERSION,
        "kind": _KIND,
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
        "parameters": list(model.parameters),
        "coded": {name: _form(model.parameters[name]) for name in model.codes},
        "buffers": list(model.buffers),
        "moved": sorted(model.moved),
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


def _form(parameter: Tensor) -> list[object]:
    """The dtype and the shape of a parameter that codes stand for, as the header has them."""
    return [str(parameter.dtype).removeprefix("torch."), list(parameter.shape)]


def _spec(name: str, form: object) -> Spec:
    """Read what :func:`_form` returned."""
    dtype, shape = form if isinstance(form, list) and len(form) == 2 else (None, None)
    if (
        not (isinstance(dtype, str) and isinstance(shape, list) and len(shape) <= _MOST_DIMS)
        or dtype not in _DTYPES
        or not all(type(length) is int and 0 < length < 2**60 for length in shape)
    ):
        raise WireError(f"the header's field 'coded' has no dtype and shape for {name!r}: send the message again")
    return name, _DTYPES[dtype], tuple(shape)


def _coder(coder: ModelCoder | None) -> ModelCoder:
    if coder is None:
        raise WireError("the job's model is compressed, and nothing says how: this is a message of another run")
    return coder


def _local(epochs: int, steps: int | None) -> LocalTraining:
    try:
        return LocalTraining(epochs, steps)
    except ValueError as error:
        raise WireError(f"{error}; the message was altered, send it again") from error
