"""EDEN: codes of a rotated tensor, whose error does not depend on the distribution of the tensor's elements.

Vargaftik et al., *EDEN: Communication-Efficient and Robust Distributed Mean Estimation for Federated Learning* (2022),
algorithm 1; with one bit it is DRIVE (Vargaftik et al. 2021). The paper rotates by one randomized Hadamard transform,
which is biased for sparse vectors, such as updates of embeddings; here the rotation is two transforms. Tensors are
rotated in blocks, each with its own scale, so no tensor is padded to a power of two.
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
_TOGETHER = 2**18
"""The number of elements that are rotated at a time; a few times as many fit a processor's cache."""

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
    """Encodes the elements of a rotated tensor in 1 to 4 bits each, with a scale for each block of 4096.

    ``x̂ = Rᵀq ‖y‖² / ⟨q, y⟩`` with ``y = Rx``, and q the centroids nearest to y. Unbiased; for any tensor the error is
    ``E‖x̂ − x‖² = M / (1 − M) ‖x‖²``, where M is the Lloyd–Max error of a normal variable: 0.571, 0.133, 0.0358, 0.00959
    of ``‖x‖²`` for 1 to 4 bits.

    Args:
        bits: The bits of each element, 1 to 4; for more use ``KBit(8)``.

    Raises:
        TypeError: If ``bits`` is not a number.
        ValueError: If ``bits`` is not 1, 2, 3 or 4.

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
        rotations = _Rotations(seeds, flat)
        scales, codes = [], []
        for at, blocks, length in _parts(flat.shape[1], n):
            part = flat[:, at : at + blocks * length]
            padded = torch.nn.functional.pad(part, (0, blocks * length - part.shape[1])).view(n, blocks, length)
            scale, code = self._encoded(padded, rotations.of(length))
            scales.append(scale)
            codes.append(pack(code.flatten(1), self.bits))
        return torch.cat([as_bytes(torch.cat(scales, dim=1)), *codes], dim=1)

    def _encoded(self, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scales and the codes of blocks.

        Args:
            x: ``[n, blocks, p]``.
            rotations: ``[n, 2, 1, p]``.
        """
        n, blocks, p = x.shape
        largest = x.abs().amax(dim=2, keepdim=True)
        y = x / torch.where(largest > 0, largest, 1.0)  # squares then stay within the range of floats
        for signs_ in rotations.unbind(1):
            y = hadamard((y * signs_).view(-1, p)).view(n, blocks, p)
        squares, sizes = row_sums(y * y), y.abs()
        half = _table(self.bits, y.dtype).to(y.device)[2 ** (self.bits - 1) :]
        cells = torch.zeros(y.shape, dtype=torch.uint8, device=y.device)  # counted from 0 outwards, on both sides
        unit = (squares / p).sqrt().unsqueeze(2)
        for boundary in ((half[1:] + half[:-1]) / 2).tolist():
            cells += sizes >= boundary * unit
        nearest = half.index_select(0, cells.view(-1).int()).view(y.shape)
        products = row_sums(nearest.mul_(sizes))
        mirrored = (y < 0).to(torch.uint8).mul_(2 * len(half) - 1)  # a cell's mirror image has all bits inverted
        codes = cells.add_(len(half)).bitwise_xor_(mirrored)
        scales = torch.where(products > 0, squares / products, 0.0) * (largest.squeeze(2) / p**2)
        return scales, codes

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        n, parts = len(codes), _parts(form.size, len(codes))
        begin, first = sum(blocks for _, blocks, _ in parts) * form.dtype.itemsize, 0
        scales = from_bytes(codes[:, :begin], form.dtype)
        rotations, table = _Rotations(seeds, scales), _table(self.bits, form.dtype)
        decoded = torch.empty(n, form.size, dtype=form.dtype, device=codes.device)
        for at, blocks, length in parts:
            end = begin + packed_bytes(blocks * length, self.bits)
            y = self._looked_up(codes[:, begin:end], table, blocks * length).view(n, blocks, length)
            for signs_ in reversed(rotations.of(length).unbind(1)):
                y = hadamard(y.view(-1, length)).view(n, blocks, length).mul_(signs_)
            part = y.mul_(scales[:, first : first + blocks].unsqueeze(2)).flatten(1)
            decoded[:, at : at + blocks * length] = part[:, : form.size - at]
            begin, first = end, first + blocks
        return decoded.view(n, *form.shape)

    def _looked_up(self, codes: Tensor, table: Tensor, count: int) -> Tensor:
        if 8 % self.bits == 0:
            return expand(codes, table, self.bits)
        return table.to(codes.device)[unpack(codes, count, self.bits)]


def _table(bits: int, dtype: torch.dtype) -> Tensor:
    """Return all centroids in ascending order; for one bit -1 and 1, since the scale holds the magnitude."""
    half = (1.0,) if bits == 1 else CENTROIDS[bits]
    return torch.tensor([*(-c for c in reversed(half)), *half], dtype=dtype)


def _blocks(size: int) -> tuple[int, int]:
    """Return the number of whole blocks, and the length of a shorter last block; 0 for none."""
    blocks, rest = divmod(size, _BLOCK)
    last = max(1 << (rest - 1).bit_length(), _SHORTEST) if rest else 0
    return (blocks + 1, 0) if last == _BLOCK else (blocks, last)


def _parts(size: int, n: int) -> list[tuple[int, int, int]]:
    """Return the start, the number and the length of blocks of one length, as many of n rows as fit a cache."""
    blocks, last = _blocks(size)
    together = max(_TOGETHER // (n * _BLOCK), 1)
    parts = [(at * _BLOCK, min(together, blocks - at), _BLOCK) for at in range(0, blocks, together)]
    return [*parts, (blocks * _BLOCK, 1, last)] if last else parts


class _Rotations:
    """The signs of the two rotations: independent for each worker, and the same for its blocks of one length.

    Args:
        seeds: One seed for each worker.
        like: A tensor with the dtype and the device of the signs.
    """

    def __init__(self, seeds: Sequence[int], like: Tensor) -> None:
        self._seeds, self._like = seeds, like
        self._drawn: dict[int, Tensor] = {}

    def of(self, length: int) -> Tensor:
        """Return the signs for blocks of a length, ``[n, 2, 1, length]``."""
        if length not in self._drawn:
            drawn = torch.stack([signs(seed, 2 * length, self._like.device) for seed in self._seeds])
            self._drawn[length] = drawn.to(self._like.dtype).view(len(self._seeds), 2, 1, length)
        return self._drawn[length]
