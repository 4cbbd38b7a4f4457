"""Places of the parameters in one vector of all of them.

An update is a vector: norms, clipping, noise, robust aggregation and the sum over processes act on all parameters
together, and one operation on a vector is cheaper than one per parameter. Names return where tensors are loaded into a
module.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import final

import torch
from torch import Tensor


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype to accumulate in: at least float32, whatever the model's.

    >>> wide(torch.bfloat16), wide(torch.float32), wide(torch.float64)
    (torch.float32, torch.float32, torch.float64)
    """
    return torch.promote_types(dtype, torch.float32)


@final
class Layout:
    """The places and shapes of parameters in a vector of length :attr:`size`.

    Args:
        parameters: Tensors by name, float or complex. A complex number takes two places; complex parameters come first
            and make the length even, so that each can be viewed in place.

    >>> layout = Layout({"weight": torch.zeros(1, 2), "bias": torch.zeros(1)})
    >>> layout.flatten({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([3.0])})
    tensor([1., 2., 3.])
    >>> layout.unflatten(torch.tensor([4.0, 5.0, 6.0]))
    {'weight': tensor([[4., 5.]]), 'bias': tensor([6.])}
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        ordered = sorted(parameters.items(), key=lambda item: not item[1].is_complex())
        self._shapes = {name: p.shape for name, p in ordered}
        self._complex = {name for name, p in ordered if p.is_complex()}
        sizes = [p.numel() * (2 if p.is_complex() else 1) for _, p in ordered]
        self._padding = sum(sizes) % 2 if self._complex else 0
        self._sizes = [*sizes, self._padding]
        self.size = sum(self._sizes)
        """The length of a vector."""
        self.dtype = torch.float32
        """The dtype of a vector: the widest of the parameters', at least float32."""
        for parameter in parameters.values():
            self.dtype = torch.promote_types(self.dtype, parameter.dtype.to_real())

    @property
    def places(self) -> dict[str, slice]:
        """The place of each parameter in a vector."""
        ends = list(accumulate(self._sizes))
        return {name: slice(end - size, end) for name, size, end in zip(self._shapes, self._sizes, ends, strict=False)}

    def rows(self, n: int, device: torch.device) -> Tensor:
        """Allocate n vectors, ``[n, size]``; only the padding is initialised."""
        rows = torch.empty(n, self.size, dtype=self.dtype, device=device)
        rows[:, self.size - self._padding :] = 0
        return rows

    def flatten(self, tensors: Mapping[str, Tensor], stacked: bool = False) -> Tensor:
        """Copy tensors into a vector, or stacks of n into n vectors.

        Args:
            tensors: ``{name: [...]}``, or ``{name: [n, ...]}`` if stacked; may have more names.
            stacked: Whether dim 0 counts workers.

        Returns:
            ``[size]``, or ``[n, size]`` if stacked.
        """
        parts = []
        for name in self._shapes:
            part = tensors[name]
            if name in self._complex:
                part = torch.view_as_real(part)
            parts.append(part.reshape(part.shape[0], -1) if stacked else part.reshape(-1))
        if self._padding:
            parts.append(parts[0].new_zeros(*parts[0].shape[:-1], self._padding))
        return torch.cat(parts, dim=-1).to(self.dtype)

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Return each parameter's part of a vector, or of a stack of vectors, as a view.

        Args:
            vector: ``[..., size]``.

        Returns:
            ``{name: [..., *shape]}`` in the vector's dtype.
        """
        lead = vector.shape[:-1]
        views: dict[str, Tensor] = {}
        for (name, shape), part in zip(self._shapes.items(), torch.split(vector, self._sizes, dim=-1), strict=False):
            if name in self._complex:
                views[name] = torch.view_as_complex(part.view((*lead, *shape, 2)))
            else:
                views[name] = part.view((*lead, *shape))
        return views
