from __future__ import annotations

import json
import math
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_fed.wire import (
    ABSENT,
    GlobalModel,
    Job,
    LocalTraining,
    Model,
    Penalty,
    RecordPrivacy,
    Updates,
    WireError,
    WorkerError,
    decode_job,
    decode_share,
    decode_updates,
    encode_job,
    encode_share,
    encode_updates,
    encode_updates_into,
    job_bytes,
    updates_bytes,
)
from lightning_fed.wire.contents import updates_contents
from lightning_fed.wire.logged import Part, Shown
from lightning_fed.wire.share import LoggedShare, MetricState, Options, Share, StepValue

DTYPES = [
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
    torch.complex128,
]
# 'ä' is six characters of JSON, and its backslash one more in JSON in JSON; the last is a surrogate pair there.
NAMES = ["anna", "", 'quo"te', "back\\slash", "tab\t", "änna", "工人", "\x7f", "a b/c.d", "🐝"]


def same(actual: Any, expected: Any) -> None:
    """Compare types, orders and bits."""
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        assert bits(actual) == bits(expected)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        assert actual.tobytes() == expected.tobytes()
    elif is_dataclass(expected):
        for field in fields(expected):
            same(getattr(actual, field.name), getattr(expected, field.name))
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            same(one, other)
    elif isinstance(expected, complex):
        same((actual.real, actual.imag), (expected.real, expected.imag))
    elif isinstance(expected, float):
        assert struct.pack("d", actual) == struct.pack("d", expected)
    else:
        assert actual == expected


def bits(tensor: Tensor) -> bytes:
    dense = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return bytes(dense.reshape(-1).view(torch.uint8).tolist())


def model() -> GlobalModel:
    # Neither the order of the alphabet nor that of sizes.
    return GlobalModel(
        {"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor(3.0), "a": torch.tensor([4.0])},
        {"count": torch.tensor(7), "mean": torch.tensor([0.5, math.inf])},
    )


def plain_job(**options: Any) -> Job:
    return Job(0, 0, 0, model(), LocalTraining(), **options)


def full_job() -> Job:
    vector = torch.arange(4.0)
    return Job(
        round=12,
        cohort=13,
        seed=2**70,
        model=model(),
        local=LocalTraining(epochs=3, steps=5),
        last=11,
        epoch=2,
        validated={"val_loss": 0.25, "ä": math.nan},
        population=100,
        work={"anna": 0.25, 'quo"te': math.nextafter(1, 0)},
        lr_factor=0.1,
        penalty=Penalty(-0.0, {"anna": vector, "工人": 2 * vector}),
        start={"bob": Model(3 * vector, {"mean": torch.ones(3)}), "anna": Model(4 * vector)},
        frozen=frozenset({"bias", "a"}),
        wants_gradient=True,
        sent={"z": 5 * vector, "b": 6 * vector},
        extra=("z", "momentum"),
        record_privacy=RecordPrivacy(1.5, 0.7, 0.01, 3),
        promise={"clip": 0.3, "bound": math.inf},
        attributes={
            "net.dropout.p": 0.5,
            "none": None,
            "flags": [True, False, 0, 1, -1, 2**100],
            "floats": [math.nan, math.inf, -math.inf, -0.0, 5e-324],
            "texts": ("", 'a"b\\', "ä", "\ud800"),
            "tree": {"z": (), "a": [(1, [2.0, {"float": None, "tensor": 0, "tuple": []}])], "": {}},
            "complex": [1.5 - 2j, complex(math.inf, math.nan)],
            "arrays": [
                np.array([[1, 2]], dtype=np.int16),
                np.zeros((0, 2)),
                np.float32(0.1),
                np.bool_(True),
                np.array(2),
            ],
            "gone": ABSENT,
            "tensors": [torch.tensor([True, False]), {"x": torch.tensor(1.5, dtype=torch.float64)}],
        },
    )


def full_updates(workers: tuple[str, ...] = ("anna", 'b"ob'), **changes: Any) -> Updates:
    n = len(workers)
    numbers = torch.arange(n, dtype=torch.float64)
    updates = Updates(
        cohort=13,
        workers=workers,
        delta=torch.arange(4.0 * n).reshape(n, 4),
        buffers={
            "new": torch.ones(n, 3, dtype=torch.complex128),
            "count": torch.arange(n),
            "mean": torch.arange(5.0 * n).reshape(n, 5),
        },
        examples=numbers,
        weight=numbers + math.pi,
        loss=numbers * math.nan,
        steps=numbers + 2,
        metrics={"z": numbers + 3, "acc": -numbers},
        shown={"z": Shown("y", "sum", False, True, True, False, "net.z"), "acc": Shown("acc", on_epoch=True)},
        metric_states={"sum": {"net.z.total": torch.ones(n, 2)}, "max": {"net.z.most": torch.arange(n)}},
        rates={"lr-SGD": numbers + 0.5},
        gradient=-torch.arange(4.0 * n).reshape(n, 4),
        extra={"momentum": torch.ones(n, 4), "z": torch.zeros(n, 4)},
    )
    return replace(updates, **changes)


def row(updates: Updates, index: int) -> Updates:
    return updates.rows(torch.arange(len(updates.workers)) == index)


# Round trips


def test_every_field_of_a_job_arrives() -> None:
    job = full_job()
    back = decode_job(encode_job(job))
    same(back, job)
    assert list(back.model.parameters) == ["weight", "bias", "a"]
    assert back.model.vector.tolist() == [1, 2, 3, 4]


def test_a_job_of_nothing_but_a_model_arrives() -> None:
    same(decode_job(encode_job(plain_job())), plain_job())
    bare = replace(plain_job(), record_privacy=RecordPrivacy(1.0, 1.0, 0.5), penalty=Penalty(), model=GlobalModel({}))
    same(decode_job(encode_job(bare)), bare)


def test_what_one_worker_is_sent_is_its_own_part() -> None:
    job = full_job().of("anna")
    same(decode_job(encode_job(job)), job)
    assert list(decode_job(encode_job(job)).work) == ["anna"]
    assert len(encode_job(job)) < len(encode_job(full_job()))


def test_every_field_of_updates_arrives() -> None:
    for workers in ((), ("anna",), tuple(NAMES)):
        updates = full_updates(workers)
        same(decode_updates(encode_updates(updates, full_job()), full_job()), updates)


def test_updates_without_what_is_optional_arrive() -> None:
    job = plain_job()
    updates = replace(full_updates(), cohort=0, buffers={}, metrics={}, gradient=None, extra={})
    updates = replace(updates, shown={}, metric_states={}, rates={})
    same(decode_updates(encode_updates(updates, job), job), updates)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("copy", [True, False])
def test_every_dtype_and_shape_arrives_bit_for_bit(dtype: torch.dtype, copy: bool) -> None:
    values = torch.arange(2 * 3 * 4).reshape(2, 3, 4).to(dtype)
    tensors = {
        "whole": values,
        "transposed": values.transpose(0, 2),
        "steps": values[:, ::2, 1:],
        "expanded": values[:1, :1].expand(2, 3, 4),
        "scalar": values[0, 0, 1],
        "single": values[1:, 1:2, 1:2],
        "expanded to one": values[0, 0, 1].expand(1),
        "empty": values[:, :0],
    }
    if dtype.is_complex:
        tensors["conjugate"] = (values * (1 + 2j)).conj()
        tensors["negative"] = (values * 1j).conj().imag
    tensors["tied"] = tensors["whole"]
    job = replace(plain_job(), model=GlobalModel({}, tensors), attributes={"a": list(tensors.values())})
    data = bytearray(encode_job(job))
    back = decode_job(data, copy=copy)
    same(back.model.buffers, tensors)
    same(back.attributes, job.attributes)
    assert len(data) == job_bytes(job)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.complex64, torch.complex128])
