"""Tensors and a header as bytes: the container of the safetensors format, written and read in place.

The format is a length, a JSON header, and the tensors' bytes without gaps. The library ``safetensors`` reads these
files. It is not used to write, since it copies every tensor into a new bytes object, where a caller may hold shared
memory, nor to read, since its tensors are always copies. Nothing is ever unpickled.

The header of lightning_fed is one JSON text under ``__metadata__``. It holds the names in order. The tensors themselves
are ordered by item size, which aligns each of them.

References:
    https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, NoReturn, TypeAlias, final

import numpy as np
import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire.errors import WireError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that a message is read from."""

Spec: TypeAlias = tuple[str, torch.dtype, tuple[int, ...]]
"""A tensor's name, dtype and shape."""

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    # As pairs of real numbers: of the two, safetensors has only complex64, and that only since 0.6.
    torch.complex64: "F32",
    torch.complex128: "F64",
}
"""The dtypes that can cross, with the format's codes."""

_DTYPES = {code: dtype for dtype, code in CODES.items() if not dtype.is_complex}
_KEY = "lightning_fed"
_METADATA = "__metadata__"
_MAX_DIMS = 64
# The size of the largest items, complex128; a buffer of bytes begins at a multiple of it.
_ALIGNMENT = 16
_AGAIN = "bytes were lost or altered on the way: send the message again"


def specs_of(tensors: Mapping[str, Tensor]) -> tuple[Spec, ...]:
    """The names, dtypes and shapes of tensors."""
    return tuple((name, tensor.dtype, tensor.shape) for name, tensor in tensors.items())


def escaped(text: str) -> int:
    """The length that a string adds to a header, without the quotes around it.

    >>> escaped("anna"), escaped('an"na'), escaped("änna")
    (4, 8, 10)
    """
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return len(text)
    return json_length(text) - 4


def json_length(value: object) -> int:
    """The length of a JSON value in a header, which is JSON in JSON."""
    return len(json.dumps(_dumps(value))) - 2


def length(header: Mapping[str, object], specs: tuple[Spec, ...]) -> tuple[int, int]:
    """The lengths of a header, before :func:`padded`, and of the tensors behind it."""
    plan = _plan(specs)
    return len(_head(header, plan)), plan.size


