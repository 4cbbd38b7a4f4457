"""Files in the IDX format, in which MNIST and its relatives are distributed."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> NDArray[np.generic]:
    """Read an array from an IDX file, plain or compressed by gzip.

    Args:
        path: The file. Compression is detected from the first bytes, not from the name.

    Returns:
        The array, in the machine's byte order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no IDX file, or cut short, or has more bytes than its header says.

    References:
        LeCun, Cortes and Burges, "The MNIST database of handwritten digits", the section on the file format.
    """
    path = Path(path)
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    try:
        with cast("BinaryIO", gzip.open(path)) if compressed else path.open("rb") as file:
            return _array(file, path)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): download it again") from error


def _array(file: BinaryIO, path: Path) -> NDArray[np.generic]:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _DTYPES:
        raise ValueError(f"{path} is no IDX file: it begins with the bytes {magic.hex(' ')}")
    header = file.read(4 * magic[3])
    shape = tuple(int(size) for size in np.frombuffer(header[: len(header) // 4 * 4], dtype=">u4"))
    dtype = np.dtype(_DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    data = file.read()  # not the number in the header, which may exceed the memory
    if len(shape) < magic[3] or len(data) != expected:
        more = "more than" if len(data) > expected and len(shape) == magic[3] else "fewer bytes than"
        raise ValueError(f"{path} has {more} its header says, {expected} for shape {shape}: download it again")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))
