"""Small whole numbers as bytes without gaps, and the numbers that stand before them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def packed_bytes(count: int, width: int) -> int:
    """Return the number of bytes in which numbers of some bits each lie.

    Args:
        count: How many.
        width: The bits of each.

    >>> packed_bytes(3, 3)
    2
    """
    return -(-count * width // 8)


def pack(numbers: Tensor, width: int) -> Tensor:
    """Pack whole numbers.

    Args:
        numbers: ``[n, count]``, each at least 0 and below ``2**width``.
        width: The bits of each, up to 32.

    Returns:
        uint8 ``[n, packed_bytes(count, width)]``.

    >>> pack(torch.tensor([[1, 0, 3, 2, 1]]), 2)
    tensor([[78, 64]], dtype=torch.uint8)
    """
    n, count = numbers.shape
    each = 8 // width
    if 8 % width == 0:
        whole = numbers.to(torch.uint8)
        if count % each:
            whole = torch.nn.functional.pad(whole, (0, each - count % each))
        groups = whole.view(n, -1, each)
        out = groups[:, :, 0].contiguous()
        for place in range(1, each):
            out = out.bitwise_left_shift_(width).bitwise_or_(groups[:, :, place])
        return out
    words = numbers.cpu().numpy().astype(">u1" if width < 8 else ">u4")
    bits = np.unpackbits(words.view(np.uint8).reshape(n, count, -1), axis=2)[:, :, -width:]
    return torch.from_numpy(np.packbits(bits.reshape(n, -1), axis=1)).to(numbers.device)


def unpack(packed: Tensor, count: int, width: int, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return the numbers that were packed, ``[n, count]`` of a dtype; the bits behind them are not looked at.

    >>> unpack(torch.tensor([[78, 64]], dtype=torch.uint8), 5, 2)
    tensor([[1, 0, 3, 2, 1]])
    """
    n = len(packed)
    if width == 8:
        return packed.to(dtype)
    if 8 % width == 0:
        return expand(packed, torch.arange(2**width, dtype=dtype), width)[:, :count]
    bits = np.unpackbits(packed.cpu().numpy(), axis=1, count=count * width).reshape(n, count, width)
    wide = 8 if width < 8 else 32
    words = np.packbits(np.pad(bits, ((0, 0), (0, 0), (wide - width, 0))), axis=2).view(f">u{wide // 8}")
    return torch.from_numpy(words.reshape(n, count).astype(np.int64)).to(packed.device, dtype)


def expand(packed: Tensor, values: Tensor, width: int) -> Tensor:
    """Return what packed numbers stand for: entries of a table, looked up a byte at a time.

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
    """Return what :func:`as_bytes` was given, wherever the bytes lie."""
    return raw.clone(memory_format=torch.contiguous_format).view(dtype)
