"""Labels of a worker's training examples, as far as they can be read without running any of the user's code."""

from __future__ import annotations

from collections import Counter
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

Label: TypeAlias = int | str

_MOST_LABELS = 100
"""Integers with more values than that are no classes."""


def label_counts(loader: object) -> Counter[Label] | None:
    """Count the labels of the examples that a pass over a loader gives.

    Args:
        loader: A worker's loader.

    Returns:
        The number of examples of each label. None, if they are no integers and no texts; if it is not sure what the
        labels are, as in a TensorDataset of three tensors, or which examples are drawn, as by a sampler of the user's;
        or if they can be read only by going through data that are made as they are read: this would move the
        generators and counters of the user's dataset.

    >>> data = TensorDataset(torch.zeros(4, 2), torch.tensor([0, 1, 1, 7]))
    >>> dict(label_counts(DataLoader(Subset(data, [1, 2, 3]))))
    {1: 2, 7: 1}
    """
    if not isinstance(loader, DataLoader):
        return None
    labels = _labels(loader.dataset)
    if labels is None or labels.dtype.kind not in "iubU":
        return None
    drawn = _drawn(loader, labels)
    if drawn is None:
        return None
    values, counts = np.unique(drawn, return_counts=True)
    if len(values) > _MOST_LABELS:
        return None
    name = str if labels.dtype.kind == "U" else int
    return Counter({name(value): int(count) for value, count in zip(values, counts, strict=True)})


def draws_all(loader: object) -> bool:
    """Whether it is sure that a pass over a loader gives each example of its dataset once, but for a last batch.

    Args:
        loader: A worker's loader.
    """
    sampler = _sampler(loader)
    if isinstance(sampler, RandomSampler) and type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return type(sampler) is SequentialSampler


def _drawn(loader: DataLoader[Any], labels: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return the labels of the examples that a pass gives; None: it is not sure which they are."""
    if draws_all(loader):
        return labels
    sampler = _sampler(loader)
    if isinstance(sampler, SubsetRandomSampler) and type(sampler) is SubsetRandomSampler:
        return labels[_places(sampler.indices)]
    return None


def _sampler(loader: object) -> object:
    """Return the sampler of single examples whose order batches follow; None: there is none, or they may not."""
    batches = loader.batch_sampler if isinstance(loader, DataLoader) else None
    return batches.sampler if isinstance(batches, BatchSampler) and type(batches) is BatchSampler else None


def _labels(dataset: Any) -> npt.NDArray[Any] | None:
    if isinstance(dataset, Subset):
        labels = _labels(dataset.dataset)
        return None if labels is None else labels[_places(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        alike = len({part.dtype.kind for part in known}) == 1 and len(known) == len(parts)
        return np.concatenate(known) if alike else None
    if isinstance(dataset, TensorDataset):
        # Of three, the last one may be the labels, or the examples' numbers, or what the user has thought of.
        return _flat(dataset.tensors[1]) if len(dataset.tensors) == 2 else None
    # Datasets of torchvision, and those made after them, hold the labels of all examples in this attribute.
    labels = _flat(getattr(dataset, "targets", None))
    return labels if labels is not None and len(labels) == len(dataset) else None


def _places(indices: Any) -> npt.NDArray[np.int64]:
    return np.asarray(list(indices), dtype=np.int64)


def _flat(labels: object) -> npt.NDArray[Any] | None:
    """Return labels as an array, one for each example; None: they are none."""
    if isinstance(labels, list) and labels and isinstance(labels[0], Tensor):
        if not all(isinstance(label, Tensor) and label.numel() == 1 for label in labels):
            return None
        labels = torch.stack([label.reshape(()) for label in labels])
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu()
        if labels.is_floating_point() or labels.is_complex():
            return None
        labels = labels.numpy()
    if not isinstance(labels, (list, tuple, np.ndarray)) or not len(labels):
        return None
    try:
        array = np.asarray(labels)
    except (TypeError, ValueError):  # of different lengths
        return None
    return array.reshape(-1) if array.size == len(array) else None
