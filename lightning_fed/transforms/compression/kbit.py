"""Stochastic rounding to levels between the smallest and the largest element of a tensor.

Suresh et al., *Distributed Mean Estimation with Limited Communication* (2017), section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.transforms.compression.packing import as_bytes, from_bytes, pack, packed_bytes, unpack
from lightning_fed.transforms.compression.randomness import uniforms


@final
@dataclass(frozen=True)
class KBit(Compressor):
    """Rounds each element up or down at random to one of ``2^bits`` equidistant levels, without bias.

    ``x̂ = lo + Δ ⌊(x − lo)/Δ + u⌋`` with ``Δ = (hi − lo)/(2^bits − 1)`` and u uniform in [0, 1). With f the fractional
    part of ``(x − lo)/Δ`` the error is ``Σ f(1 − f) Δ²``. With few bits it exceeds the tensor's norm, since one large
    element determines Δ. Eight bits are fast and accurate enough for training; for fewer bits use
    :class:`~lightning_fed.transforms.EDEN`. FedPAQ (Reisizadeh et al. 2020) is FedAvg with this compressor.

    Args:
        bits: The bits of each element, 1 to 8.

    Raises:
        TypeError: If ``bits`` is not a number.
        ValueError: If ``bits`` is not an integer from 1 to 8.

    >>> KBit(bits=8).num_bytes(Form((1000, 1000)))
    1000008
    """

    bits: int = 8

    unbiased = True
    contracts = False

    def __post_init__(self) -> None:
        settle(self, bits=whole("bits", self.bits, least=1, most=8, owner=self))

    def num_bytes(self, form: Form) -> int:
        return 2 * form.dtype.itemsize + packed_bytes(form.size, self.bits)

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        flat, levels = rows.flatten(1), 2**self.bits - 1
        low, high = flat.amin(dim=1, keepdim=True), flat.amax(dim=1, keepdim=True)
        step = high / levels - low / levels
        drawn = torch.stack([uniforms(seed, flat.shape[1], flat.device) for seed in seeds])
        above = (flat - low).div_(torch.where(step > 0, step, 1.0))
        codes = above.add_(drawn).clamp_(0, levels).to(torch.uint8)  # the conversion rounds down
        return torch.cat([as_bytes(torch.cat([low, step], dim=1)), pack(codes, self.bits)], dim=1)

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        begin = 2 * form.dtype.itemsize
        low, step = torch.split(from_bytes(codes[:, :begin], form.dtype), 1, dim=1)
        levels = unpack(codes[:, begin:], form.size, self.bits, form.dtype)
        return levels.mul_(step).add_(low).view(len(codes), *form.shape)
