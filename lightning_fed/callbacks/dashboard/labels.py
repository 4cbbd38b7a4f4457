"""Labels of a worker's training examples, if they can be read without running user code."""

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
"""The largest number of different integers that count as classes."""


def label_counts(loader: object) -> Counter[Label] | None:
    """Count the labels of the examples in a pass over a loader.

    Args:
        loader: A worker's loader.

    Returns:
        The number of examples of each label. None if the labels are neither integers nor strings; if the labels are
        ambiguous, as in a TensorDataset of three tensors; if the drawn examples are unknown, as with a user's sampler;
        or if reading the labels would run the user's dataset, which may change its generators and counters.

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
    """Whether a pass over a loader certainly yields each example once, except for a dropped last batch.

    Args:
        loader: A worker's loader.
    """
    sampler = _sampler(loader)
    if isinstance(sampler, RandomSampler) and type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return type(sampler) is SequentialSampler


def _drawn(loader: DataLoader[Any], labels: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Return the labels of the examples in a pass; None: unknown."""
    if draws_all(loader):
        return labels
    sampler = _sampler(loader)
    if isinstance(sampler, SubsetRandomSampler) and type(sampler) is SubsetRandomSampler:
        return labels[_places(sampler.indices)]
    return None


def _sampler(loader: object) -> object:
    """Return the sampler of single examples that determines the batches; None: unknown."""
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
        # The last of three tensors may be labels, indices of examples, or anything else.
        return _flat(dataset.tensors[1]) if len(dataset.tensors) == 2 else None
    # Datasets of torchvision, and similar ones, hold the labels of all examples in this attribute.
    labels = _flat(getattr(dataset, "targets", None))
    return labels if labels is not None and len(labels) == len(dataset) else None


def _places(indices: Any) -> npt.NDArray[np.int64]:
    return np.asarray(list(indices), dtype=np.int64)


def _flat(labels: object) -> npt.NDArray[Any] | None:
    """Return labels as an array, one for each example; None: they are not labels."""
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
