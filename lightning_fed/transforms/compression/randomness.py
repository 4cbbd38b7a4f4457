"""Randomness of compressors: the same on every device, and with every version of NumPy and torch.

NumPy guarantees the raw words of a Philox generator for all versions, but not the outputs of its ``Generator``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def signs(seed: int, length: int, device: torch.device) -> Tensor:
    """Return random signs, -1 and 1 in float32 ``[length]``.

    >>> signs(0, 64, torch.device("cpu")).abs().sum()
    tensor(64.)
    """
    bits = np.unpackbits(_words(seed, -(-length // 64)).view(np.uint8), count=length)
    return torch.from_numpy(bits).to(device, torch.float32).mul_(2).sub_(1)


def uniforms(seed: int, length: int, device: torch.device) -> Tensor:
    """Return numbers in [0, 1) with 24 bits each, float32 ``[length]``."""
    halves = _words(seed, -(-length // 2)).view(np.uint32)[:length]
    halves >>= 8
    signed = halves.view(np.int32)  # all are below 2²⁴, and signed integers are converted faster
    return torch.from_numpy(signed.astype(np.float32)).mul_(2.0**-24).to(device)


def random_bytes(seed: int, length: int, device: torch.device) -> Tensor:
    """Return integers below 256, uint8 ``[length]``; faster than :func:`uniforms`."""
    return torch.from_numpy(_words(seed, -(-length // 8)).view(np.uint8)[:length]).to(device)


def choice(seed: int, length: int, count: int, device: torch.device) -> Tensor:
    """Return ``count`` different positions below ``length``, in ascending order; int64 ``[count]``."""
    if count == length:
        return torch.arange(length, device=device)
    drawn = np.argpartition(_words(seed, length), count)[:count]
    return torch.from_numpy(np.sort(drawn)).to(device)


def normals(seed: int, length: int, device: torch.device) -> Tensor:
    """Return approximately normal numbers, each a sum of twelve uniforms; float64 ``[length]``."""
    return uniforms(seed, 12 * length, device).view(12, length).double().sum(dim=0).sub_(6)


def _words(seed: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    words: np.ndarray[tuple[int], np.dtype[np.uint64]] = np.random.Philox(key=seed).random_raw(count)
    return words.astype("<u8", copy=False)
