"""The global model, as far as it crosses to workers."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.wire.layout import Layout


@final
@dataclass(frozen=True, eq=False)
class GlobalModel:
    """The trained parameters and the buffers of the global model. Read only.

    Args:
        parameters: The parameters that are trained, by name.
        buffers: The buffers (BatchNorm statistics), by name; and those frozen parameters that user code has moved, such
            as the parameters of an EMA teacher.
        moved: The names of the moved frozen parameters in ``buffers``.
        frozen: All parameters that are not trained. They do not travel: a worker has them from the beginning.
        codes: Codes that cross in place of some parameters, by their names; uint8 ``[bytes]``. The
            values of those parameters are the decoded ones.
    """

    parameters: Tensors
    buffers: Tensors = field(default_factory=dict)
    moved: frozenset[str] = frozenset()
    frozen: Tensors = field(default_factory=dict)
    codes: Tensors = field(default_factory=dict)

    @property
    def own_buffers(self) -> tuple[str, ...]:
        """The names of the buffers that a worker may keep for itself: all but parameters that have moved."""
        return tuple(name for name in self.buffers if name not in self.moved)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next((p.device for p in self.parameters.values()), torch.device("cpu"))

    @cached_property
    def layout(self) -> Layout:
        """The place of each parameter in a vector."""
        return Layout(self.parameters)

    @cached_property
    def vector(self) -> Tensor:
        """The parameters as one vector, ``[size]``."""
        return self.layout.flatten(self.parameters)

    def zeros(self) -> Tensor:
        """Return zeros like :attr:`vector`, without building that vector, which would be cached with the model."""
        return torch.zeros(self.layout.size, dtype=self.layout.dtype, device=self.device)

    @cached_property
    def wide_parameters(self) -> Tensors:
        """The parameters in the vector's dtype; views of it."""
        return self.layout.unflatten(self.vector)

    @cached_property
    def finite_buffers(self) -> tuple[str, ...]:
        """The names of the buffers without NaN or Inf; others hold them on purpose, such as an attention mask."""
        return tuple(name for name, buffer in self.buffers.items() if bool(torch.isfinite(buffer).all()))

    def __getstate__(self) -> dict[str, object]:
        # Without what was computed from it: a pickled model would otherwise weigh twice and three times as much.
        return {"parameters": self.parameters, "buffers": self.buffers, "moved": self.moved, "codes": self.codes}