def test_parameters_of_every_dtype_arrive(dtype: torch.dtype) -> None:
    parameters = {"w": torch.ones(3, dtype=dtype), "z": torch.ones(1, dtype=torch.complex64), "e": torch.ones(0)}
    job = replace(plain_job(), model=GlobalModel(parameters))
    n = job.model.layout.size
    updates = Updates(0, ("a",), torch.arange(n).reshape(1, n).to(job.model.layout.dtype), {}, *[torch.ones(1)] * 4)
    back = decode_job(encode_job(job))
    same(back.model.parameters, parameters)
    same(decode_updates(encode_updates(updates, job), back).delta, updates.delta)


def test_nan_keeps_its_bits() -> None:
    weird = torch.tensor([0x7FC00001, -1], dtype=torch.int32).view(torch.float32)
    job = replace(plain_job(), model=GlobalModel({}, {"mask": weird}))
    same(decode_job(encode_job(job)).model.buffers["mask"], weird)


def test_numbers_arrive_as_doubles() -> None:
    updates = replace(full_updates(), examples=torch.tensor([3, 4]), loss=torch.tensor([0.1, 0.2]))
    back = decode_updates(encode_updates(updates, full_job()), full_job())
    same(back.examples, torch.tensor([3.0, 4.0], dtype=torch.float64))
    same(back.loss, torch.tensor([0.1, 0.2]).double())


def test_gradients_of_the_sender_do_not_matter() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    job = replace(plain_job(), model=GlobalModel({"w": parameter}))
    assert not decode_job(encode_job(job)).model.parameters["w"].requires_grad
    updates = Updates(0, ("a",), (2 * parameter).reshape(1, 2), {}, *[torch.ones(1)] * 4)
    buffer = bytearray(1000)
    assert bytes(buffer[: encode_updates_into(updates, job, buffer)]) == encode_updates(updates, job)


def devices(value: Any) -> set[str]:
    """Where all tensors of a dataclass are."""
    if isinstance(value, Tensor):
        return {value.device.type}
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return set().union(*map(devices, parts))


def test_a_job_arrives_on_any_device_and_updates_where_the_jobs_model_is() -> None:
    there = decode_job(encode_job(full_job()), device=torch.device("meta"))
    assert devices(there) == {"meta"}
    assert devices(decode_job(encode_job(full_job()))) == {"cpu"}
    updates = full_updates()
    back = decode_updates(encode_updates(updates, full_job()), there)
    numbers = (back.examples, back.weight, back.loss, back.steps, back.metrics, back.rates)
    assert devices(numbers) == {"cpu"}
    assert devices((back.delta, back.buffers, back.extra, back.metric_states)) == {"meta"}
    assert devices(decode_updates(encode_updates(updates, full_job()), full_job())) == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_of_a_gpu_arrive_on_the_cpu() -> None:
    def moved(value: Any) -> Any:
        return torch.utils._pytree.tree_map_only(Tensor, lambda t: t.cuda(), value)

    updates = full_updates()
    there = replace(
        updates,
        **{n: moved(getattr(updates, n)) for n in ("delta", "buffers", "gradient", "extra", "examples", "metrics")},
    )
    assert encode_updates(there, full_job()) == encode_updates(updates, full_job())
    buffer = bytearray(10_000)
    length = encode_updates_into(there, full_job(), buffer)
    assert bytes(buffer[:length]) == encode_updates(updates, full_job())
    assert updates_bytes(there, full_job()) == updates_bytes(updates, full_job())
    job = replace(plain_job(), model=GlobalModel(moved(model().parameters), moved(model().buffers)))
    assert encode_job(job) == encode_job(plain_job())


def test_the_contents_of_updates_are_all_that_is_encoded() -> None:
    one = full_updates().rows(torch.tensor([True, False]))
    contents = updates_contents(one, full_job())
    assert sum(part.bytes for part in contents) == len(encode_updates(one, full_job()))
    assert one.gradient is not None
    assert [tuple(part) for part in contents if part.kind == "gradient"] == [
        ("gradient", "gradient", "float32", (4,), 16)
    ]


