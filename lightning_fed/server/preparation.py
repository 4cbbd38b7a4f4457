"""Preparation of a run's data by the first process of each machine; the others get its errors."""

from __future__ import annotations

from typing import final

from lightning_fed._lightning import pl
from lightning_fed.population import Prepared, WorkerPool
from lightning_fed.server.processes import processes_of


@final
class Preparation:
    """Prepares the central data, and with several processes those of workers that are there from the beginning.

    The Trainer has the first process of each machine do so, while the others wait. Else a worker's data are prepared
    where they are first needed.

    Args:
        pool: The workers.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._failures: dict[str, str] = {}
        self._central_error: Exception | None = None

    def prepare(self, central: pl.LightningDataModule | None, trainer: pl.Trainer | None) -> None:
        """Prepare data on this machine.

        Args:
            central: The central datamodule, if there is one.
            trainer: The Trainer, if there is one.

        Raises:
            Exception: What the central one raises, if there is one process.
        """
        processes = processes_of(trainer)
        self._failures, self._central_error = {}, None
        if central is not None and (central.prepare_data_per_node or processes.node == 0):
            if trainer is not None:
                central.trainer = trainer
            try:
                central.prepare_data()
            except Exception as error:
                if processes.size == 1:
                    raise
                self._central_error = error  # to be raised where the others do not wait for this process
        if trainer is not None and processes.size > 1:
            self._failures = self._pool.prepare(trainer)

    def conclude(self, trainer: pl.Trainer | None) -> None:
        """Share among all processes what has failed.

        Args:
            trainer: The Trainer, if there is one.

        Raises:
            Exception: What the central datamodule has raised.
        """
        processes = processes_of(trainer)
        self._pool.prepared = None
        if self._central_error is not None:
            processes.fail(self._central_error)
        if processes.size > 1:
            failures = {name: reason for theirs in processes.gather(self._failures) for name, reason in theirs.items()}
            self._pool.prepared = Prepared(processes.node, self._pool.is_built, failures)
