"""The signs of a tensor's elements, with one magnitude for all of them.

Seide et al., *1-Bit Stochastic Gradient Descent* (2014); with error feedback: Karimireddy et al., *Error Feedback Fixes
SignSGD and other Gradient Compression Schemes* (2019), algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.transforms.compression.arithmetic import row_sums
from lightning_fed.transforms.compression.compressor import Compressor, Form
from lightning_fed.transforms.compression.packing import as_bytes, expand, from_bytes, pack, packed_bytes


@final
@dataclass(frozen=True)
class Sign(Compressor):
    """``x̂ = sign(x) ‖x‖₁ / d``, one bit for each of d elements; the sign of 0 is +1.

    It is biased: the error is ``1 − ‖x‖₁² / (d ‖x‖²)`` of ``‖x‖²``, 0.363 for normal numbers. Without error feedback
    it does not converge where workers' data differ. With the aggregator ``MajorityVote`` only the signs count.

    >>> Sign().num_bytes(Form((1000, 1000)))
    125004
    """

    unbiased = False
    contracts = True

    def num_bytes(self, form: Form) -> int:
        return form.dtype.itemsize + packed_bytes(form.size, 1)

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        flat = rows.flatten(1)
        means = row_sums(flat.abs() / flat.shape[1]).unsqueeze(1)
        return torch.cat([as_bytes(means), pack(flat >= 0, 1)], dim=1)

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        begin = form.dtype.itemsize
        signs = expand(codes[:, begin:], torch.tensor([-1.0, 1.0], dtype=form.dtype), 1)[:, : form.size]
        return (signs * from_bytes(codes[:, :begin], form.dtype)).view(len(codes), *form.shape)