# What stays


@pytest.mark.parametrize(
    ("stays", "columns"),
    [
        ({"weight"}, [0, 0, 2, 3]),
        ({"bias"}, [0, 1, 0, 3]),
        ({"a"}, [0, 1, 2, 0]),
        ({"weight", "a"}, [0, 0, 2, 0]),
        ({"weight", "bias", "a"}, [0, 0, 0, 0]),
        ({"count"}, [0, 1, 2, 3]),
    ],
)
@pytest.mark.parametrize("workers", [(), ("a",), ("a", "b")])
def test_what_stays_does_not_travel(stays: set[str], columns: list[float], workers: tuple[str, ...]) -> None:
    n, job = len(workers), plain_job()
    updates = replace(full_updates(workers), cohort=0, extra={}, stays=frozenset(stays))
    updates = replace(updates, delta=torch.tensor([0.0, 1.0, 2.0, 3.0]).repeat(n, 1))
    data = encode_updates(updates, job)
    for back in (decode_updates(data, job), decode_updates(bytearray(data), job, copy=False)):
        assert back.delta.tolist() == [columns] * n
        assert list(back.buffers) == ["new", "count", "mean"]
        assert back.buffers["count"].tolist() == ([7] * n if "count" in stays else list(range(n)))
        same(back.gradient, updates.gradient)
        assert back.stays == stays
    sent = safetensors.torch.load(data)
    travels = sum(size for name, size in (("weight", 2), ("bias", 1), ("a", 1)) if name not in stays)
    assert sent["delta"].shape == (n, travels)
    assert ("buffers/count" in sent) == ("count" not in stays)
    assert updates_bytes(updates, job) == [len(encode_updates(row(updates, i), job)) for i in range(n)]


def test_the_padding_of_complex_parameters_is_no_parameter() -> None:
    parameters = {"z": torch.ones(1, dtype=torch.complex64), "w": torch.ones(1)}
    job = replace(plain_job(), model=GlobalModel(parameters))
    updates = Updates(0, ("a",), torch.tensor([[0.0, 0.0, 5.0, 0.0]]), {}, *[torch.ones(1)] * 4, stays=frozenset("z"))
    back = decode_updates(encode_updates(updates, job), job)
    assert back.delta.tolist() == [[0, 0, 5, 0]]


def test_buffers_that_stay_are_filled_in_even_if_the_worker_leaves_them_out() -> None:
    job = plain_job()
    updates = replace(full_updates(), cohort=0, extra={}, buffers={}, stays=frozenset({"count"}))
    assert decode_updates(encode_updates(updates, job), job).buffers["count"].tolist() == [7, 7]


def test_what_stays_need_not_fit_into_the_memory() -> None:
    parameters = {"head": torch.zeros(1).expand(2**45), "bias": torch.zeros(1)}
    job = replace(plain_job(), model=GlobalModel(parameters))
    delta = torch.zeros(1, 1).expand(1, 2**45 + 1)
    data = encode_updates(Updates(0, ("a",), delta, {}, *[torch.ones(1)] * 4, stays=frozenset({"head"})), job)
    with pytest.raises(WireError, match="the memory does not hold the updates of 1 workers"):
        decode_updates(data, job)


# The container


def test_safetensors_reads_what_is_written() -> None:
    data = encode_job(full_job())
    tensors = safetensors.torch.load(data)
    same(tensors["parameters/weight"], torch.tensor([[1.0, 2.0]]))
    same(tensors["start/0/buffers/mean"], torch.ones(3))
    assert tensors["buffers/count"] == 7
    update = safetensors.torch.load(encode_updates(full_updates(), full_job()))
    same(update["delta"], full_updates().delta)
    assert update["buffers/new"].shape == (2, 3, 2)


def test_what_safetensors_writes_is_read() -> None:
    data = encode_job(full_job())
    text = outer(data)["__metadata__"]["lightning_fed"]
    again = safetensors.torch.save(safetensors.torch.load(data), {"lightning_fed": text})
    assert again != data
    same(decode_job(again), full_job())
    same(decode_job(bytearray(again), copy=False), full_job())


def test_the_metadata_hold_one_key_of_ours() -> None:
    metadata = outer(encode_job(full_job()))["__metadata__"]
    header = json.loads(metadata["lightning_fed"])
    assert list(metadata) == ["lightning_fed"]
    assert (header["version"], header["kind"]) == (1, "job")
    assert header["parameters"] == ["weight", "bias", "a"]


@pytest.mark.parametrize("stays", [frozenset(), frozenset({"bias", "count"})])
@pytest.mark.parametrize("offset", [0, 1, 8])
def test_writing_into_a_buffer_writes_the_same_bytes(stays: frozenset[str], offset: int) -> None:
    updates = full_updates(stays=stays, delta=torch.arange(16.0).reshape(2, 8)[:, ::2])
    expected = encode_updates(updates, full_job())
    buffer = bytearray(b"\xff" * (offset + sum(updates_bytes(updates, full_job()))))
    length = encode_updates_into(updates, full_job(), memoryview(buffer)[offset:])
    assert bytes(buffer[offset : offset + length]) == expected
    assert set(buffer[:offset] + buffer[offset + length :]) <= {0xFF}
    back = decode_updates(memoryview(buffer)[offset : offset + length], full_job(), copy=False)
    same(back, decode_updates(expected, full_job()))


