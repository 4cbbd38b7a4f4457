"""Workers whose data lie elsewhere, in this process: what crosses does so as bytes, and nothing else is reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lightning_fed._lightning import pl
from lightning_fed.engines import EngineOfNodes, Sequential
from lightning_fed.node.evaluation import evaluate
from lightning_fed.population import EvaluationKind, Population, WorkerPool, has_loader
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.wire import Job, Updates, WorkerError, decode_job, encode_job
from lightning_fed.worker.outbox import Outbox


class Elsewhere(Population):
    """Names and sizes of workers, and nothing of their data."""

    lies_elsewhere = True
    most_examples = 101  # type: ignore[assignment]  # a property of the base

    def __init__(self, workers: Mapping[str, pl.LightningDataModule], loaders: int = 1) -> None:
        self._names = list(workers)
        self._kinds = [
            kind for kind in ("val", "test", "predict") if any(has_loader(each, kind) for each in workers.values())
        ]
        self._loaders = loaders

    def __len__(self) -> int:
        return len(self._names)

    def name(self, position: int) -> str:
        return self._names[position]

    def __getitem__(self, name: str) -> Any:
        raise AssertionError("the data lie elsewhere")

    def num_examples(self, name: str) -> int:
        return 1

    def has_loader(self, kind: EvaluationKind) -> bool:
        return kind in self._kinds

    def num_loaders(self, kind: EvaluationKind) -> int:
        return self._loaders if kind in self._kinds else 0


@dataclass
class Asked:
    """A question."""

    kind: str
    workers: list[str]
    limit: int | float | None
    job: Job = field(repr=False, compare=False)


class Nodes(EngineOfNodes):
    """Trains and evaluates workers that only it can reach.

    Args:
        workers: Their datamodules.
        folder: Where predictions are written.
        backwards: Whether the last worker answers first.
        instead: What comes in place of some workers' shares.
    """

    def __init__(
        self,
        workers: Mapping[str, pl.LightningDataModule],
        folder: Path | None = None,
        backwards: bool = False,
        instead: Mapping[str, Any] | None = None,
    ) -> None:
        self.workers = workers
        self.folder = folder
        self.backwards = backwards
        self.instead = instead or {}
        self.asked: list[Asked] = []
        self._sequential = Sequential()
        self._outbox = Outbox()

    def introduce(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        self._module, self._outbox = deepcopy(module), outbox
        self._seed = workers.seed

    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        self._outbox = outbox
        pool = WorkerPool(dict(self.workers), 1000, workers.seed)
        pool.trainer = trainer
        self._sequential.setup(module, pool, trainer, outbox)

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        return self._sequential.run(job, cohort)

    def teardown(self) -> None:
        self._sequential.teardown()

    def evaluate(
        self, kind: EvaluationKind, workers: Sequence[str], job: Job, limit: int | float | None
    ) -> Iterator[tuple[str, Any]]:
        self.asked.append(Asked(kind, list(workers), limit, job))
        data = encode_job(job)
        for worker in reversed(workers) if self.backwards else workers:
            if worker in self.instead:
                yield worker, self.instead[worker]
                continue
            yield (
                worker,
                evaluate(
                    self._module,
                    self.workers,
                    worker,
                    decode_job(data),
                    kind,
                    self._outbox.algorithm,
                    self._outbox.own,
                    {"accelerator": "cpu"},
                    limit,
                    None if self.folder is None else self.folder / worker,
                ),
            )


def elsewhere(
    workers: Mapping[str, pl.LightningDataModule], loaders: int = 1, **options: Any
) -> tuple[FederatedDataModule, Nodes]:
    """Return data and the engine that reaches them."""
    nodes = {name: options.pop(name) for name in ("folder", "backwards", "instead") if name in options}
    return FederatedDataModule(Elsewhere(workers, loaders), **options), Nodes(workers, **nodes)


__all__ = ["Asked", "Elsewhere", "Nodes", "elsewhere", "replace"]
