"""View of the Trainer that user code finds as ``self.trainer`` on a worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

from torch import Tensor
from torch.optim import Optimizer

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.population import QuietTrainer, Worker
from lightning_fed.wire import LocalTraining
from lightning_fed.worker.loop_view import refuse_to_set, seen

_SOMEONES_BATCHES = 1000
"""Enough that a small part of it, such as a warm-up of a hundredth, is not nothing."""


@final
class NoSingleWorkerError(RuntimeError):
    """Error of code that reads one worker's data before there is a worker, or while several train together."""


@final
class TrainerView:
    """The server's Trainer, but the fit is the local training and the optimizers are the worker's.

    Of the fit are also its limits, ``should_stop`` and the number of devices: a worker trains in one process, however
    many there are. ``current_epoch`` and ``global_step`` are the server's, so that what depends on them goes on from
    round to round.

    ``datamodule``, ``train_dataloader`` and ``lightning_module`` are the worker's own: the server's would show it the
    other workers' data, and a module that is not trained here. So are the optimizers of ``strategy``, and the metrics:
    ``callback_metrics`` and its like hold what this worker has logged in this pass and what the last validation has, as
    in a Trainer's fit, and nothing else of the server's.

    Its loops and its strategy can be read only. An attribute that user code sets is the worker's own, and gone before
    the next worker trains. Of the Trainer's, only ``should_stop`` has an effect: it ends this worker's training after
    the current batch.

    Args:
        trainer: The server's Trainer, which answers everything else.
        module: The workers' copy of the user's module.
    """

    accumulate_grad_batches = 1
    gradient_clip_algorithm = None
    gradient_clip_val = None
    global_rank = 0
    is_global_zero = True
    limit_train_batches = 1.0
    local_rank = 0
    min_epochs = 0
    min_steps = None
    num_devices = 1
    node_rank = 0
    num_nodes = 1
    overfit_batches = 0.0
    predict_dataloaders = None
    test_dataloaders = None
    val_dataloaders = None
    world_size = 1

    current_epoch: int
    estimated_stepping_batches: int | float
    global_step: int
    is_last_batch: bool
    lr_scheduler_configs: list[Any]
    max_epochs: int
    max_steps: int
    num_training_batches: int | float
    optimizers: list[Optimizer]
    should_stop: bool
    asked_for_data: bool
    """Whether code has read the worker's data since :meth:`set_length`."""
    _rounds: float
    _trainer: pl.Trainer | QuietTrainer
    _module: pl.LightningModule
    _said: set[str]
    _worker: Worker | None
    _logged: Callable[[], dict[str, Tensor]] | None
    _wrap: Callable[[Optimizer], Any]

    def __init__(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        vars(self).update(_trainer=trainer, _server=trainer, _module=module, _said=set(), _rounds=1.0, _logged=None)
        self.wrap(_as_it_is)
        self.set_length(LocalTraining(), None)

    @property
    def datamodule(self) -> pl.LightningDataModule:
        """The worker's datamodule."""
        return self._single("datamodule").datamodule

    @property
    def train_dataloader(self) -> Any:
        """The loader that the worker's datamodule gave."""
        return self._single("train_dataloader").batches.loader

    @property
    def lightning_module(self) -> pl.LightningModule:
        """The workers' copy of the user's module."""
        return self._module

    model = lightning_module

    @property
    def strategy(self) -> StrategyView:
        """The server's strategy, with the worker's module and optimizers."""
        return StrategyView(self)

    @property
    def callbacks(self) -> tuple[pl.Callback, ...]:
        """The server's callbacks, to be read only: one that is added on a worker would be the server's."""
        server: Any = self._trainer
        return tuple(server.callbacks)

    @property
    def callback_metrics(self) -> LoggedHere:
        """The values that the server's last validation has logged, and those of the worker in this pass.

        At the end of the pass also what is reduced over it.
        """
        if self._logged is None:
            raise _no_single_worker("callback_metrics")
        return LoggedHere(self._logged())

    logged_metrics = callback_metrics
    progress_bar_metrics = callback_metrics

    def _single(self, name: str) -> Worker:
        vars(self)["asked_for_data"] = True
        if self._worker is None:
            raise _no_single_worker(name)
        return self._worker

    def __getattr__(self, name: str) -> Any:
        return seen(self, getattr(self._trainer, name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "should_stop" and value and name not in self._said:
            self._said.add(name)
            rank_zero_warn(
                "self.trainer.should_stop = True on a worker ends its training in this round, and not the run; to end "
                "that, set it in a callback, such as EarlyStopping"
            )
        elif name != "should_stop" and name not in self._said and self._is_of_trainers(name):
            self._said.add(name)
            rank_zero_warn(
                f"self.trainer.{name} = ... on a worker does not change its training, nor the server's Trainer; of a "
                "Trainer's attributes only should_stop has an effect there"
            )
        vars(self)[name] = value

    def _is_of_trainers(self, name: str) -> bool:
        server = vars(self)["_server"]
        return name in vars(server) or any(name in vars(kind) for kind in type(server).__mro__)

    @property
    def is_quiet(self) -> bool:
        """Whether what user code logs by the Trainer is hidden."""
        return isinstance(self._trainer, QuietTrainer)

    def be_quiet(self, quiet: bool) -> None:
        """Hide what user code logs by the Trainer, or show it.

        Args:
            quiet: Whether to hide it.
        """
        own = vars(self)
        if quiet != self.is_quiet:
            own["_trainer"] = QuietTrainer(own["_server"]) if quiet else own["_server"]

    def expect(self, rounds: float) -> None:
        """Set the limits of the fit to those of a worker's training in the whole run.

        Args:
            rounds: In how many rounds it is expected to take part.
        """
        vars(self)["_rounds"] = rounds

    def expect_someone(self, local: LocalTraining) -> None:
        """Set a length of a worker's training to be shown before there is a worker whose batches can be counted.

        Args:
            local: Epochs or steps.
        """
        self.set_length(local, _SOMEONES_BATCHES)

    def show(self, logged: Callable[[], dict[str, Tensor]]) -> None:
        """Set what user code reads of the worker's logged values.

        Args:
            logged: Returns what it has logged so far, by name.
        """
        vars(self)["_logged"] = logged

    def wrap(self, wrapped: Callable[[Optimizer], Any]) -> None:
        """Set the function that wraps optimizers for user code.

        Args:
            wrapped: Returns a ``LightningOptimizer``.
        """
        vars(self)["_wrap"] = wrapped

    def set_length(
        self,
        local: LocalTraining,
        num_batches: int | None,
        round: int = 0,
        epoch: int = 0,
        worker: Worker | None = None,
    ) -> None:
        """Set the length of one worker's local training, and remove the attributes that the last worker's code has set.

        Args:
            local: Epochs or steps.
            num_batches: The number of batches in an epoch, or None if only a pass over the data can count them.
            round: The number of the server's steps so far.
            epoch: The server's epoch.
            worker: The worker; None: several train together.
        """
        batches = float("inf") if num_batches is None else num_batches
        epochs, steps = local.epochs * self._rounds, (local.steps or 0) * self._rounds
        own = vars(self)
        kept = {name: own[name] for name in ("_trainer", "_server", "_module", "_said", "_rounds", "_logged", "_wrap")}
        own.clear()
        own.update(
            **kept,
            _worker=worker,
            asked_for_data=False,
            current_epoch=epoch,
            estimated_stepping_batches=_whole(batches * epochs if local.steps is None else steps),
            global_step=round,
            is_last_batch=False,
            lr_scheduler_configs=[],
            max_epochs=_limit(epochs) if local.steps is None else -1,
            max_steps=-1 if local.steps is None else _limit(steps),
            num_training_batches=batches,
            optimizers=[],
            should_stop=False,
        )

    def use(self, optimizers: Sequence[Optimizer], lr_scheduler_configs: Sequence[Any]) -> None:
        """Set the worker's optimizers and their schedulers."""
        vars(self).update(optimizers=list(optimizers), lr_scheduler_configs=list(lr_scheduler_configs))


@final
class StrategyView:
    """The server's strategy, with the module and the optimizers of a worker.

    Args:
        trainer: The worker's view of the Trainer.
    """

    _view: TrainerView

    def __init__(self, trainer: TrainerView) -> None:
        vars(self)["_view"] = trainer

    def __setattr__(self, name: str, value: Any) -> None:
        refuse_to_set(f"strategy.{name}")

    @property
    def lightning_module(self) -> pl.LightningModule:
        """The workers' copy of the user's module."""
        return self._view.lightning_module

    model = lightning_module

    @property
    def optimizers(self) -> list[Optimizer]:
        """The worker's optimizers."""
        return self._view.optimizers

    @property
    def _lightning_optimizers(self) -> list[Any]:
        """The optimizers, where ``self.optimizers()`` looks for them."""
        return [self._view._wrap(optimizer) for optimizer in self._view.optimizers]

    @property
    def lr_scheduler_configs(self) -> list[Any]:
        """The worker's schedulers."""
        return self._view.lr_scheduler_configs

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_view"]._trainer.strategy, name)


@final
class LoggedHere(dict[str, Tensor]):
    """Logged values where a worker trains, by name; the error for a missing one names the place to log or read it."""

    def __missing__(self, name: str) -> Tensor:
        raise KeyError(
            f"self.trainer.callback_metrics[{name!r}] on a worker: it holds what the worker has logged in this pass "
            f"and what the server's last validation has ({', '.join(map(repr, self)) or 'nothing yet'}), and nothing "
            "else of the server's; log it in local training, or read it in a callback, on the server"
        )


def _as_it_is(optimizer: Optimizer) -> Any:
    return optimizer


def _no_single_worker(name: str) -> NoSingleWorkerError:
    return NoSingleWorkerError(
        f"self.trainer.{name} is one worker's, and here workers train together; use engine='auto' or 'sequential'"
    )


def _whole(number: float) -> int | float:
    return number if math.isinf(number) else math.ceil(number)


def _limit(number: float) -> int:
    return -1 if math.isinf(number) else math.ceil(number)
