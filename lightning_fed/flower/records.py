"""A message as Flower carries it: a ``ConfigRecord`` with its fields as JSON, an ``ArrayRecord`` with its parts.

Parts are arrays because only those are cut into pieces on their way. Their bytes are nothing that Flower can read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from lightning_fed.core.channel import Message

FIELDS, JSON, PARTS = "fields", "json", "parts"
_DTYPE, _STYPE = "uint8", "lightning_fed"


def to_records(fields: Mapping[str, Any], parts: Sequence[bytes | memoryview] | ArrayRecord) -> RecordDict:
    """Return a message as Flower's records.

    Args:
        fields: Its fields; JSON.
        parts: Its parts, or what :func:`to_arrays` made of them.
    """
    arrays = parts if isinstance(parts, ArrayRecord) else to_arrays(parts)
    return RecordDict({FIELDS: ConfigRecord({JSON: json.dumps(fields)}), PARTS: arrays})


def to_arrays(parts: Sequence[bytes | memoryview]) -> ArrayRecord:
    """Return the parts of a message as Flower's arrays. Messages that share one share its hash, too.

    Args:
        parts: Each is copied unless it is ``bytes``, or a view of all of them.
    """
    return ArrayRecord({str(index): _array(part) for index, part in enumerate(parts)})


def of_records(records: RecordDict) -> Message:
    """Return the message that Flower's records carry; its parts are views of their bytes.

    Args:
        records: They may be anything: the other side is not trusted.

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
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {str(index) for index in range(len(arrays))}:
        raise ValueError(f"the record {PARTS!r} of a message does not hold its parts, numbered from 0")
    return fields, [_part(str(index), arrays[str(index)]) for index in range(len(arrays))]


def _array(part: bytes | memoryview) -> Array:
    whole = part.obj if isinstance(part, memoryview) else part
    data = whole if isinstance(whole, bytes) and len(whole) == len(part) else bytes(part)
    return Array(dtype=_DTYPE, shape=(len(data),), stype=_STYPE, data=data)


def _part(index: str, array: Array) -> memoryview:
    if (array.dtype, tuple(array.shape), array.stype) != (_DTYPE, (len(array.data),), _STYPE):
        raise ValueError(
            f"part {index} of a message is {array.dtype} {tuple(array.shape)} as {array.stype!r}, "
            f"not {len(array.data)} bytes as {_STYPE!r}"
        )
    return memoryview(array.data)
