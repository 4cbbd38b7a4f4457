"""Sparse compression: the largest elements of a tensor, or random ones.

Source of both: Stich et al., *Sparsified SGD with Memory* (2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_fed.core.arguments import flag, number, settle
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.transforms.compression.packing import as_bytes, from_bytes, pack, packed_bytes, unpack
from lightning_fed.transforms.compression.randomness import choice
from lightning_fed.wire import WireError


@final
@dataclass(frozen=True)
class TopK(Compressor):
    """Keeps the elements of the largest absolute value, each with its position; the others become 0.

    It is biased, and meant for error feedback, which sends the dropped elements later. The error is at most
    ``1 − fraction`` of ``‖x‖²``; for normal numbers and 1 % it is 0.9155, and smaller for heavier tails.

    Args:
        fraction: The part of a tensor's elements that is kept, above 0 and below 1; the number is rounded up.

    Raises:
        TypeError: If ``fraction`` is not a number.
        ValueError: If ``fraction`` is out of range.

    >>> TopK(0.01).num_bytes(Form((1000, 1000)))
    65000
    """

    fraction: float

    unbiased = False
    contracts = True

    def __post_init__(self) -> None:
        settle(self, fraction=number("fraction", self.fraction, above=0, below=1, owner=self))

    def num_bytes(self, form: Form) -> int:
        kept = _kept(self.fraction, form.size)
        return kept * form.dtype.itemsize + packed_bytes(kept, _width(form.size))

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        flat = rows.flatten(1)
        kept, width = _kept(self.fraction, flat.shape[1]), _width(flat.shape[1])
        places = flat.abs().topk(kept, dim=1, sorted=False).indices.sort(dim=1).values
        return torch.cat([as_bytes(flat.gather(1, places)), pack(places, width)], dim=1)

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        n, kept = len(codes), _kept(self.fraction, form.size)
        begin = kept * form.dtype.itemsize
        places = unpack(codes[:, begin:], kept, _width(form.size))
        if bool((places >= form.size).any()) or bool((places[:, 1:] <= places[:, :-1]).any()):
            raise WireError(
                f"the places of the {kept} numbers that were kept do not ascend below {form.size}: these are no codes "
                f"of {self}"
            )
        rows = torch.zeros(n, form.size, dtype=form.dtype, device=codes.device)
        return rows.scatter_(1, places, from_bytes(codes[:, :begin], form.dtype)).view(n, *form.shape)


@final
@dataclass(frozen=True)
class RandomK(Compressor):
    """Keeps random elements, whose positions are derived from the seed and take no bytes.

    Scaled by ``1/fraction`` it is unbiased, and its error is ``1/fraction − 1`` of ``‖x‖²``, which averages out over
    large cohorts only. Without scaling it is a contraction, for error feedback.

    Args:
        fraction: The part of a tensor's elements that is kept, above 0 and below 1; the number is rounded up.
        scaled: Whether the kept elements are multiplied by ``1/fraction``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the fraction is out of range.

    >>> RandomK(0.1).num_bytes(Form((1000, 1000)))
    400000
    """

    fraction: float
    scaled: bool = True

    linear: ClassVar[bool] = True

    def __post_init__(self) -> None:
        fraction = number("fraction", self.fraction, above=0, below=1, owner=self)
        settle(self, fraction=fraction, scaled=flag("scaled", self.scaled, owner=self))

    @property
    def unbiased(self) -> bool:
        return self.scaled

    @property
    def contracts(self) -> bool:
        return not self.scaled

    @property
    def stretches(self) -> bool:
        return self.scaled

    def num_bytes(self, form: Form) -> int:
        return _kept(self.fraction, form.size) * form.dtype.itemsize

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        flat = rows.flatten(1)
        return as_bytes(flat.gather(1, self._places(flat.shape[1], seeds, flat.device)))

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        n, values = len(codes), from_bytes(codes, form.dtype)
        if self.scaled:
            values = values * (form.size / _kept(self.fraction, form.size))
        rows = torch.zeros(n, form.size, dtype=form.dtype, device=codes.device)
        return rows.scatter_(1, self._places(form.size, seeds, codes.device), values).view(n, *form.shape)

    def _places(self, size: int, seeds: Sequence[int], device: torch.device) -> Tensor:
        kept = _kept(self.fraction, size)
        return torch.stack([choice(seed, size, kept, device) for seed in seeds])


def _kept(fraction: float, size: int) -> int:
    return min(math.ceil(fraction * size), size)


def _width(size: int) -> int:
    """Return the number of bits of a position."""
    return max((size - 1).bit_length(), 1)
