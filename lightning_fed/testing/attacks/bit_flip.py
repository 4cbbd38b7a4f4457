"""Flipped bits of floats: Xie, Koyejo, Gupta, *Generalized Byzantine-tolerant SGD*, 2018."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import listed, settle, whole
from lightning_fed.testing.attacks.base import Attack, Seen


@final
@dataclass(frozen=True)
class BitFlip(Attack):
    """Flips bits of the numbers in each attacker's update, like broken hardware (the paper's bit-flip attack).

    The bits are those of a single-precision float, for any dtype of the model: 1 to 23 are the fraction, 24 to 31 the
    exponent, 32 is the sign. Of the paper's four, 30 and 31 make small numbers huge. A number that would become
    infinite or NaN stays, since a server drops an update that is not finite.

    Two other attacks have the same name. The code of Karimireddy et al. 2022 reverses the sign of the whole update:
    :class:`~lightning_fed.testing.attacks.SignFlip`, or ``bits=[32]``. In the paper each of the first 1,000 coordinates
    is attacked at another of 20 workers; here all are attacked at the attackers.

    Args:
        bits: The bits, from 1, the least significant, to 32.
        coordinates: The number of attacked numbers, from the first one on; None: all.

    Raises:
        TypeError: If ``bits`` is not a list, or something is not a number.
        ValueError: If there is no bit, or a number is not whole or out of range.
    """

    bits: Sequence[int] = (22, 30, 31, 32)
    coordinates: int | None = None

    def __post_init__(self) -> None:
        given = listed("bits", self.bits, what="numbers of bits, such as [32]")
        if not given:
            raise ValueError("bits is empty: name a bit, such as [32], which is the sign")
        bits = tuple(whole("bits", bit, least=1, most=32) for bit in given)
        if len(set(bits)) < len(bits):
            raise ValueError(f"bits={bits} names a bit twice, which flips it back: name each once")
        of = self.coordinates
        settle(self, bits=bits, coordinates=of if of is None else whole("coordinates", of, least=1, owner=self))

    def lies(self, seen: Seen) -> Tensor:
        lies = seen.own.clone()
        hit = lies[:, : self.coordinates].to(torch.float32, copy=True)
        mask = sum(1 << (bit - 1) for bit in self.bits)
        words = hit.view(torch.int32) ^ (mask - (1 << 32) if mask >= 1 << 31 else mask)
        flipped = words.view(torch.float32).to(lies.dtype)
        lies[:, : self.coordinates] = torch.where(flipped.isfinite(), flipped, lies[:, : self.coordinates])
        return lies
