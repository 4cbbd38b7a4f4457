"""Checksums that distinguish runs with different data, without building a worker."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_fed.population import Population
from lightning_fed.population.given import Fields, GivenData

_MOST_BYTES = 2**26
"""The largest number of bytes of all given tensors that count; of larger ones only the first rows."""


def sizes_of(workers: Mapping[str, Any]) -> list[int] | None:
    """Return the workers' numbers of training examples; None: a worker would have to be built.

    Args:
        workers: The workers' data.
    """
    if isinstance(workers, Population):
        return [workers.num_examples(name) for name in workers]
    sizes = [each.num_examples if isinstance(each, GivenData) else None for each in _of_a_dict(workers)]
    known = [size for size in sizes if size is not None]
    return known if known and len(known) == len(sizes) else None


def of_sizes(sizes: Sequence[int]) -> str:
    """Return the checksum of the workers' numbers of examples, in the order of the workers.

    >>> of_sizes([20, 8]) == of_sizes([8, 20])
    False
    """
    return f"{zlib.crc32(json.dumps([int(size) for size in sizes]).encode()):08x}"


def of_contents(workers: Mapping[str, Any]) -> str | None:
    """Return the checksum of the tensors that were given for workers, labels among them; None: there are none.

    Args:
        workers: The workers' data.
    """
    tensors = [tensor for each in _of_a_dict(workers) if isinstance(each, GivenData) for tensor in _tensors(each)]
    if not tensors:
        return None
    share, checksum = _MOST_BYTES // len(tensors), 0
    for tensor in tensors:
        rows = max(1, share * len(tensor) // max(1, tensor.numel() * tensor.element_size()))
        part = tensor[:rows].detach().cpu().contiguous().reshape(-1)
        checksum = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(part.view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def _of_a_dict(workers: Mapping[str, Any]) -> Sequence[Any]:
    """Return the data of existing workers; those of a lazy mapping would have to be built."""
    return list(workers.values()) if isinstance(workers, dict) else []


def _tensors(data: GivenData) -> Iterator[Tensor]:
    for examples in data.examples.values():
        if isinstance(examples, Tensor):
            yield examples
        elif isinstance(examples, TensorDataset):
            yield from examples.tensors
        elif isinstance(examples, Fields):
            yield from examples.tensors.values()
