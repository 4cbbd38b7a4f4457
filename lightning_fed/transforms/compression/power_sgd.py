"""Low-rank compression: matrices as products of two thin factors.

Vogels, Karimireddy and Jaggi, *PowerSGD: Practical Low-Rank Gradient Compression for Distributed Optimization* (2019),
algorithm 1. The paper's iteration starts from the last step's result, which a worker of a sampled cohort does not have.
Here it starts from random numbers and takes more steps, which cost little beside local training. So there is no state,
and each worker sends its own two factors, not the factors of the sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.arguments import settle, whole
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.transforms.compression.packing import as_bytes, from_bytes
from lightning_fed.transforms.compression.randomness import normals


@final
@dataclass(frozen=True)
class PowerSGD(Compressor):
    """``x̂ = P(MᵀP)ᵀ``, with P an approximate orthonormal basis of the leading singular vectors of the matrix M.

    A tensor of more dimensions becomes a matrix of its first dimension by all others. A vector, and a matrix that two
    factors would not shorten, is sent as it is. It is biased; the error is slightly above that of the best
    approximation of this rank, ``Σ_{i>r} σᵢ²``.

    Args:
        rank: The number r of columns of the factors.
        iterations: The steps of the power iteration.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If one is not a whole number of at least 1.

    >>> PowerSGD(rank=4).num_bytes(Form((512, 512)))
    16384
    """

    rank: int = 4
    iterations: int = 3

    unbiased = False
    contracts = True

    def __post_init__(self) -> None:
        rank = whole("rank", self.rank, least=1, owner=self)
        settle(self, rank=rank, iterations=whole("iterations", self.iterations, least=1, owner=self))

    def num_bytes(self, form: Form) -> int:
        height, width = _sides(form)
        return self._rank(form) * (height + width) * form.dtype.itemsize

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        form = Form(tuple(rows.shape[1:]), rows.dtype)
        height, width = _sides(form)
        rank, codes = self._rank(form), []
        for row, seed in zip(rows, seeds, strict=True):  # the last bit of a batched product may depend on the batch
            matrix = row.reshape(height, width)
            largest = matrix.abs().max()
            unit = matrix / torch.where(largest > 0, largest, 1.0)
            right = normals(seed, width * rank, rows.device).to(rows.dtype).view(width, rank)
            for _ in range(self.iterations):
                left = torch.linalg.qr(unit @ right).Q
                right = unit.T @ left
            codes.append(as_bytes(torch.cat([left, right * largest]).reshape(1, -1)))
        return torch.cat(codes)

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        height, width = _sides(form)
        factors = from_bytes(codes, form.dtype).view(len(codes), height + width, self._rank(form))
        matrices = [factor[:height] @ factor[height:].T for factor in factors]
        return torch.stack(matrices).view(len(codes), *form.shape)

    def _rank(self, form: Form) -> int:
        return min(self.rank, *_sides(form))


def _sides(form: Form) -> tuple[int, int]:
    height = form.shape[0] if len(form.shape) > 1 else 1
    return height, form.size // height