def test_a_buffer_must_be_long_enough_and_writable() -> None:
    needed = len(encode_updates(full_updates(), full_job()))
    assert encode_updates_into(full_updates(), full_job(), bytearray(needed)) == needed
    with pytest.raises(WireError, match=f"has {needed - 1} bytes, the message {needed}"):
        encode_updates_into(full_updates(), full_job(), bytearray(needed - 1))
    with pytest.raises(WireError, match="read only"):
        encode_updates_into(full_updates(), full_job(), memoryview(bytes(needed)))
    with pytest.raises(WireError, match="contiguous"):
        encode_updates_into(full_updates(), full_job(), memoryview(bytearray(2 * needed))[::2])


def test_tensors_are_copies_unless_views_are_asked_for() -> None:
    data = bytearray(encode_updates(full_updates(), full_job()))
    copies = decode_updates(data, full_job())
    views = decode_updates(data, full_job(), copy=False)
    views.delta.fill_(9)
    assert copies.delta.tolist() == full_updates().delta.tolist()
    assert decode_updates(data, full_job()).delta.tolist() == [[9] * 4] * 2
    data[:] = bytes(len(data))
    assert views.delta.tolist() == [[0] * 4] * 2
    # Reports keep them for longer than a round.
    same(views.examples, full_updates().examples)


@pytest.mark.parametrize("offset", [0, 1, 2, 4, 8])
def test_no_view_lies_at_an_odd_address(offset: int) -> None:
    tensors = {str(dtype): torch.ones(3).to(dtype) for dtype in DTYPES}
    data = encode_job(replace(plain_job(), model=GlobalModel({}, tensors)))
    buffer = torch.zeros(len(data) + offset, dtype=torch.uint8).numpy().data
    buffer[offset:] = data
    back = decode_job(buffer[offset:], copy=False).model.buffers
    same(back, tensors)
    assert all(tensor.data_ptr() % tensor.dtype.itemsize == 0 for tensor in back.values())
    buffer[offset:] = bytes(len(data))
    viewed = {name for name, tensor in back.items() if not any(bits(tensor))}
    assert viewed == {name for name, tensor in tensors.items() if offset % tensor.dtype.itemsize == 0}


def test_views_need_a_buffer_that_may_be_written_to() -> None:
    with pytest.raises(WireError, match="copy=True"):
        decode_job(encode_job(full_job()), copy=False)


def test_every_kind_of_bytes_is_read() -> None:
    data = encode_job(full_job())
    for form in (bytes, bytearray, memoryview):
        same(decode_job(form(data)), full_job())
    same(decode_job(memoryview(b"x" + data)[1:]), full_job())


# Lengths


def jobs() -> Iterator[Job]:
    job = full_job()
    yield from (job, plain_job(), job.of("anna"), job.of("bob"), job.of("工人"), job.of("nobody"))
    for number in (-1, 0, 9, 10, 99_999, 10**6):
        yield replace(job, round=number, cohort=number, last=number, epoch=number, population=number, seed=number)
    for name in NAMES:
        vector = torch.zeros(4)
        penalty = Penalty(0.1, {name: vector})
        yield replace(job, work={name: 1.0}, penalty=penalty, start={name: Model(vector)})
        yield replace(job, work=dict.fromkeys(NAMES[: NAMES.index(name)], 0.5))
        yield replace(job, attributes={name: [name, 0.5, {name: torch.ones(2)}]})
        yield replace(job, promise={name: 1.0}, sent={name: vector}, extra=(name,), frozen=frozenset({name}))
    for changes in (
        {"record_privacy": None},
        {"record_privacy": RecordPrivacy(1.0, 1.0, 1.0)},
        {"record_privacy": RecordPrivacy(1.0, 1.0, 1.0, 10**9)},
        {"wants_gradient": False},
        {"penalty": None},
        {"penalty": Penalty(3.0)},
        {"local": LocalTraining(10)},
        {"start": {"a": Model(torch.zeros(4), {"mean": torch.zeros(2, dtype=torch.float64)})}},
        {"start": {"a": Model(torch.zeros(4), {"mean": torch.zeros(20)}), "b": Model(torch.zeros(4).double())}},
    ):
        yield replace(job, **changes)


def test_the_length_of_a_job_is_exact() -> None:
    for _ in range(2):
        for job in jobs():
            assert job_bytes(job) == len(encode_job(job))


def updates_of_all_kinds() -> Iterator[Updates]:
    for workers in (tuple(NAMES), ("anna",), ('"' * 5, "a" * 5), tuple("x" * i for i in range(20)), ()):
        yield full_updates(workers)
        yield full_updates(workers, metrics={})
        yield full_updates(workers, metrics={"äcc": torch.zeros(len(workers))})
        yield full_updates(workers, gradient=None)
        yield full_updates(workers, buffers={})
        yield full_updates(workers, buffers={"mean": torch.zeros(len(workers), 40)})
        yield full_updates(workers, stays=frozenset({"weight", "mean"}))
        yield full_updates(workers, stays=frozenset({"weight"}))


def test_the_lengths_of_updates_are_exact() -> None:
    for cohort in (13, 0, 10, 12345):
        job = replace(full_job(), cohort=cohort)
        for updates in updates_of_all_kinds():
            stack = replace(updates, cohort=cohort)
            expected = [len(encode_updates(row(stack, i), job)) for i in range(len(stack.workers))]
            assert updates_bytes(stack, job) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), unique=True, min_size=1), st.integers())
def test_lengths_are_exact_for_all_names(names: list[str], cohort: int) -> None:
    job = replace(full_job(), cohort=cohort)
    updates = full_updates(tuple(names), cohort=cohort)
    assert updates_bytes(updates, job) == [len(encode_updates(row(updates, i), job)) for i in range(len(names))]
    job = replace(job, work=dict.fromkeys(names, 0.5), attributes=dict.fromkeys(names, names))
    assert job_bytes(job) == len(encode_job(job))


def test_lengths_do_not_depend_on_numbers() -> None:
    loud = full_updates(loss=torch.tensor([1e300, -1e-300], dtype=torch.float64))
    assert len(encode_updates(loud, full_job())) == len(encode_updates(full_updates(), full_job()))
    assert job_bytes(replace(full_job(), lr_factor=1 / 3)) == job_bytes(replace(full_job(), lr_factor=1.0))


