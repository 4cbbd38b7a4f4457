"""Guards, which the server asks before, in and after a round, and that of a run in which nothing is promised."""

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
    """Answers the server at every step of a run, whether or not anything is promised to the workers."""

    promise: Privacy | None = None
    """The promise, if there is one."""

    run: PrivateRun | None = None
    """The account of what has been spent; None before a fit, and if nothing is promised."""

    @abstractmethod
    def check(self, model: GlobalModel, module: pl.LightningModule) -> None:
        """Refuse a module of which more would leave the workers than the promise covers.

        Args:
            model: The global model.
            module: The user's module.

        Raises:
            ValueError: Saying what is wrong and what to do.
        """

    @abstractmethod
    def sampling(self, processes: Processes) -> Sampling:
        """Return how cohorts are to be sampled.

        Args:
            processes: The processes, which must all sample alike.
        """

    @abstractmethod
    def check_evaluation(
        self, datamodule: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule, stage: str
    ) -> None:
        """Refuse evaluation that would release what no noise covers.

        Raises:
            ValueError: If the workers' own data would be evaluated, in training or apart from it.
        """

    @abstractmethod
    def start(self, datamodule: FederatedDataModule, trainer: pl.Trainer, local: LocalTraining) -> None:
        """Begin a fit, or go on with the run of a checkpoint or of an earlier fit.

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
        """Charge for what the round will release, and return the job with what workers need to keep the promise.

        Args:
            job: What the workers of a cohort are to be sent.
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
            BudgetError: If the Trainer is told to go on for longer, by ``min_steps`` or ``min_epochs``.
        """

    @abstractmethod
    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        """Show what has been spent, and stop the Trainer if another round would exceed the budget.

        Args:
            trainer: The Trainer.
            curves: Where to show it.
            step: The round that is over.
            due: Whether this round's curves are drawn.
        """

    @abstractmethod
    def end(self) -> None:
        """End a fit: sign off what it has released."""

    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """Return what loggers show of the promise."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """Return what a checkpoint keeps."""

    @abstractmethod
    def account(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the account, stretch by stretch; empty if there is none."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool, path: str | Path | None = None) -> None:
        """Go on from a checkpoint, or evaluate it.

        Args:
            state: The result of :meth:`state_dict`; None: the checkpoint was not written by a private run.
            fitting: Whether the run goes on training.
            path: The checkpoint's file.

        Raises:
            ValueError: If it is to go on without knowing what has been spent.
        """

    @abstractmethod
    def handed_over(self, state_dict: dict[str, Any]) -> None:
        """Add what has been spent to the weights that a process which ends hands to the one that started it.

        Args:
            state_dict: The weights, changed in place.
        """

    @abstractmethod
    def take_over(self, state_dict: dict[str, Any]) -> None:
        """Take out what :meth:`handed_over` has added, if anything, and go on with it.

        Args:
            state_dict: The weights, changed in place.
        """


class Sampling(NamedTuple):
    """Settings by which cohorts are sampled.

    Args:
        default: The kind of sampler, if the user has chosen none.
        seed: Decides who is chosen; None: the seed of the run.
    """

    default: type[CohortSampler] = Uniform
    seed: int | None = None


@final
class Open(Guard):
    """Guards nothing: nothing is promised."""

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
