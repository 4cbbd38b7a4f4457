"""Guards, which the server calls before, in and after a round, and the guard of a run without a promise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, final

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.privacy import Privacy, PrivateRun
from lightning_fed.selection import CohortSampler, Uniform
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.logs import Curves
from lightning_fed.wire import GlobalModel, Job, LocalTraining


class Guard(ABC):
    """Interface between a run and its promise, called at every step of the run, also without a promise."""

    promise: Privacy | None = None
    """The promise, if there is one."""

    run: PrivateRun | None = None
    """The account of what has been spent; None before a fit, and if nothing is promised."""

    @abstractmethod
    def check(self, model: GlobalModel, module: pl.LightningModule) -> None:
        """Refuse a module with values that would leave the workers, but that the promise does not cover.

        Args:
            model: The global model.
            module: The user's module.

        Raises:
            ValueError: If there are such values; the message contains the fix.
        """

    @abstractmethod
    def sampling(self, processes: Processes) -> Sampling:
        """Return the settings of the sampling of cohorts.

        Args:
            processes: The processes, which must all sample alike.
        """

    @abstractmethod
    def check_evaluation(
        self, datamodule: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule, stage: str
    ) -> None:
        """Refuse an evaluation that would release values without noise.

        Raises:
            ValueError: If the workers' own data would be evaluated, in training or apart from it.
        """

    @abstractmethod
    def start(self, datamodule: FederatedDataModule, trainer: pl.Trainer, local: LocalTraining) -> None:
        """Begin a fit, or resume the run of a checkpoint or of an earlier fit.

        Raises:
            ValueError: If nothing can be promised in this setting.
        """

    @property
    @abstractmethod
    def shows_metrics(self) -> bool:
        """Whether losses, metrics and counts of workers may be shown."""

    @property
    @abstractmethod
    def least_replies(self) -> int:
        """The number of replies below which a round must release nothing."""

    @abstractmethod
    def aggregator(self, own: Aggregator[Any]) -> Aggregator[Any]:
        """Return the aggregator of the run.

        Args:
            own: The user's aggregator, or the algorithm's.
        """

    @abstractmethod
    def begin_round(self, job: Job, drawn: int) -> Job:
        """Charge the account for the round's releases, and return the job with the numbers of the promise.

        Args:
            job: The job of a cohort.
            drawn: The number after that of the last cohort that the Trainer has taken.

        Raises:
            RoundError: If the cohort has been charged already, or was not drawn.
        """

    @abstractmethod
    def whole_step(self, parameters: Tensors) -> AbstractContextManager[None]:
        """Return a context in which the server optimizer steps; a step that is refused leaves no trace of it.

        Args:
            parameters: The trained parameters.
        """

    @abstractmethod
    def for_data(self, trainer: pl.Trainer) -> pl.Trainer:
        """Return the Trainer as the workers' datamodules see it.

        Args:
            trainer: The server's Trainer.
        """

    @abstractmethod
    def affords_another(self) -> bool:
        """Whether another round keeps within the budget."""

    @abstractmethod
    def stop(self, trainer: pl.Trainer) -> None:
        """End the training: the next round would exceed the budget.

        Raises:
            BudgetError: If the Trainer's ``min_steps`` or ``min_epochs`` require further rounds.
        """

    @abstractmethod
    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        """Show the spent budget, and stop the Trainer if another round would exceed the budget.

        Args:
            trainer: The Trainer.
            curves: The curves in which the budget is shown.
            step: The number of the finished round.
            due: Whether this round's curves are drawn.
        """

    @abstractmethod
    def end(self) -> None:
        """End a fit: close the record of its releases."""

    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """Return the promise's hyperparameters for loggers."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """Return the state for a checkpoint."""

    @abstractmethod
    def account(self) -> dict[str, Any]:
        """Return the account for a checkpoint, stretch by stretch; empty if there is none."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool, path: str | Path | None = None) -> None:
        """Load the state of a checkpoint, to resume or to evaluate it.

        Args:
            state: The result of :meth:`state_dict`; None: the checkpoint was not written by a private run.
            fitting: Whether the run goes on training.
            path: The checkpoint's file.

        Raises:
            ValueError: If training would resume without the record of the spent budget.
        """

    @abstractmethod
    def handed_over(self, state_dict: dict[str, Any]) -> None:
        """Add the spent budget to the weights that a spawned process returns to its parent.

        Args:
            state_dict: The weights, changed in place.
        """

    @abstractmethod
    def take_over(self, state_dict: dict[str, Any]) -> None:
        """Remove the entry of :meth:`handed_over`, if there is one, and continue from it.

        Args:
            state_dict: The weights, changed in place.
        """


class Sampling(NamedTuple):
    """Settings of the sampling of cohorts.

    Args:
        default: The kind of sampler, if the user has chosen none.
        seed: The seed of cohorts; None: the seed of the run.
    """

    default: type[CohortSampler] = Uniform
    seed: int | None = None


@final
class Open(Guard):
    """Guard of a run without a promise."""

    def check(self, model: GlobalModel, module: pl.LightningModule) -> None:
        pass

    def sampling(self, processes: Processes) -> Sampling:
        return Sampling()

    def check_evaluation(
        self, datamodule: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule, stage: str
    ) -> None:
        pass

    def start(self, datamodule: FederatedDataModule, trainer: pl.Trainer, local: LocalTraining) -> None:
        pass

    @property
    def shows_metrics(self) -> bool:
        return True

    @property
    def least_replies(self) -> int:
        return 1

    def aggregator(self, own: Aggregator[Any]) -> Aggregator[Any]:
        return own

    def begin_round(self, job: Job, drawn: int) -> Job:
        return job

    def whole_step(self, parameters: Tensors) -> AbstractContextManager[None]:
        return nullcontext()

    def for_data(self, trainer: pl.Trainer) -> pl.Trainer:
        return trainer

    def affords_another(self) -> bool:
        return True

    def stop(self, trainer: pl.Trainer) -> None:
        pass

    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        pass

    def end(self) -> None:
        pass

    def hyperparameters(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> None:
        return None

    def account(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool, path: str | Path | None = None) -> None:
        if state is not None and fitting:
            rank_zero_warn(
                "the checkpoint is that of a private run, but this one has no privacy=...: from here on nothing is "
                "promised to the workers"
            )

    def handed_over(self, state_dict: dict[str, Any]) -> None:
        pass

    def take_over(self, state_dict: dict[str, Any]) -> None:
        pass
