"""A message as Flower carries it: a ``ConfigRecord`` with its fields as JSON, an ``ArrayRecord`` with its parts.

Parts are arrays because Flower splits only arrays into pieces for transport. Flower does not interpret their bytes. A
long part of an answer is several arrays: Flower holds an array three times while it reassembles it
(benchmarks/deployment.py --only large).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from lightning_fed.core.channel import Message

FIELDS, JSON, PARTS = "fields", "json", "parts"
_DTYPE, _STYPE = "uint8", "lightning_fed"
_PIECE = 16 * 2**20
"""The bytes of one array, at most."""


def to_records(fields: Mapping[str, Any], parts: Sequence[bytes | memoryview] | ArrayRecord) -> RecordDict:
    """Return a message as Flower's records.

    Args:
        fields: Its fields; JSON.
        parts: Its parts, or the result of :func:`to_arrays` for them.
    """
    arrays = parts if isinstance(parts, ArrayRecord) else _in_pieces(parts)
    return RecordDict({FIELDS: ConfigRecord({JSON: json.dumps(fields)}), PARTS: arrays})


def to_arrays(parts: Sequence[bytes | memoryview]) -> ArrayRecord:
    """Return the parts of a message as Flower's arrays, one each. Messages that share an array share its hash, too.

    Args:
        parts: Each is copied unless it is ``bytes``, or a view of all of them.
    """
    return ArrayRecord({str(index): _array(part) for index, part in enumerate(parts)})


def _in_pieces(parts: Sequence[bytes | memoryview]) -> ArrayRecord:
    """Return the parts of a message as arrays of at most ``_PIECE`` bytes: long ones are copied."""
    arrays: dict[str, Array] = {}
    for index, part in enumerate(parts):
        if len(part) <= _PIECE:
            arrays[str(index)] = _array(part)
            continue
        view = memoryview(part)
        pieces = (view[begin : begin + _PIECE] for begin in range(0, len(part), _PIECE))
        arrays |= {f"{index}.{number}": _array(piece) for number, piece in enumerate(pieces)}
    return ArrayRecord(arrays)


def of_records(records: RecordDict) -> Message:
    """Return the message that Flower's records carry; its parts are views of their bytes.

    Args:
        records: The records, not trusted. Pieces of long parts are removed from them.

    Raises:
        ValueError: If they are not such a message.
    """
    if set(records) != {FIELDS, PARTS}:
        raise ValueError(f"a message has the records {FIELDS!r} and {PARTS!r}, not {sorted(map(str, records))}")
    config, arrays = records[FIELDS], records[PARTS]
    text = config.get(JSON) if isinstance(config, ConfigRecord) else None
    if not isinstance(text, str):
        raise ValueError(f"the record {FIELDS!r} of a message has no text {JSON!r}")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the fields of a message are not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"the fields of a message are a {type(fields).__name__}, not an object")
    keys = _keys(arrays) if isinstance(arrays, ArrayRecord) else None
    if keys is None or not isinstance(arrays, ArrayRecord):
        raise ValueError(f"the record {PARTS!r} of a message does not hold its parts, numbered from 0")
    return fields, [_part(arrays, index, pieces) for index, pieces in enumerate(keys)]


def _keys(arrays: ArrayRecord) -> list[int] | None:
    """Return the number of pieces of each part, 0 for one that is whole; None: the arrays are not those of parts."""
    counts = Counter(key.partition(".")[0] for key in arrays if "." in key)
    parts = len({key.partition(".")[0] for key in arrays})
    pieces = [counts[str(index)] for index in range(parts)]
    expected = {name for index, count in enumerate(pieces) for name in _names(index, count)}
    return pieces if set(arrays) == expected else None


def _names(index: int, pieces: int) -> list[str]:
    return [f"{index}.{number}" for number in range(pieces)] or [str(index)]


def _array(part: bytes | memoryview) -> Array:
    whole = part.obj if isinstance(part, memoryview) else part
    data = whole if isinstance(whole, bytes) and len(whole) == len(part) else bytes(part)
    return Array(dtype=_DTYPE, shape=(len(data),), stype=_STYPE, data=data)


def _part(arrays: ArrayRecord, index: int, pieces: int) -> memoryview:
    """Return a part; its pieces, if it has any, are released one after the other."""
    if not pieces:
        return memoryview(_data(str(index), arrays[str(index)]))
    names = _names(index, pieces)
    whole, place = bytearray(sum(len(_data(name, arrays[name])) for name in names)), 0
    for name in names:
        piece = arrays.pop(name).data
        whole[place : place + len(piece)] = piece
        place += len(piece)
    return memoryview(whole)


def _data(name: str, array: Array) -> bytes:
    if (array.dtype, tuple(array.shape), array.stype) != (_DTYPE, (len(array.data),), _STYPE):
        raise ValueError(
            f"part {name} of a message is {array.dtype} {tuple(array.shape)} as {array.stype!r}, "
            f"not {len(array.data)} bytes as {_STYPE!r}"
        )
    data: bytes = array.data
    return data