def test_lengths_are_measured_once_for_each_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    job, updates = full_job(), full_updates()
    expected = job_bytes(job.of("anna"))
    updates_bytes(updates, job)
    monkeypatch.setattr("lightning_fed.wire.container.length", None)
    later = replace(job, round=900, cohort=99, model=model(), lr_factor=0.3)
    assert job_bytes(later.of("anna")) - expected in (0, 16)
    assert len(updates_bytes(full_updates(("x", "yy", "zzz"), cohort=99), later)) == 3


# Shares in an evaluation


def full_share(worker: str = "anna", **options: Any) -> Share:
    logged = LoggedShare(
        workers={worker: {"val_loss": 0.25, "ä": math.nan}},
        pooled={"z": Part("mean", math.inf, 8.0), "a": Part("max", -0.0, 0.0)},
        objects={"acc": "metrics.acc"},
        options={
            "z": Options({"prog_bar": True}),
            "a": Options({"logger": False}, True, "/dataloader_idx_1", 1),
            "acc": Options({}),
        },
        examples={worker: 8},
        steps={"z_step": StepValue(5e-324, {"prog_bar": True}), "s": StepValue(1.5)},
    )
    states = {
        "metrics.acc": MetricState(
            3, {"tp": torch.tensor([1, 2]), "": torch.tensor(0.5), "flags": torch.tensor([True])}
        ),
        "auroc": MetricState(1, {"preds": [torch.ones(2), torch.zeros(0, 3)], "none": []}),
        "nothing": MetricState(2, {}),
    }
    share = Share(logged, (), states, loaders=2, batches={worker: 3}, filled=("Net.seen",))
    return share._replace(**options)


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("worker", NAMES)
def test_a_share_comes_back_bit_for_bit(worker: str, copy: bool) -> None:
    data = bytearray(encode_share(full_share(worker)))
    same(decode_share(data, worker, copy=copy), full_share(worker))


def test_an_empty_share_and_its_failures_come_back() -> None:
    same(decode_share(encode_share(Share()), "anna"), Share())
    (failure,) = decode_share(encode_share(Share(failures=(WorkerError("anna", 7, "ä"),))), "anna").failures
    assert (failure.worker, failure.round, failure.reason) == ("anna", 7, "ä")


def test_what_is_left_out_is_as_by_default() -> None:
    options = {"z": Options({"logger": None, "prog_bar": 1, "sync_dist": True})}
    share = decode_share(encode_share(Share(LoggedShare(options=options))), "anna")
    assert share.logged.options == {"z": Options({"prog_bar": True})}


def test_a_state_that_is_no_tensor_does_not_leave() -> None:
    with pytest.raises(WireError, match="'boxes' holds in 'masks' what is neither a tensor nor a list of tensors"):
        encode_share(Share(states={"boxes": MetricState(1, {"masks": [(1, 2)]})}))


def with_states(*states: Any) -> Callable[[dict[str, Any]], object]:
    return lambda header: header.update(states=list(states))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(examples={"bob": 8}), "'anna' was asked, and 'bob' answered"),
        (lambda h: h.update(batches={"bob": 8}), "'anna' was asked, and 'bob' answered"),
        (lambda h: h.update(failures=[["bob", 0, ""]]), "'anna' was asked, and 'bob' answered"),
        (lambda h: h.update(workers={"bob": ["a", "b"]}), "'anna' was asked, and 'bob' answered"),
        (lambda h: h.update(examples={"anna": -1}), "'examples' holds a number below 0"),
        (lambda h: h.update(examples={"anna": True}), "'examples' holds a bool"),
        (lambda h: h.update(loaders=-1), "-1 loaders"),
        (lambda h: h.update(pooled={"z": "median", "a": "max"}), "'z' reduces by 'median'"),
        (lambda h: h.update(pooled={"z": "mean"}), "numbers, and the header names"),
        (lambda h: h.update(objects={"acc": 1}), "'objects' holds a int"),
        (lambda h: h.update(options={"z": [{}, False, ""]}), "'options' holds no value of ours"),
        (lambda h: h.update(options={"z": [{"sync_dist": True}, False, "", None]}), "'options' holds no value of ours"),
        (lambda h: h.update(options={"z": [{}, False, "", -1]}), "'options' holds no value of ours"),
        (lambda h: h.update(steps={"z_step": [], "s": {}}), "'options' holds no value of ours"),
        (lambda h: h.update(failures=[["anna", 0]]), "'failures' holds no value of ours"),
        (with_states(["a", 1, {"x": None}]), "are not of this message's format"),
        (with_states(["a", 1, {"x": 2**60}]), "'states/5' is missing"),
        (with_states(["a", 1, {"x": -1}]), "'states' holds no value of ours"),
        (with_states(["a", -1, {}]), "'states' holds no value of ours"),
        (with_states(["a", 1, {}], ["a", 1, {}]), "'states' holds no value of ours"),
        (lambda h: h.update(filled=["a", "a"]), "a name twice"),
        (lambda h: h.update(kind="job"), "call decode_share on such"),
    ],
)
def test_an_altered_header_of_a_share_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode_share(with_header(encode_share(full_share()), change), "anna")


@pytest.mark.parametrize("weight", [-1.0, math.inf, math.nan])
def test_a_weight_is_a_number(weight: float) -> None:
    share = Share(LoggedShare(pooled={"z": Part("mean", 0.0, weight)}))
    with pytest.raises(WireError, match=r"'z' has the weight .*: a weight is a number of examples"):
        decode_share(encode_share(share), "anna")


# Errors


