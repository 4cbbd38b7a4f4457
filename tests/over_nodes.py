"""Runs over nodes of this process: each worker on a node of its own, which gets and sends bytes only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from helpers import trainer
from menagerie import Anneals, member
from oracle import ALGORITHMS, PROMISES

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Engine
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.node import Node
from lightning_fed.testing import Loopback, OverLoopback
from lightning_fed.transforms import ClipNorm
from lightning_fed.wire import WorkerError


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


def left_by(engine: Engine, workers: Any, algorithm: str, promise: str, name: str, rounds: int = 3) -> dict[str, Any]:
    """All that a run leaves at the server, or the words in which it is refused."""
    module = member(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            fed = FederatedModule(
                module,
                algorithm=ALGORITHMS[algorithm](),
                local_epochs=2,
                transforms=[ClipNorm(5.0)] if promise == "open" else [],
                engine=engine,
                privacy=PROMISES[promise](),
            )
            run = trainer(max_steps=rounds, max_epochs=-1, callbacks=[Anneals()], limit_val_batches=0)
            run.fit(fed, FederatedDataModule(workers))
        except (ValueError, WorkerError) as error:
            return {"refused": str(error)}
    report = fed.last_report
    return {
        "model": dict(module.state_dict()),
        "server": dict(fed.server_state),
        "workers": {worker: tuple(record) for worker, record in sorted(report.workers.items())},
        "bytes": (report.bytes_down, report.bytes_up),
        "metrics": {metric: float(value) for metric, value in run.callback_metrics.items() if "time" not in metric},
    }
