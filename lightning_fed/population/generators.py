"""Random generators that belong to a worker's loader.

A sampler has a generator for the order of examples, and a dataset may have its own for its transforms. Their draws in a
round must not depend on earlier rounds, nor on whether the worker was built again.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader

from lightning_fed._lightning import pl
from lightning_fed.core.rng import derive

_MOST = 1_000  # the number of searched objects: a dataset's examples hold no generators
_LONGEST = 100  # the number of searched containers
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_SERVERS = (pl.Trainer, pl.LightningModule, pl.LightningDataModule)


def orders(loader: DataLoader[Any]) -> list[torch.Generator]:
    """Return the generators with which a loader and its samplers draw the order of examples.

    Args:
        loader: The loader.
    """
    samplers: list[object] = [loader.sampler]
    if isinstance(loader.batch_sampler, BatchSampler):
        samplers.append(loader.batch_sampler.sampler)
    # Every sampler of torch keeps its generator under this name; one without needs no reseeding.
    found = [loader.generator, *(getattr(sampler, "generator", None) for sampler in samplers)]
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def others_of(loader: object) -> list[Any]:
    """Return the generators of torch, NumPy and Python in other objects of a loader, such as its dataset's transforms.

    Args:
        loader: The loader, or any iterable of batches.
    """
    seen = {id(generator) for generator in orders(loader)} if isinstance(loader, DataLoader) else set[int]()
    found: list[Any] = []
    alive: list[Any] = []  # keeps objects alive, so ids stay unique
    pending = deque([loader])
    while pending and len(alive) < _MOST:
        thing = pending.popleft()
        if id(thing) in seen or isinstance(thing, _SERVERS):
            continue
        seen.add(id(thing))
        alive.append(thing)
        if isinstance(thing, _KINDS):
            found.append(thing)
        elif isinstance(thing, (list, tuple, dict)):
            if len(thing) <= _LONGEST:
                pending.extend(thing.values() if isinstance(thing, dict) else thing)
        elif type(thing).__module__ != "builtins":
            pending.extend(getattr(thing, "__dict__", {}).values())
    return found


def reseed(ordering: Iterable[torch.Generator], others: Iterable[Any], seed: int) -> None:
    """Seed generators; each generator that does not draw the order gets its own seed, so no two draw the same numbers.

    Args:
        ordering: The result of :func:`orders`.
        others: The result of :func:`others_of`.
        seed: The seed.
    """
    for generator in ordering:
        generator.manual_seed(seed)
    for number, other in enumerate(others):
        own = derive(seed, "generator", number)
        if isinstance(other, torch.Generator):
            other.manual_seed(own)
        elif isinstance(other, np.random.Generator):
            other.bit_generator.state = type(other.bit_generator)(own).state
        elif isinstance(other, np.random.RandomState):
            other.seed(own % 2**32)
        else:
            other.seed(own)
