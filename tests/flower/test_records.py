"""Messages as Flower's records, there and back, through Flower's own serialisation too."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from lightning_fed.flower.records import of_records, to_records

FIELDS = {"ask": "train", "workers": ["alice", "Zoë"], "limit": None, "nested": {"x": [1, 2.5, True]}}


def _sent(records: RecordDict) -> RecordDict:
    objects = {name: each.deflate() for name, each in get_all_nested_objects(records).items()}
    return inflate_object_from_contents(records.object_id, objects)


@pytest.mark.parametrize("sent", [lambda records: records, _sent])
def test_a_message_comes_back_as_it_was(sent: Any) -> None:
    many = [bytes([index]) * index for index in range(12)]  # more than nine: "10" sorts before "2"
    fields, parts = of_records(sent(to_records(FIELDS, [memoryview(part) for part in many])))
    assert fields == FIELDS
    assert [bytes(part) for part in parts] == many
    assert of_records(sent(to_records({}, []))) == ({}, [])


@pytest.mark.parametrize("sent", [lambda records: records, _sent])
@pytest.mark.parametrize("more", [0, 1, 16 * 2**20])
def test_a_long_part_travels_in_pieces_and_comes_back_whole(sent: Any, more: int) -> None:
    long = (bytes(range(251)) * 140_000)[: 16 * 2**20 + more]
    parts: list[bytes] = [b"short", long, b""]
    records = sent(to_records(FIELDS, [memoryview(part) for part in parts]))
    assert max(len(array.data) for array in records["parts"].values()) == 16 * 2**20
    assert len(records["parts"]) == (3 if more == 0 else 4)
    assert [bytes(part) for part in of_records(records)[1]] == parts
    assert len(records["parts"]) == 2 + (more == 0), "pieces are let go of"


@pytest.mark.parametrize("form", [bytes, memoryview])
def test_bytes_are_not_copied(form: Any) -> None:
    part = bytes(2**20)
    records = to_records({}, [form(part)])
    assert records["parts"]["0"].data is part
    assert of_records(records)[1][0].obj is part


def test_a_view_of_some_bytes_is_those_bytes() -> None:
    (part,) = of_records(to_records({}, [memoryview(b"abcdef")[1:3]]))[1]
    assert bytes(part) == b"bc"


def _with(**records: Any) -> RecordDict:
    return RecordDict({**to_records({"ask": "greet"}, [b"abc"]), **records})


def _array(**changed: Any) -> ArrayRecord:
    return ArrayRecord(
        {"0": Array(**{"dtype": "uint8", "shape": (3,), "stype": "lightning_fed", "data": b"abc", **changed})}
    )


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (RecordDict(), "has the records 'fields' and 'parts', not"),
        (_with(more=ConfigRecord()), "not \\['fields', 'more', 'parts'\\]"),
        (_with(fields=ConfigRecord()), "has no text 'json'"),
        (_with(fields=ConfigRecord({"json": b"{}"})), "has no text 'json'"),
        (_with(fields=MetricRecord({"json": 1})), "has no text 'json'"),
        (_with(fields=ConfigRecord({"json": "{"})), "not JSON"),
        (_with(fields=ConfigRecord({"json": "[" * 100_000})), "not JSON"),
        (_with(fields=ConfigRecord({"json": "[1]"})), "are a list, not an object"),
        (_with(parts=ConfigRecord({"0": b"abc"})), "does not hold its parts"),
        (_with(parts=ArrayRecord({"1": _array()["0"]})), "does not hold its parts"),
        (_with(parts=ArrayRecord({"0.1": _array()["0"]})), "does not hold its parts"),
        (_with(parts=ArrayRecord({name: _array()["0"] for name in ("0", "0.0")})), "does not hold its parts"),
        (_with(parts=ArrayRecord({name: _array()["0"] for name in ("0.0", "00.1")})), "does not hold its parts"),
        (_with(parts=ArrayRecord({"0.0": _array(shape=(4,))["0"]})), "part 0.0 of a message is uint8 \\(4,\\)"),
        (_with(parts=_array(dtype="float32")), "part 0 of a message is float32 \\(3,\\)"),
        (_with(parts=_array(shape=(4,))), "part 0 of a message is uint8 \\(4,\\)"),
        (_with(parts=_array(stype="numpy.ndarray")), "as 'numpy.ndarray', not 3 bytes"),
    ],
)
def test_anything_else_is_refused_in_a_sentence(records: RecordDict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        of_records(records)
