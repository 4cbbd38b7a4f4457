"""EDEN: codes of a rotated tensor, so that no distribution of its numbers is worse than another.

Vargaftik et al., *EDEN: Communication-Efficient and Robust Distributed Mean Estimation for Federated Learning* (2022),
algorithm 1; with one bit it is DRIVE (Vargaftik et al. 2021). Their rotation is one randomized Hadamard transform, by
which sparse vectors, as updates of embeddings are, come out biased; here it is two. And tensors are rotated in blocks,
each with a scale of its own, so that no tensor is padded to a power of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.transforms.compression.arithmetic import hadamard, row_sums
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.transforms.compression.packing import as_bytes, expand, from_bytes, pack, packed_bytes, unpack
from lightning_fed.transforms.compression.randomness import signs

_BLOCK, _SHORTEST = 4096, 256

CENTROIDS = {
    1: (0.7978845608028654,),
    2: (0.4527800398860679, 1.5104176087114887),
    3: (0.24509416307340598, 0.7560052489539643, 1.3439092613750225, 2.151945669890335),
    4: (
        *(0.12839501671105813, 0.38804823445328507, 0.6567589957631145, 0.9423402689122875),
        *(1.2562309480263467, 1.6180460517130526, 2.069016730231837, 2.732588804065177),
    ),
}
"""The positive half of the Lloyd–Max centroids of a standard normal variable, by bits."""


@final
@dataclass(frozen=True)
class EDEN(Compressor):
    """Codes of 1 to 4 bits for the numbers of a rotated tensor, and a scale for each block of 4096.

    ``x̂ = Rᵀq ‖y‖² / ⟨q, y⟩`` with ``y = Rx``, and q the centroids nearest to y. Unbiased; for any tensor the error is
    ``E‖x̂ − x‖² = M / (1 − M) ‖x‖²``, where M is the Lloyd–Max error of a normal variable: 0.571, 0.133, 0.0358, 0.00959
    of ``‖x‖²`` for 1 to 4 bits.

    Args:
        bits: The bits of each number, 1 to 4; for more take ``KBit(8)``.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not 1, 2, 3 or 4.

    >>> EDEN(bits=1).num_bytes(Form((1000, 1000)))
    126036
    """

    bits: int = 2

    unbiased = True
    contracts = True

    def __post_init__(self) -> None:
        says = " must be 1, 2, 3 or 4; for 8 bits take KBit(8)"
        settle(self, bits=whole("bits", self.bits, least=1, most=4, owner=self, says=says))

    def num_bytes(self, form: Form) -> int:
        blocks, last = _blocks(form.size)
        rows = blocks + bool(last)
        return rows * form.dtype.itemsize + packed_bytes(blocks * _BLOCK + last, self.bits)

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        n, flat = len(rows), rows.flatten(1)
        size = flat.shape[1]
        scales, codes = [], []
        for at, blocks, length in _parts(size):
            part = flat[:, at : at + blocks * length]
            padded = torch.nn.functional.pad(part, (0, blocks * length - part.shape[1])).view(n, blocks, length)
            scale, code = self._encoded(padded, _rotations(seeds, length, padded))
            scales.append(scale)
            codes.append(code.flatten(1))
        return torch.cat([as_bytes(torch.cat(scales, dim=1)), *(pack(code, self.bits) for code in codes)], dim=1)

    def _encoded(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales and the codes of blocks.

        Args:
            x: ``[n, blocks, p]``.
            rotations: ``[n, 2, 1, p]``.
        """
        n, blocks, p = x.shape
        largest = x.abs().amax(dim=2, keepdim=True)
        y = x / torch.where(largest > 0, largest, 1.0)  # so that squares are within the range of floats
        for signs_ in rotations.unbind(1):
            y = hadamard((y * signs_).view(-1, p)).view(n, blocks, p)
        squares = row_sums(y * y)
        table = _table(self.bits, y.dtype).to(y.device)
        if self.bits == 1:
            codes = (y >= 0).to(torch.uint8)
            products = row_sums(y.abs())
        else:
            unit = (squares / p).sqrt().unsqueeze(2)
            codes = torch.zeros(y.shape, dtype=torch.uint8, device=y.device)
            for boundary in ((table[1:] + table[:-1]) / 2).tolist():
                codes += y >= boundary * unit
            products = row_sums(table[codes.int()] * y)
        scales = torch.where(products > 0, squares / products, 0.0) * (largest.squeeze(2) / p**2)
        return scales, codes

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        n, parts = len(codes), list(_parts(form.size))
        numbers = sum(blocks for _, blocks, _ in parts)
        scales = from_bytes(codes[:, : numbers * form.dtype.itemsize], form.dtype)
        begin, first, decoded = numbers * form.dtype.itemsize, 0, []
        table = _table(self.bits, form.dtype)
        for _, blocks, length in parts:
            end = begin + packed_bytes(blocks * length, self.bits)
            y = self._looked_up(codes[:, begin:end], table, blocks * length).view(n, blocks, length)
            for signs_ in reversed(_rotations(seeds, length, y).unbind(1)):
                y = hadamard(y.view(-1, length)).view(n, blocks, length).mul_(signs_)
            decoded.append(y.mul_(scales[:, first : first + blocks].unsqueeze(2)).flatten(1))
            begin, first = end, first + blocks
        return torch.cat(decoded, dim=1)[:, : form.size].reshape(n, *form.shape)

    def _looked_up(self, codes: Tensor, table: Tensor, count: int) -> Tensor:
        if 8 % self.bits == 0:
            return expand(codes, table, self.bits)
        return table.to(codes.device)[unpack(codes, count, self.bits)]


def _table(bits: int, dtype: torch.dtype) -> Tensor:
    """All centroids in ascending order; of one bit -1 and 1, since their size is the scale's."""
    half = (1.0,) if bits == 1 else CENTROIDS[bits]
    return torch.tensor([*(-c for c in reversed(half)), *half], dtype=dtype)


def _blocks(size: int) -> tuple[int, int]:
    """The number of whole blocks, and the length of a last, shorter one; 0: there is none."""
    blocks, rest = divmod(size, _BLOCK)
    last = max(1 << (rest - 1).bit_length(), _SHORTEST) if rest else 0
    return (blocks + 1, 0) if last == _BLOCK else (blocks, last)


def _parts(size: int) -> list[tuple[int, int, int]]:
    """Where blocks of one length begin, how many they are, and that length."""
    blocks, last = _blocks(size)
    parts = [(0, blocks, _BLOCK), (blocks * _BLOCK, 1 if last else 0, last)]
    return [part for part in parts if part[1]]


def _rotations(seeds: Sequence[int], length: int, like: Tensor) -> Tensor:
    """The signs of the two rotations, ``[n, 2, 1, length]``: each worker's own, the same for all its blocks."""
    drawn = torch.stack([signs(seed, 2 * length, like.device) for seed in seeds])
    return drawn.to(like.dtype).view(len(seeds), 2, 1, length)
