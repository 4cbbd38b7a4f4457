"""Words of fewer than 32 bits, one after another in bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BITS = range(8, 33, 4)
"""The supported numbers of bits of a word: two words fill whole bytes."""


def packed_length(size: int, bits: int) -> int:
    """Return the number of bytes of packed words.

    >>> packed_length(3, 12), packed_length(3, 32)
    (5, 12)
    """
    return -(-size * bits // 8)


def pack(words: npt.NDArray[np.uint32], bits: int) -> bytes:
    """Return the low bits of words, one after another, little endian.

    Args:
        words: uint32 ``[d]``.
        bits: The bits of each, a multiple of 4 from 8 to 32.

    >>> pack(np.array([0x12345678, 0x9ABCDEF0], np.uint32), 12).hex()
    '7806ef'
    """
    words = np.ascontiguousarray(words, "<u4")
    if bits == 32:
        return words.tobytes()
    if bits % 8 == 0:
        return words.view(np.uint8).reshape(-1, 4)[:, : bits // 8].tobytes()
    low = np.zeros(-(-len(words) // 2) * 2, "<u8")
    low[: len(words)] = words & np.uint32(2**bits - 1)
    pairs = low[::2] | low[1::2] << np.uint64(bits)
    packed: bytes = pairs.view(np.uint8).reshape(-1, 8)[:, : bits // 4].tobytes()
    return packed[: packed_length(len(words), bits)]


def unpack(packed: bytes | memoryview, size: int, bits: int) -> npt.NDArray[np.uint32]:
    """Return the words that :func:`pack` made.

    Args:
        packed: Of the length ``packed_length(size, bits)``.
        size: The number of words.
        bits: The bits of each.

    Returns:
        uint32 ``[d]``, read only.

    >>> unpack(pack(np.arange(5, dtype=np.uint32), 20), 5, 20).tolist()
    [0, 1, 2, 3, 4]
    """
    raw = np.frombuffer(packed, np.uint8)
    if bits == 32:
        return raw.view("<u4")
    if bits % 8 == 0:
        wide = np.zeros((size, 4), np.uint8)
        wide[:, : bits // 8] = raw.reshape(size, bits // 8)
        return wide.view("<u4").reshape(size)
    count = -(-size // 2)
    padded = np.zeros(count * (bits // 4), np.uint8)
    padded[: len(raw)] = raw
    wide = np.zeros((count, 8), np.uint8)
    wide[:, : bits // 4] = padded.reshape(count, bits // 4)
    pairs = wide.view("<u8").reshape(count)
    words = np.empty(2 * count, "<u4")
    words[::2] = pairs & np.uint64(2**bits - 1)
    words[1::2] = pairs >> np.uint64(bits)
    return words[:size]
