"""Packing of small integers into bytes without gaps, and of the numbers that precede them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def packed_bytes(count: int, width: int) -> int:
    """Return the number of bytes of packed integers.

    Args:
        count: The number of integers.
        width: The bits of each.

    >>> packed_bytes(3, 3)
    2
    """
    return -(-count * width // 8)


def pack(numbers: Tensor, width: int) -> Tensor:
    """Pack integers.

    Args:
        numbers: ``[n, count]``, each at least 0 and below ``2**width``.
        width: The bits of each, up to 32.

    Returns:
        uint8 ``[n, packed_bytes(count, width)]``.

    >>> pack(torch.tensor([[1, 0, 3, 2, 1]]), 2)
    tensor([[78, 64]], dtype=torch.uint8)
    """
    n, count = numbers.shape
    if width > 8:
        bits = np.unpackbits(numbers.cpu().numpy().astype(">u4").view(np.uint8).reshape(n, count, 4), axis=2)
        return torch.from_numpy(np.packbits(bits[:, :, -width:].reshape(n, -1), axis=1)).to(numbers.device)
    each, bytes_ = _group(width)
    numbers = torch.nn.functional.pad(numbers.to(torch.uint8 if bytes_ == 1 else torch.int64), (0, -count % each))
    first, *others = numbers.view(n, -1, each).unbind(2)
    words = first.clone()
    for other in others:
        words = words.bitwise_left_shift_(width).bitwise_or_(other)
    if bytes_ == 1:
        return words
    shifts = torch.arange(8 * (bytes_ - 1), -1, -8, device=words.device)
    packed: Tensor = ((words.unsqueeze(2) >> shifts) & 255).to(torch.uint8).view(n, -1)
    return packed[:, : packed_bytes(count, width)]


def unpack(packed: Tensor, count: int, width: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return the packed integers, ``[n, count]`` of a dtype; trailing bits are ignored.

    >>> unpack(torch.tensor([[78, 64]], dtype=torch.uint8), 5, 2)
    tensor([[1, 0, 3, 2, 1]])
    """
    n = len(packed)
    if width == 8:
        return packed.to(dtype)
    if width > 8:
        bits = np.unpackbits(packed.cpu().numpy(), axis=1, count=count * width).reshape(n, count, width)
        wide = np.packbits(np.pad(bits, ((0, 0), (0, 0), (32 - width, 0))), axis=2).view(">u4")
        return torch.from_numpy(wide.reshape(n, count).astype(np.int64)).to(packed.device, dtype)
    each, bytes_ = _group(width)
    if bytes_ == 1:
        return expand(packed, torch.arange(2**width, dtype=dtype), width)[:, :count]
    packed = torch.nn.functional.pad(packed, (0, -packed.shape[1] % bytes_)).long()
    words, *others = packed.view(n, -1, bytes_).unbind(2)
    for other in others:
        words = words << 8 | other
    shifts = torch.arange(width * (each - 1), -1, -width, device=words.device)
    numbers: Tensor = ((words.unsqueeze(2) >> shifts) & (2**width - 1)).to(dtype).view(n, -1)
    return numbers[:, :count]


def _group(width: int) -> tuple[int, int]:
    """Return the smallest number of integers that fill whole bytes, and the number of these bytes."""
    each = 8 // math.gcd(8, width)
    return each, each * width // 8


def expand(packed: Tensor, values: Tensor, width: int) -> Tensor:
    """Return the entries of a table to which packed integers refer, looked up a byte at a time.

    Args:
        packed: uint8 ``[n, bytes]``.
        values: ``[2**width]``.
        width: The bits of a number: 1, 2 or 4.

    Returns:
        ``[n, bytes * 8 / width]`` of the table's dtype, on the device of the bytes.
    """
    shifts = torch.arange(8 - width, -1, -width)
    of_byte = values.cpu()[(torch.arange(256).unsqueeze(1) >> shifts) & (2**width - 1)].to(packed.device)
    return of_byte.index_select(0, packed.reshape(-1).int()).view(len(packed), -1)


def as_bytes(numbers: Tensor) -> Tensor:
    """Return numbers ``[n, count]`` as bytes, uint8 ``[n, count * itemsize]``."""
    return numbers.contiguous().view(torch.uint8)


def from_bytes(raw: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the numbers that :func:`as_bytes` has converted; the bytes may be unaligned."""
    return raw.clone(memory_format=torch.contiguous_format).view(dtype)
