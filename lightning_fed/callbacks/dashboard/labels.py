"""Labels of a worker's training examples, as far as they can be read without running any of the user's code."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

_MOST_LABELS = 100
"""Integers with more values than that are no classes."""


def label_counts(loader: object) -> Counter[int] | None:
    """Count the labels of a loader's dataset.

    Args:
        loader: A worker's loader.

    Returns:
        The number of examples of each label; None: they are no integers, or can be read only by going through data
        that are made as they are read: this would move the generators and counters of the user's dataset.

    >>> data = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 7]))
    >>> dict(label_counts(DataLoader(Subset(data, [1, 2, 3]))))
    {1: 2, 7: 1}
    """
    labels = _labels(loader.dataset) if isinstance(loader, DataLoader) else None
    if labels is None or labels.is_floating_point() or labels.is_complex():
        return None
    values, counts = np.unique(labels.numpy(), return_counts=True)
    if len(values) > _MOST_LABELS:
        return None
    return Counter({int(value): int(count) for value, count in zip(values, counts, strict=True)})


def _labels(dataset: Any) -> Tensor | None:
    if isinstance(dataset, Subset):
        labels = _labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if known and len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return _flat(dataset.tensors[-1]) if len(dataset.tensors) > 1 else None
    # Datasets of torchvision, and those made after them, hold the labels of all examples in this attribute.
    targets = getattr(dataset, "targets", None)
    return _flat(torch.as_tensor(targets)) if isinstance(targets, (list, Tensor)) and len(targets) else None


def _flat(labels: Tensor) -> Tensor | None:
    labels = labels.detach().cpu()
    return labels.flatten() if labels.numel() == len(labels) else None
