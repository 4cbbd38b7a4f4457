"""The extension point for compressors, which encode one tensor of an update as bytes and decode it."""

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
        shape: The tensor's shape; a complex tensor is viewed as pairs, ``(..., 2)``.
        dtype: The dtype of an update's vector: float32 or float64.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    @property
    def size(self) -> int:
        """The number of elements.

        >>> Form((3, 2)).size
        6
        """
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """The number of bytes without compression."""
        return self.size * self.dtype.itemsize


class Compressor(Shown, ABC):
    """Base of the compressors. A compressor holds settings only, as a frozen dataclass.

    Row i of a result must be a function of row i and of seed i: worker i may be alone in a stack, or be encoded on
    one machine and decoded on another. Randomness that both sides need, such as a rotation, is derived from the seed
    and takes no bytes; ``transforms.compression.randomness`` draws the same numbers on every device.
    """

    linear: ClassVar[bool] = False
    """Whether codes with one seed for all workers can be added: the numbers of the codes are a linear function of the
    tensor. Only then can secure aggregation decode a sum of codes."""

    @property
    @abstractmethod
    def unbiased(self) -> bool:
        """Whether the expectation of the decoded tensor, over seeds, is the encoded tensor."""

    @property
    @abstractmethod
    def contracts(self) -> bool:
        """Whether the expected error is smaller than the tensor, for every tensor: ``E‖x̂ − x‖² < ‖x‖²``.

        Otherwise the stored errors of error feedback grow without a bound.
        """

    @property
    def stretches(self) -> bool:
        """Whether the decoded tensor has a much larger norm than the encoded one; a bound on the norm then cuts it."""
        return False

    @abstractmethod
    def num_bytes(self, form: Form) -> int:
        """Return the length of one worker's codes.

        Args:
            form: The form of a tensor with at least one element.
        """

    @abstractmethod
    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """Encode one tensor of n workers.

        Args:
            rows: Finite numbers, float32 or float64 ``[n, *form.shape]``; read only.
            seeds: One seed for each worker.

        Returns:
            uint8 ``[n, num_bytes(form)]``, on the device of the rows.
        """

    @abstractmethod
    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        """Decode the result of :meth:`encode`, or untrusted bytes of the same length.

        Args:
            codes: uint8 ``[n, num_bytes(form)]``; read only.
            form: The form of one worker's tensor.
            seeds: One seed for each worker.

        Returns:
            ``[n, *form.shape]`` of ``form.dtype``, on the device of the codes. Numbers that are sent as they are, such
            as a scale, may be NaN, and so may the result: the receiver of updates checks for non-finite numbers.

        Raises:
            WireError: If the codes are invalid, for instance a position beyond the tensor's end.
        """
