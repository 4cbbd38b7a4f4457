"""Fits that take turns: one round each, so that all of them have the same neighbours on the machine."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping
from typing import Any

from workload import KINDS, Classifier, WorkerData

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.selection import RoundRobin


def rounds_in_turn(
    kind: str, workers: int, rounds: int, runs: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Fit the same task several times at once, in turn a round of each; return the seconds of every round, by run.

    Args:
        kind: Of the task.
        workers: How many there are. All are built before the first round, in every fit.
        rounds: How many rounds each fit has.
        runs: The arguments of each run's FederatedModule, by its name.
    """
    batons = [threading.Semaphore(int(i == 0)) for i in range(len(runs))]
    turns = {name: _TakeTurns(batons[i], batons[(i + 1) % len(runs)]) for i, name in enumerate(runs)}
    with tempfile.TemporaryDirectory() as logs:
        fits = [
            threading.Thread(target=_fit, args=(kind, workers, rounds, runs[name], turns[name], f"{logs}/{i}"))
            for i, name in enumerate(runs)
        ]
        for each in fits:
            each.start()
        for each in fits:
            each.join()
    return {name: each.seconds for name, each in turns.items()}


class _TakeTurns(pl.Callback):
    """Lets other fits run their rounds between two of this one's; times this one's."""

    def __init__(self, mine: threading.Semaphore, next_one: threading.Semaphore) -> None:
        self.mine, self.next_one = mine, next_one
        self.seconds: list[float] = []
        self._since = 0.0

    def on_train_start(self, *_: Any) -> None:
        self.mine.acquire()
        self._since = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._since)
        self.next_one.release()
        self.mine.acquire()
        self._since = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.next_one.release()


def _fit(kind: str, workers: int, rounds: int, options: Mapping[str, Any], turns: _TakeTurns, logs: str) -> None:
    data = FederatedDataModule(
        {f"worker_{i:03}": WorkerData(kind, i) for i in range(workers)},
        cohort_size=KINDS[kind].cohort,
        sampler=RoundRobin(),
        rounds_per_epoch=50,
    )
    for name in data.names:
        data.pool[name].batches  # noqa: B018
    pl.Trainer(
        max_steps=rounds,
        accelerator="cpu",
        default_root_dir=logs,
        callbacks=[turns],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    ).fit(FederatedModule(Classifier(kind), **options), data)