def outer(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def with_header(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A message with an altered header in a valid container."""
    whole = outer(data)
    header = json.loads(whole["__metadata__"]["lightning_fed"])
    change(header)
    whole["__metadata__"]["lightning_fed"] = json.dumps(header)
    return framed(whole, data[8 + int.from_bytes(data[:8], "little") :])


def framed(whole: object, data: bytes = b"") -> bytes:
    text = json.dumps(whole).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_another_version_or_kind_is_refused() -> None:
    data = encode_job(full_job())
    with pytest.raises(WireError, match=r"version 2 of the format.* reads version 1: install the same"):
        decode_job(with_header(data, lambda h: h.update(version=2, new=1)))
    with pytest.raises(WireError, match="kind 'job', not 'updates'"):
        decode_updates(data, full_job())
    with pytest.raises(WireError, match="kind 'updates', not 'job'"):
        decode_job(encode_updates(full_updates(), full_job()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cohort": 12}, "cohort 12, and the job is of cohort 13"),
        ({"delta": torch.zeros(2, 5)}, r"'anna', 'b\"ob': delta has the shape \[2, 5\], not \[2, 4\]"),
        ({"delta": torch.zeros(3, 4)}, r"delta has the shape \[3, 4\]"),
        ({"delta": torch.zeros(2, 4).double()}, "delta is torch.float64"),
        ({"gradient": torch.zeros(2, 3)}, r"gradient has the shape \[2, 3\]"),
        ({"extra": {"z": torch.zeros(2, 4)}}, r"the extra \['z'\], and the job asks for \['momentum', 'z'\]"),
        ({"extra": {"z": torch.zeros(2, 4), "momentum": torch.zeros(4)}}, "momentum"),
        ({"buffers": {"new": torch.zeros(3)}}, r"buffer 'new' has the shape \[3\]"),
        ({"buffers": {"new": torch.tensor(1)}}, "buffer 'new'"),
        ({"examples": torch.zeros(3)}, r"examples has the shape \[3\], not \[2\]"),
        ({"metrics": {"acc": torch.zeros(1)}}, r"acc has the shape \[1\]"),
        ({"rates": {"lr-SGD": torch.zeros(1)}}, r"lr-SGD has the shape \[1\]"),
        ({"metric_states": {"mean": {}}}, "merge by 'mean': they can merge by sum, min, max"),
        ({"metric_states": {"sum": {"a.b": torch.zeros(3)}}}, r"the state 'a.b' of a metric has the shape \[3\]"),
        ({"workers": ("a", "a")}, "'a', 'a' name a worker twice"),
        ({"stays": frozenset({"head"})}, "'head' is to stay"),
    ],
)
def test_updates_that_do_not_answer_the_job_are_not_written(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WireError, match=message):
        encode_updates(full_updates(**changes), full_job())


def test_a_buffer_may_come_out_of_local_training_in_another_dtype() -> None:
    changed = full_updates(buffers={"count": torch.tensor([0.5, 1.5], dtype=torch.float64)})
    read = decode_updates(encode_updates(changed, full_job()), full_job())
    assert read.buffers["count"].dtype == torch.float64
    assert read.buffers["count"].tolist() == [0.5, 1.5]
    assert updates_bytes(changed, full_job()) == [len(encode_updates(row(changed, i), full_job())) for i in range(2)]


def other(**changes: Any) -> Job:
    return replace(full_job(), **changes)


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (other(cohort=14), "cohort 13, and the job is of cohort 14"),
        (other(model=GlobalModel({"weight": torch.zeros(1, 3)})), r"shape \[2, 4\] in torch.float32, not \[2, 3\]"),
        (other(model=GlobalModel({"weight": torch.zeros(4).double()})), "torch.float64"),
        (other(extra=("z",)), "the job asks for"),
    ],
)
def test_updates_that_do_not_answer_the_job_are_refused(job: Job, message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode_updates(encode_updates(full_updates(), full_job()), job)


def test_only_those_who_were_asked_may_answer() -> None:
    data = encode_updates(full_updates(("a", "b")), full_job())
    assert decode_updates(data, full_job(), workers=["a", "b"]).workers == ("a", "b")
    for asked in (["a"], ["b", "a"], ["a", "c"], []):
        with pytest.raises(WireError, match="answered"):
            decode_updates(data, full_job(), workers=asked)


@pytest.mark.parametrize(
    "changes",
    [
        {"penalty": Penalty(0.1, {"anna": torch.zeros(3)})},
        {"start": {"anna": Model(torch.zeros(5))}},
        {"sent": {"z": torch.zeros(1, 4)}},
        {"model": GlobalModel({"w": torch.zeros(4, dtype=torch.int64)})},
        {"model": GlobalModel({"w": torch.zeros(4)}, {"b": torch.zeros(1, device="meta")})},
        {"model": GlobalModel({"w": torch.zeros(4)}, {"b": torch.zeros(1).to_sparse()})},
    ],
)
def test_a_job_whose_parts_do_not_fit_is_not_written(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        encode_job(replace(plain_job(), **changes))


class Text(str):
    pass


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), r"net\.p is a builtins\.object"),
        ([1, {"a": (2, {3})}], r"net\.p\[1\]\['a'\]\[1\] is a builtins.set"),
        ({1: 2}, r"net\.p is a builtins.dict"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (torch.Size([1]), "Size"),
        (Text("a"), "Text"),
        (torch.float32, "dtype"),
        (torch.zeros(1, device="meta"), "Tensor"),
        (torch.nn.Parameter(torch.zeros(1)), "Parameter"),
        (b"a", "bytes"),
        (np.array(["a"]), "numpy.ndarray"),
        (np.array([None]), "numpy.ndarray"),
        (np.datetime64("2026-01-01"), "numpy.datetime64"),
        (np.zeros(1, ">f8"), "numpy.ndarray"),
        (np.ones((1, 1)).view(np.matrix), "numpy.matrix"),
        (torch.zeros(1, requires_grad=True), "Tensor"),
        ([ABSENT], "Absent"),
        ([10**5000], "int"),
    ],
)
def test_an_attribute_that_cannot_cross_is_named(value: Any, path: str) -> None:
    for function in (encode_job, job_bytes):
        with pytest.raises(TypeError, match=path):
            function(plain_job(attributes={"net.p": value}))


def test_attributes_nest_to_a_limit() -> None:
    def nested(depth: int) -> list[Any]:
        return [nested(depth - 1)] if depth else []

    same(decode_job(encode_job(plain_job(attributes={"a": nested(99)}))).attributes, {"a": nested(99)})
    with pytest.raises(TypeError, match="nested at most 100 deep"):
        encode_job(plain_job(attributes={"a": nested(100)}))
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match=r"a(\[0\]){100} is a builtins.list"):
        encode_job(plain_job(attributes={"a": endless}))


HUGE = {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 bytes are no message"),
        (b"\x80\x04N.", "4 bytes are no message"),
        (b"\x80\x05K\x01." * 20, "header should end at byte"),
        (b"\xff" * 8, "header should end at byte"),
        (b"\x02" + bytes(7) + b"[]", "no JSON object"),
        (b"\x02" + bytes(7) + b"\xff\xff", "no JSON of ours"),
        (b"\x02" + bytes(7) + b"{{", "no JSON of ours"),
        (b"\xa0\x86\x01" + bytes(5) + b"[" * 100_000, "no JSON of ours"),
        (framed({}), "__metadata__"),
        (framed({"__metadata__": {"lightning_fed": "{}", "more": ""}}), "must hold one string"),
        (framed({"__metadata__": {"lightning_fed": "[]"}}), "the header is no JSON object"),
        (framed({"__metadata__": {"lightning_fed": "{"}}), "the header is no JSON"),
        (framed({"__metadata__": {"lightning_fed": '{"a": 1, "a": 2}'}}), "has a name twice"),
        (framed({"__metadata__": {"lightning_fed": '{"a": NaN}'}}), "all are integers"),
        (framed({"__metadata__": {"lightning_fed": '{"a": 1e999}'}}), "all are integers"),
        (framed({"__metadata__": {"lightning_fed": f'{{"a": {"9" * 5000}}}'}}), "no JSON"),
        (framed({"__metadata__": {"lightning_fed": "[" * 100_000}}), "no JSON"),
        (framed({"__metadata__": {"lightning_fed": "{}"}}), "'complex'"),
        (framed({"__metadata__": {"lightning_fed": '{"complex": []}'}}), "'version' is missing"),
        (framed({"__metadata__": {"lightning_fed": '{"complex": ["a"]}'}}), "no pairs of reals"),
        (framed({"__metadata__": {"lightning_fed": '{"complex": []}'}, "a": HUGE}, bytes(4)), "fill its place"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, message: str) -> None:
    for decode in (decode_job, lambda data: decode_updates(data, full_job())):
        with pytest.raises(WireError, match=message):
            decode(data)


@pytest.mark.parametrize(
    "entry",
    [
        [],
        {"dtype": "F32", "shape": [1]},
        {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1] * 100, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**100, 0], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [2**59, 0, 2**59], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]},
        {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "more": 1},
        {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]},
    ],
)
def test_a_tensor_that_does_not_fill_its_place_is_refused(entry: object) -> None:
    whole = {"__metadata__": {"lightning_fed": '{"complex": [], "version": 1, "kind": "job"}'}, "numbers": entry}
    with pytest.raises(WireError):
        decode_job(framed(whole, bytes(4)))


def test_the_strides_of_an_empty_tensor_may_not_overflow() -> None:
    data = encode_job(replace(plain_job(), model=GlobalModel({}, {"b": torch.zeros(0)})))
    whole = outer(data)
    whole["buffers/b"]["shape"] = [0, 2**59, 2**59]
    with pytest.raises(WireError, match="'buffers/b' does not fill"):
        decode_job(framed(whole, data[8 + int.from_bytes(data[:8], "little") :]))


def test_tensors_may_not_overlap() -> None:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    whole = {"__metadata__": {"lightning_fed": '{"complex": []}'}, "a": entry, "b": entry}
    with pytest.raises(WireError, match="'b' does not fill"):
        decode_job(framed(whole, bytes(4)))


def test_a_bool_is_0_or_1() -> None:
    job = replace(plain_job(), model=GlobalModel({}, {"mask": torch.tensor([True, False])}))
    data = encode_job(job)
    assert data.endswith(b"\x01\x00")
    with pytest.raises(WireError, match="'buffers/mask' is bool"):
        decode_job(data[:-2] + b"\x07\x00")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.pop("cohort"), "'cohort' is missing"),
        (lambda h: h.update(more=1), r"\['more'\] are not of version 1"),
        (lambda h: h.update(workers=["x"]), "1 workers"),
        (lambda h: h.update(workers="ab"), "'workers' holds a str, not a list"),
        (lambda h: h.update(workers=["a", 1]), "'workers' holds a int, not a str"),
        (lambda h: h.update(workers=["a", "a"]), "a name twice"),
        (lambda h: h.update(cohort=True), "'cohort' holds a bool, not a int"),
        (lambda h: h.update(cohort="13"), "'cohort' holds a str"),
        (lambda h: h.update(gradient=False), r"\['gradient'\] are not of this message"),
        (lambda h: h.update(gradient=None), "'gradient' holds a NoneType"),
        (lambda h: h.update(extra=["z"]), "'extra/momentum'"),
        (lambda h: h.update(buffers=["count", "mean"]), "'buffers/new'"),
        (lambda h: h["buffers"].append("old"), "'buffers/old' is missing"),
        (lambda h: h.update(metrics=["z"]), "1 metrics"),
        (lambda h: h.update(rates=[]), r"numbers of shape \[7, 2\].* they must be of shape \[6, 2\]"),
        (lambda h: h.pop("shown"), "'shown' is missing"),
        (lambda h: h["shown"].update(z="y"), "'shown' holds a str, not a list"),
        (lambda h: h["shown"].update(z=[]), "'shown' holds 0 values, not 7"),
        (lambda h: h["shown"]["z"].__setitem__(1, "median"), "reduces by 'median'"),
        (lambda h: h["shown"]["z"].__setitem__(1, ["sum"]), "'shown' holds a list, not a str"),
        (lambda h: h["shown"]["z"].__setitem__(2, 1), "'shown' holds a int, not a bool"),
        (lambda h: h["shown"]["z"].__setitem__(6, 1), "'shown' holds a int, not a str"),
        (lambda h: h["metric_states"].update(mean=["a"]), "'metric_states/mean/a' is missing"),
        (lambda h: h["metric_states"].update(max=[]), "net.z.most"),
        (lambda h: h.update(stays=["weight"]), r"not \[2, 2\]"),
        (lambda h: h.update(stays=["count"]), "'buffers/count'"),
        (lambda h: h.update(stays=["head"]), "'head' is to stay"),
    ],
)
def test_an_altered_header_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode_updates(with_header(encode_updates(full_updates(), full_job()), change), full_job())


def test_a_parameter_that_stays_is_no_buffer() -> None:
    data = with_header(STAYING, lambda h: h["buffers"].append("bias"))
    with pytest.raises(WireError, match="'buffers/bias' is missing"):
        decode_updates(data, full_job())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h.update(epochs=0), "local_epochs=0"),
        (lambda h: h.update(work=["anna"]), "numbers"),
        (lambda h: h.update(promise=["clip", "bound", "more"]), "numbers"),
        (lambda h: h.update(penalty=None), "22 numbers, and the header names 21"),
        (lambda h: h.update(start=[]), "'start' holds a list"),
        (lambda h: h.update(start={"bob": "mean"}), "'start' holds a str"),
        (lambda h: h.update(attributes=[]), "no JSON object"),
        (lambda h: h.update(attributes={"a": {"set": []}}), "no value of ours"),
        (lambda h: h.update(attributes={"a": {"tensor": 99}}), "'attributes/99' is missing"),
        (lambda h: h.update(attributes={"a": [{"tensor": 0}, {"tensor": 0}]}), "'attributes/0' is missing"),
        (lambda h: h.update(attributes={"a": [{"absent": None}]}), "no value of ours"),
        (lambda h: h.update(attributes={"a": {"scalar": 0}}), "no value of ours"),
        (lambda h: h.update(parameters=["weight"]), "parameters"),
        (lambda h: h.update(parameters=["weight", "bias", "a", "a"]), "a name twice"),
    ],
)
def test_an_altered_header_of_a_job_is_refused(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(WireError, match=message):
        decode_job(with_header(encode_job(full_job()), change))


JOB = encode_job(full_job())
UPDATES = encode_updates(full_updates(), full_job())
STAYING = encode_updates(full_updates(stays=frozenset({"bias", "mean"})), full_job())
SHARE = encode_share(full_share(failures=(WorkerError("anna", 1, "x"),)))
MESSAGES = [JOB, UPDATES, STAYING, SHARE]


def survives(data: bytes) -> None:
    """Reading raises nothing but a WireError."""
    for buffer, copy in ((data, True), (bytearray(data), False)):
        with suppress(WireError):
            decode_job(buffer, copy=copy)
        with suppress(WireError):
            decode_updates(buffer, full_job(), copy=copy)
        with suppress(WireError):
            decode_share(buffer, "anna", copy=copy)


@pytest.mark.parametrize("data", MESSAGES, ids=["job", "updates", "staying", "share"])
def test_no_part_of_a_message_is_one(data: bytes) -> None:
    decode: Callable[[bytes], Any] = decode_job
    if data is not JOB:
        decode = partial(decode_share, worker="anna") if data is SHARE else partial(decode_updates, job=full_job())
    for length in range(len(data)):
        with pytest.raises(WireError):
            decode(data[:length])
    with pytest.raises(WireError):
        decode(data + b"\0")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MESSAGES), st.data())
def test_flipped_bits_raise_nothing_else(message: bytes, data: st.DataObject) -> None:
    altered = bytearray(message)
    for place in data.draw(st.lists(st.integers(0, len(message) - 1), min_size=1, max_size=4)):
        altered[place] ^= 1 << data.draw(st.integers(0, 7))
    survives(bytes(altered))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_else(data: bytes) -> None:
    survives(data)
    survives(len(data).to_bytes(8, "little") + data)


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from([2**63, "weight"])
)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))


def altered(value: Any, data: st.DataObject) -> Any:
    """A JSON value that differs somewhere."""
    if not (isinstance(value, dict | list) and value) or data.draw(st.integers(0, 5)) == 0:
        return data.draw(JSON)
    if isinstance(value, list):
        place = data.draw(st.integers(0, len(value) - 1))
        kept = [altered(value[place], data)] if data.draw(st.booleans()) else []
        return [*value[:place], *kept, *value[place + data.draw(st.integers(0, 1)) :]]
    key = data.draw(st.sampled_from(list(value)))
    result = {k: v for k, v in value.items() if k != key}
    match data.draw(st.integers(0, 3)):
        case 0:
            return result
        case 1:
            return {**result, data.draw(st.text(max_size=3)): value[key]}
        case _:
            return {**value, key: altered(value[key], data)}


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(MESSAGES), st.data())
def test_an_altered_header_raises_nothing_else(message: bytes, data: st.DataObject) -> None:
    whole = outer(message)
    if data.draw(st.booleans()):
        header = json.loads(whole["__metadata__"]["lightning_fed"])
        whole["__metadata__"]["lightning_fed"] = json.dumps(altered(header, data))
    else:
        whole = altered(whole, data)
    survives(framed(whole, message[8 + int.from_bytes(message[:8], "little") :]))
