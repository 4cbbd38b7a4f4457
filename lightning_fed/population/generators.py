"""Generators of random numbers that a worker's loader carries with it.

A sampler has one for the order of examples, and a data set may have its own, by which its transforms draw. What they
draw in a round must depend on nothing that ran before: not on earlier rounds, nor on whether the worker was built anew.
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

_MOST = 1_000  # objects that are looked at: a data set's examples hold no generators
_LONGEST = 100  # containers that are looked into
_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_SERVERS = (pl.Trainer, pl.LightningModule, pl.LightningDataModule)


def orders(loader: DataLoader[Any]) -> list[torch.Generator]:
    """The generators by which a loader and its samplers draw the order of examples.

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
    """The generators of torch, NumPy and Python that other objects of a loader keep, such as its data set's transforms.

    Args:
        loader: The loader, or any iterable of batches.
    """
    seen = {id(generator) for generator in orders(loader)} if isinstance(loader, DataLoader) else set[int]()
    found: list[Any] = []
    alive: list[Any] = []  # so that no id is given twice
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
    """Seed generators; each one that does not draw the order has a seed of its own, so that no two draw alike.

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