def padded(head: int) -> int:
    """Return the length of a header with its length prefix and the spaces that align the tensors behind it."""
    return -(-(8 + head) // _ALIGNMENT) * _ALIGNMENT


def pack(header: Mapping[str, object], tensors: Tensors) -> bytes:
    """Write a header and tensors.

    Args:
        header: Fields that JSON can hold.
        tensors: Of any device, contiguous or not.
    """
    plan = _plan(_checked(tensors))
    values = list(tensors.values())
    # One copy of each tensor, straight into the result.
    return b"".join([_framed(_head(header, plan)), *(_raw(values[position]) for position in plan.order)])


def pack_into(header: Mapping[str, object], tensors: Tensors, buffer: bytearray | memoryview) -> int:
    """Write the same bytes as :func:`pack` into a buffer.

    Args:
        header: Fields that JSON can hold.
        tensors: Of any device, contiguous or not.
        buffer: Writable, and at least as long as the message.

    Returns:
        The length of the message.
    """
    view = _bytes_of(buffer)
    plan = _plan(_checked(tensors))
    head = _framed(_head(header, plan))
    total = len(head) + plan.size
    if view.readonly:
        raise WireError("the buffer to write into is read only: pass a bytearray or shared memory")
    if len(view) < total:
        raise WireError(f"the buffer to write into has {len(view)} bytes, the message {total}: pass a longer one")
    if _address(view) % _ALIGNMENT:
        view[:total] = pack(header, tensors)
        return total
    view[: len(head)] = head
    for tensor, start in zip(tensors.values(), plan.starts, strict=True):
        if tensor.numel():
            place = torch.frombuffer(view, dtype=tensor.dtype, count=tensor.numel(), offset=len(head) + start)
            place.view(tensor.shape).copy_(tensor.detach())
    return total


@final
class Packed:
    """Tensors in bytes, found and checked but not copied yet.

    Args:
        data: The bytes.
        copy: Whether :meth:`take` copies; else its tensors are views of ``data``, which must be writable.

    Raises:
        WireError: If they are not a complete container with a header of lightning_fed.
    """

    def __init__(self, data: Buffer, copy: bool = True) -> None:
        self._view = _bytes_of(data)
        self._copy = copy
        if not copy and self._view.readonly:
            raise WireError("copy=False needs a writable buffer, since tensors can be written to: pass copy=True")
        size = len(self._view)
        if size < 8:
            raise WireError(f"{size} bytes are no message: {_AGAIN}")
        end = 8 + int.from_bytes(self._view[:8], "little")
        if end > size:
            raise WireError(f"the header should end at byte {end} of {size}: this is no message of ours, or {_AGAIN}")
        places = _object(_parsed(self._view[8:end], "the container's header"), "the container's header")
        metadata = _object(places.pop(_METADATA, None), _METADATA)
        text = metadata.get(_KEY)
        if len(metadata) != 1 or not isinstance(text, str):
            raise WireError(
                f"{_METADATA} must hold one string, {_KEY!r}: this file of safetensors is no message of ours"
            )
        self.header = _object(_parsed(text, "the header"), "the header")
        """The fields that were given to :func:`pack`."""
        self._places = _places(places, end, size)
        self._complex(self.header.pop("complex", None))

    def _complex(self, names: object) -> None:
        """Return pairs of real numbers as complex numbers."""
        if not isinstance(names, list):
            raise WireError(f"the header's field 'complex' is no list of names: {_AGAIN}")
        for name in names:
            place = self._places.get(name) if isinstance(name, str) else None
            if place is None or place.dtype not in (torch.float32, torch.float64) or place.shape[-1:] != (2,):
                raise WireError(
                    f"the header calls the tensor {name!r} complex, and there are no pairs of reals: {_AGAIN}"
                )
            self._places[str(name)] = place._replace(dtype=place.dtype.to_complex(), shape=place.shape[:-1])

    def spec(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """The dtype and shape of a tensor that was not taken yet."""
        if name not in self._places:
            raise WireError(f"the tensor {name!r} is missing: {_AGAIN}")
        return self._places[name].dtype, self._places[name].shape

    def raw(self, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Take the bytes of a tensor without a copy; read only."""
        self.spec(name)
        place = self._places.pop(name)
        return np.frombuffer(self._view, np.uint8, place.end - place.start, place.start)

    def take(self, name: str, copy: bool | None = None) -> Tensor:
        """Take a tensor; each can be taken once.

        Args:
            name: Its name.
            copy: If given, in place of ``copy`` of the class.
        """
        dtype, shape = self.spec(name)
        start = self._places[name].start
        raw = self.raw(name)
        if dtype == torch.bool and raw.size and raw.max() > 1:
            raise WireError(f"the tensor {name!r} is bool and holds other bytes than 0 and 1: {_AGAIN}")
        if not raw.size:
            return torch.empty(shape, dtype=dtype)
        # What another program wrote may lie at an odd address, where reading numbers can crash.
        if (self._copy if copy is None else copy) or _address(raw) % dtype.itemsize:
            tensor = torch.empty(len(raw), dtype=torch.uint8)
            tensor.numpy()[:] = raw
            return tensor.view(dtype).view(shape)
        return torch.frombuffer(self._view, dtype=dtype, count=len(raw) // dtype.itemsize, offset=start).view(shape)

    def close(self) -> None:
        """Refuse tensors that were not taken."""
        if self._places:
            raise WireError(f"the tensors {sorted(self._places)} are not of this message's format: {_AGAIN}")


class _Plan(NamedTuple):
    """Places of tensors in the bytes behind the header.

    Args:
        entries: Their part of the container's header, as text.
        starts: Where each begins.
        order: Their positions in the order of their places.
        size: The length of all.
        complex: The names of the complex ones.
    """

    entries: str
    starts: tuple[int, ...]
    order: tuple[int, ...]
    size: int
    complex: tuple[str, ...]


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@lru_cache(maxsize=256)
def _plan(specs: tuple[Spec, ...]) -> _Plan:
    # Large items first: all begin at a multiple of their own size.
    order = sorted(range(len(specs)), key=lambda position: -specs[position][1].itemsize)
    starts = [0] * len(specs)
    entries = []
    size = 0
    for position in order:
        name, dtype, shape = specs[position]
        starts[position] = size
        size += math.prod(shape) * dtype.itemsize
        place = {
            "dtype": CODES[dtype],
            "shape": [*shape, 2] if dtype.is_complex else [*shape],
            "data_offsets": [starts[position], size],
        }
        entries.append(f",{_dumps(name)}:{_dumps(place)}")
    complex_ones = tuple(name for name, dtype, _ in specs if dtype.is_complex)
    return _Plan("".join(entries), tuple(starts), tuple(order), size, complex_ones)


def _head(header: Mapping[str, object], plan: _Plan) -> str:
    text = json.dumps(_dumps({**header, "complex": plan.complex}))
    return f'{{"{_METADATA}":{{"{_KEY}":{text}}}{plan.entries}}}'


def _framed(head: str) -> bytes:
    size = padded(len(head)) - 8
    return size.to_bytes(8, "little") + head.ljust(size).encode()


def _dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _checked(tensors: Tensors) -> tuple[Spec, ...]:
    for name, tensor in tensors.items():
        if not crosses(tensor):
            raise WireError(
                f"the tensor {name!r} is {tensor.dtype}, {tensor.layout}, on {tensor.device}: it has no form as "
                "bytes, which only dense tensors with values have, such as those of float32"
            )
    return specs_of(tensors)


def crosses(tensor: Tensor) -> bool:
    """Whether a tensor has a form as bytes: no sparse, quantized or meta tensor has."""
    return tensor.layout == torch.strided and tensor.dtype in CODES and tensor.device.type != "meta"


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, copied only if it is not dense or not on the CPU."""
    dense = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    # Not view(-1): of a single element any stride counts as contiguous, but not for a view as bytes.
    return dense.as_strided((dense.numel(),), (1,)).view(torch.uint8).numpy().data


def _bytes_of(data: Buffer) -> memoryview:
    view = memoryview(data)
    if not view.c_contiguous:
        raise WireError("the buffer is not contiguous: pass a slice without steps")
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _address(data: memoryview | np.ndarray[Any, Any]) -> int:
    return int(np.frombuffer(data, np.uint8).__array_interface__["data"][0])


def _parsed(text: str | memoryview, name: str) -> object:
    try:
        return json.loads(
            text if isinstance(text, str) else str(text, "utf-8"),
            object_pairs_hook=_unique,
            parse_float=_no_float,
            parse_constant=_no_float,
        )
    except WireError:
        raise
    # ValueError: no UTF-8, no JSON, or a number with thousands of digits.
    except (ValueError, RecursionError) as error:
        raise WireError(f"{name} is no JSON of ours ({error}): this is no message of ours, or {_AGAIN}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise WireError(f"a header has a name twice, among {sorted(fields)[:5]}: {_AGAIN}")
    return fields


def _no_float(text: str) -> NoReturn:
    raise WireError(f"a header holds the number {text}, and all are integers there: {_AGAIN}")


def _object(value: object, name: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise WireError(f"{name} is no JSON object: this is no message of ours, or {_AGAIN}")
    return value


def _places(entries: Mapping[str, object], begin: int, size: int) -> dict[str, _Place]:
    """Check where tensors lie: one behind the other, each as long as its shape, up to the last byte."""
    places: dict[str, _Place] = {}
    for name, entry in entries.items():
        fields = _object(entry, f"the container's entry {name!r}")
        code, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
        dtype = _DTYPES.get(code) if isinstance(code, str) else None
        if dtype is None:
            raise WireError(f"the tensor {name!r} has the unknown dtype {str(code)[:20]!r}: {_AGAIN}")
        if len(fields) != 3 or shape is None or offsets is None or len(offsets) != 2 or len(shape) > _MAX_DIMS:
            raise WireError(f"the container's entry of the tensor {name!r} is not one of safetensors: {_AGAIN}")
        places[name] = _Place(dtype, shape, begin + offsets[0], begin + offsets[1])
    end = begin
    for name, place in sorted(places.items(), key=lambda item: item[1][2:]):
        # Also without the empty dimensions: torch multiplies the others to strides.
        items = math.prod(place.shape)
        strides = math.prod(max(length, 1) for length in place.shape)
        if place.start != end or place.end - place.start != items * place.dtype.itemsize or strides >= 2**60:
            raise WireError(f"the tensor {name!r} does not fill its place: {_AGAIN}")
        end = place.end
    if end != size:
        raise WireError(f"the tensors end at byte {end} of {size}: {_AGAIN}")
    return places


def _sizes(value: object) -> tuple[int, ...] | None:
    """A list of sizes, or None if it is none."""
    if isinstance(value, list) and all(type(size) is int and 0 <= size < 2**60 for size in value):
        return tuple(value)
    return None
