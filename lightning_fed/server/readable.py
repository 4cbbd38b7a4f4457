"""Results and state of a FederatedModule that are public, and read only."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.privacy import PrivateRun
from lightning_fed.server.checkpoint import Keeper
from lightning_fed.server.evaluation.evaluation import Evaluation
from lightning_fed.server.evaluation.report import EvaluationReport
from lightning_fed.server.guard import Guard
from lightning_fed.server.history import History
from lightning_fed.server.in_words import module_in_words
from lightning_fed.server.results import Results
from lightning_fed.server.training import Training
from lightning_fed.server.wrapper import Wrapper
from lightning_fed.wire.contents import Leaves
from lightning_fed.wire.report import RoundReport
from lightning_fed.worker.outbox import Outbox


class Readable(Wrapper, ABC):
    """Wraps the user's module, and shows results and state beside it."""

    _evaluation: Evaluation
    _given: Mapping[str, Any]  # the arguments that it was built with
    _guard: Guard
    _keeper: Keeper
    _outbox: Outbox
    _run_results: Results
    _training: Training | None  # while a fit runs

    last_report: RoundReport
    """The report of the last round's workers; for callbacks."""
    leaves: Leaves | None
    """Everything that left a worker in the first round of the last fit and that it was sent, as on the wire."""

    def __repr__(self) -> str:
        return module_in_words(self)

    @property
    def history(self) -> History:
        """A flat row of numbers for each round, such as ``pandas.DataFrame`` takes: see :class:`History`.

        Example::

            pandas.DataFrame(fed.history).plot(x="round", y="loss")
        """
        return self._run_results.history

    @property
    def last_evaluation(self) -> EvaluationReport:
        """Results of the last validation or test, worker by worker; complete from ``on_validation_end`` on.

        Example::

            trainer.validate(fed, data)
            fed.last_evaluation.quantile("val_acc", 0.1)
        """
        return self._run_results.evaluation

    @property
    def evaluated_worker(self) -> str | None:
        """The worker of the current evaluation batch, for hooks and callbacks; None: central data, or no batch."""
        return self._evaluation.worker

    @property
    def predicted_workers(self) -> list[Any]:
        """The workers of the last predictions of ``Trainer.predict``, in the same order.

        A list for each loader if there are several; None stands for central data.

        Example::

            by_worker = zip(fed.predicted_workers, trainer.predict(fed, data))
        """
        return self._evaluation.predicted

    @property
    def private_run(self) -> PrivateRun | None:
        """The privacy account so far; None before a fit, and without a promise."""
        return self._guard.run

    @property
    def server_state(self) -> Tensors:
        """The server state of algorithm and aggregator, by name (``"aggregator.…"``); read only."""
        return self._keeper.state.tensors

    @property
    def own_state(self) -> dict[str, dict[str, Tensor]]:
        """The workers' own state after the last round: ``{table: {worker: row}}``; rows on disk are read."""
        self._outbox.own.settle(self._keeper.state.last)
        return self._outbox.own.kept()
