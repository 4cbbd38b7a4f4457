"""Requests to an engine whose workers are evaluated on the machines of their data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from lightning_fed._lightning import pl
from lightning_fed.engines import EngineOfNodes
from lightning_fed.population import EvaluationKind
from lightning_fed.server.checkpoint import Keeper
from lightning_fed.server.datamodule import data_of
from lightning_fed.server.global_module import GlobalModule
from lightning_fed.server.guard import Guard
from lightning_fed.wire import Job, LocalTraining, WorkerError
from lightning_fed.wire.container import Buffer


@final
class Asking:
    """Requests evaluations of the current global model from an engine.

    Args:
        engine: The engine that reaches the workers.
        trainer: The Trainer.
        global_module: Reads the global model off the user's module.
        keeper: Holds the state of finished rounds.
        guard: Holds the promise.
    """

    def __init__(
        self, engine: EngineOfNodes, trainer: pl.Trainer, global_module: GlobalModule, keeper: Keeper, guard: Guard
    ) -> None:
        self._engine = engine
        self._trainer = trainer
        self._global = global_module
        self._keeper = keeper
        self._guard = guard

    def __call__(
        self, kind: EvaluationKind, workers: Sequence[str], limit: int | float | None
    ) -> Iterator[tuple[str, Buffer | WorkerError]]:
        """Request an evaluation; see :meth:`EngineOfNodes.evaluate`."""
        return self._engine.evaluate(kind, workers, self.job(), limit)

    def job(self) -> Job:
        """Return the job that workers receive for an evaluation."""
        trainer, state = self._trainer, self._keeper.state
        data = data_of(trainer)
        attributes = self._global.changed_attributes().items()
        return Job(
            round=trainer.global_step,
            cohort=data.position.next,
            seed=data.seed,
            model=self._global.model(),
            local=LocalTraining(),
            last=state.last,
            failed=state.failed,
            epoch=trainer.current_epoch,
            validated=state.validated,
            population=len(data.names),
            promise={} if self._guard.promise is None else {"release_metrics": float(self._guard.shows_metrics)},
            # Of an evaluation, Lightning itself has put all parts into eval().
            attributes={path: value for path, value in attributes if path.rpartition(".")[2] != "training"},
        )
