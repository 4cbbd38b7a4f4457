"""Runs over nodes of this process: each worker on a node of its own, which gets and sends bytes only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from oracle import outcome

from lightning_fed.engines import Engine
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.node import Node
from lightning_fed.testing import Loopback, OverLoopback


def nodes_of(
    make: Callable[[], pl.LightningModule], workers: Mapping[str, Any], home: Path, **options: Any
) -> dict[int, Node]:
    """A node for each worker, numbered in order."""
    return {
        number: Node(make(), {name: data}, home=home / name, accelerator="cpu", **options)
        for number, (name, data) in enumerate(workers.items())
    }


def connected(
    make: Callable[[], pl.LightningModule], workers: Mapping[str, Any], home: Path, spoil: Any = None, **options: Any
) -> tuple[OverLoopback, RemotePopulation]:
    """The engine, and the workers in their order."""
    link = Loopback(nodes_of(make, workers, home, **options), spoil)
    return OverLoopback(link, timeout=0.2), RemotePopulation(link, names=list(workers))


def left_by(
    engine: Engine, workers: Any, algorithm: str, promise: str, name: str, rounds: int = 3, **options: Any
) -> dict[str, Any]:
    """All that a run leaves at the server, or the words in which it is refused."""
    left = outcome(engine, algorithm, promise, name, workers, rounds, limit_val_batches=0, **options)
    return {key: value for key, value in left.items() if key not in ("own", "cause")}
