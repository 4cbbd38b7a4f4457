"""Datasets of tensors: their rows, and the detection of changes; and examples of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset


def rows_of(dataset: object) -> tuple[Tensor, ...] | None:
    """Return the tensors whose rows are a dataset's examples; None: the dataset does not consist of tensors.

    Args:
        dataset: A TensorDataset, or a Subset of one, or a Subset of such a Subset.
    """
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset:
        tensors = rows_of(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return None if tensors is None else tuple(t[index.to(t.device)] for t in tensors)
    return None


def with_part(example: Sequence[Any], position: int, part: Any) -> Sequence[Any]:
    """Return a tuple, named tuple or list of the same kind with another part at a position.

    Args:
        example: The tuple or list; read only.
        position: The position; counted from the end if it is negative.
        part: The new part.
    """
    parts = list(example)
    parts[position] = part
    if isinstance(example, tuple):
        return getattr(type(example), "_make", tuple)(parts)  # the constructor of a named tuple
    return parts


def has_versions(dataset: Dataset[Any]) -> bool:
    """Whether the tensors of a dataset have version counters, which tensors of inference mode lack."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return not (isinstance(dataset, TensorDataset) and any(tensor.is_inference() for tensor in dataset.tensors))


@final
class Source:
    """Marks that detect whether :func:`rows_of` would return other rows of a dataset."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._subsets: list[tuple[Subset[Any], Dataset[Any], Sequence[int], int]] = []
        while isinstance(dataset, Subset):
            self._subsets.append((dataset, dataset.dataset, dataset.indices, len(dataset.indices)))
            dataset = dataset.dataset
        self._root = dataset if isinstance(dataset, TensorDataset) else None
        self._tensors = () if self._root is None else self._root.tensors
        # Rows of a subset are copies, which are outdated once the tensors are modified.
        self._versions = versions_of(self._tensors)

    def is_unchanged(self) -> bool:
        """Whether :func:`rows_of` would return the same rows."""
        for subset, dataset, indices, length in self._subsets:
            if subset.dataset is not dataset or subset.indices is not indices or len(indices) != length:
                return False
        if self._root is None:
            return True
        return self._root.tensors is self._tensors and versions_of(self._tensors) == self._versions


_version = attrgetter("_version")


def versions_of(tensors: tuple[Tensor, ...]) -> list[int]:
    """Return the tensors' versions; a version increases whenever its tensor is modified."""
    return list(map(_version, tensors))
