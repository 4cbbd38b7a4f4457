"""The extension point for compressors: how one tensor of an update becomes bytes, and back."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor

from lightning_fed.core.shown import Shown


@final
class Form(NamedTuple):
    """Form of one worker's tensor.

    Args:
        shape: The tensor's shape; a complex one is of pairs, ``(..., 2)``.
        dtype: That of an update's vector: float32 or float64.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def size(self) -> int:
        """The number of its numbers.

        >>> Form((3, 2)).size
        6
        """
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """The number of its bytes without compression."""
        return self.size * self.dtype.itemsize


class Compressor(Shown, ABC):
    """Rules by which a tensor becomes codes. Settings only, as a frozen dataclass has them.

    Row i of what comes out is a function of row i and of seed i: worker i may be alone in a stack, or be encoded on
    one machine and decoded on another. Randomness that both sides need, such as a rotation, follows from the seed and
    takes no bytes; :mod:`lightning_fed.transforms.compression.randomness` draws it alike for every device.
    """

    linear: ClassVar[bool] = False
    """Whether codes made with one seed for all workers can be added: the codes' numbers are a linear function of the
    tensor's. Only then can a sum of codes be decoded of which nobody has seen the parts."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether the mean of what is decoded, over seeds, is what was encoded."""

    @property
    @abstractmethod
    def contracts(self) -> bool:
        """Whether the error is expected to be smaller than the tensor, whatever it is: ``E‖x̂ − x‖² < ‖x‖²``.

        Else what an error feedback remembers grows without a bound.
        """

    @property
    def stretches(self) -> bool:
        """Whether what is decoded is much longer than what was encoded, so that a bound on its norm cuts it."""
        return False

    @abstractmethod
    def num_bytes(self, form: Form) -> int:
        """Return the length of one worker's codes.

        Args:
            form: Of a tensor with at least one number.
        """

    @abstractmethod
    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """Encode one tensor of n workers.

        Args:
            rows: Finite numbers, float32 or float64 ``[n, *form.shape]``; not to be written to.
            seeds: One for each worker.

        Returns:
            uint8 ``[n, num_bytes(form)]``, on the device of the rows.
        """

    @abstractmethod
    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        """Decode what :meth:`encode` made, or what anyone says that it has made.

        Args:
            codes: uint8 ``[n, num_bytes(form)]``; not to be written to.
            form: That of one worker's tensor.
            seeds: One for each worker.

        Returns:
            ``[n, *form.shape]`` of ``form.dtype``, on the device of the codes. Numbers that come as they are, such as a
            scale, may be NaN, and so is then what is decoded: whoever receives updates looks for that.

        Raises:
            WireError: If the codes cannot be such, as a place beyond the tensor's end.
        """
