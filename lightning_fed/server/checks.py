"""Refusals of settings that cannot work, at the start of a run, with the fix."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_fed._lightning import (
    DDPStrategy,
    SingleDeviceStrategy,
    _MultiProcessingLauncher,
    is_param_in_hook_signature,
    pl,
    rank_zero_info,
    rank_zero_warn,
)
from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.arguments import instance, number, text
from lightning_fed.engines import Engine, EngineOfNodes
from lightning_fed.hooks import EVALUATION_STEPS, UNUSED_HOOKS, overrides
from lightning_fed.optim import LocalLRSchedule
from lightning_fed.privacy import Privacy
from lightning_fed.secure import SecureAggregation
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.given_data import admit
from lightning_fed.transforms import Compressor, UpdateTransform
from lightning_fed.wire import LocalTraining, RoundError
from lightning_fed.worker.kept import Kept


def refuse_unsupported(module: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Refuse a module or a Trainer that federated training cannot work with.

    Args:
        module: The user's module.
        trainer: The Trainer that is about to run.

    Raises:
        TypeError: If there is no usable data.
        ValueError: If the module or the strategy cannot work; the message says why and what to do.
    """
    name = type(module).__name__
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise ValueError(
            f"strategy {type(trainer.strategy).__name__} cannot work: it divides one model over devices, but every "
            "process here holds the whole global model and trains its own workers. Use strategy='auto' or 'ddp'"
        )
    admit(module, trainer)
    for step in ("training_step", *EVALUATION_STEPS, "predict_step"):
        if is_param_in_hook_signature(getattr(module, step), "dataloader_iter", explicit=True):
            raise ValueError(
                f"{name}.{step}(dataloader_iter) fetches batches by itself, and here each is fetched for it, together "
                f"with whose it is: define {step}(batch, batch_idx)"
            )
    if trainer.state.fn != "fit":
        return
    if trainer.accumulate_grad_batches < 1:
        raise ValueError(
            f"Trainer(accumulate_grad_batches={trainer.accumulate_grad_batches}) must be at least 1: it is the number "
            "of cohorts whose updates make one step of the server"
        )
    limit = trainer.limit_train_batches
    is_set_alone = not trainer.overfit_batches and not trainer.fast_dev_run  # type: ignore[attr-defined]
    if is_set_alone and (isinstance(limit, int) or limit < 1):
        rank_zero_info(
            f"Trainer(limit_train_batches={limit}) counts rounds, and no batches of workers; what one of them trains "
            "in a round is FederatedModule(local_steps=...)"
        )
    for required, fix in (("training_step", ""), ("configure_optimizers", ": define it, or give --optimizer to a CLI")):
        if not overrides(module, required):
            raise ValueError(f"{name} has no {required}(); local training needs it{fix}")
    for hook, reason in UNUSED_HOOKS.items():
        if overrides(module, hook):
            rank_zero_warn(f"{name}.{hook}() is not used: {reason}")


def refuse_unreachable(data: FederatedDataModule, engine: Engine) -> None:
    """Refuse an engine that cannot reach the workers.

    Args:
        data: The workers' data.
        engine: How workers are trained.

    Raises:
        ValueError: If the data lie elsewhere and the engine trains here, or the other way round.
    """
    kind, name = type(data.workers).__name__, type(engine).__name__
    if data.lies_elsewhere and not isinstance(engine, EngineOfNodes):
        raise ValueError(
            f"the data of {kind} lie on other machines, which engine={name} does not reach; give the engine that the "
            "workers come from"
        )
    if data.names and not data.lies_elsewhere and isinstance(engine, EngineOfNodes):
        raise ValueError(
            f"engine={name} trains workers whose data lie on other machines, and those of {kind} are here; give the "
            'workers that it announces, or another engine, such as engine="auto"'
        )


def refuse_manual(module: pl.LightningModule, aggregator: Aggregator[Any], privacy: Privacy | None) -> None:
    """Refuse settings that cannot be correct for a module with manual optimization.

    Args:
        module: The user's module.
        aggregator: The aggregator of the run.
        privacy: The promise, if any.

    Raises:
        ValueError: If the module optimizes manually, and the aggregator or the promise goes by single local steps.
    """
    if module.automatic_optimization:
        return
    name = f"{type(module).__name__} optimizes manually (automatic_optimization = False)"
    if aggregator.counts_steps:
        raise ValueError(
            f"{name}, and {type(aggregator).__name__} (FedNova's) needs the number of local steps, which may be "
            "another for each of its optimizers; use another algorithm, such as FedAvg() or FedProx(mu), or automatic "
            "optimization"
        )
    if privacy is not None and privacy.unit == "example":
        raise ValueError(
            f"{name}, and {type(privacy).__name__} has to take the gradient of each example and add noise before every "
            "step; use a promise about workers, such as CentralDP or LocalDP, or automatic optimization"
        )


def refuse_two_lengths(local: LocalTraining) -> LocalTraining:
    """Return how long a worker trains in a round; refuse epochs, more than the default, where steps take their place.

    Args:
        local: The user's setting.

    Raises:
        ValueError: If both epochs and steps are set.
    """
    if local.steps is not None and local.epochs > 1:
        raise ValueError(
            f"local_epochs={local.epochs} and local_steps={local.steps} both say how long a worker trains in a round: "
            "give one of them (local_epochs=1 is as good as none)"
        )
    return local


def refuse_kept(kept: Kept, algorithm: Algorithm) -> None:
    """Refuse to keep the optimizers of workers that are trained more than once in a round, each time by others.

    Args:
        kept: The kept state of optimizers and schedulers.
        algorithm: The algorithm of the run.

    Raises:
        ValueError: If something is kept, and the algorithm trains a worker several times.
    """
    if kept.keeps is not None and algorithm.trainings > 1:
        raise ValueError(
            f"{kept.keeps}: {type(algorithm).__name__} trains a worker {algorithm.trainings} times in a round, and "
            "one optimizer cannot go on from all of them; leave it out, or use an algorithm that trains once"
        )


def is_started_by_another(trainer: pl.Trainer) -> bool:
    """Whether the process that called the Trainer has started this one, and receives its results.

    This holds for the strategies ``ddp_spawn``, ``ddp_fork`` and ``ddp_notebook``.

    Args:
        trainer: The Trainer.
    """
    started = isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)
    return started and multiprocessing.parent_process() is not None


def refuse_frozen(module: pl.LightningModule) -> None:
    """Refuse a module with nothing to train.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ValueError(f"{type(module).__name__} has no parameter with requires_grad; there is nothing to train")


def refuse_synchronised(module: pl.LightningModule, processes: int) -> None:
    """Refuse layers that take their statistics from all processes at once, each of which trains other workers.

    Args:
        module: The user's module, as the Trainer has placed it.
        processes: The number of processes.

    Raises:
        ValueError: If there are several processes and such a layer.
    """
    for path, layer in module.named_modules():
        if processes > 1 and isinstance(layer, nn.SyncBatchNorm):
            raise ValueError(
                f"{path} is a SyncBatchNorm, which would mix the batches of workers that {processes} processes train, "
                "and wait for ever where they have other numbers of batches; leave out Trainer(sync_batchnorm=True)"
            )


def refuse_parts(algorithm: object, aggregator: object, transforms: object, server_optimizer: object) -> None:
    """Refuse arguments of FederatedModule that are of another kind, such as a class in place of an instance.

    Raises:
        TypeError: Naming the argument, what it must be, and an example.
    """
    instance("algorithm", algorithm, Algorithm, "FedAvg()")
    if aggregator is not None:
        instance("aggregator", aggregator, Aggregator, "WeightedMean()")
    if isinstance(transforms, str) or not isinstance(transforms, Sequence):
        raise TypeError(f"transforms={transforms!r} must be a list of UpdateTransforms, such as [ClipNorm(1.0)]")
    for transform in transforms:
        instance("transforms", transform, UpdateTransform, "ClipNorm(1.0)")
    made = isinstance(server_optimizer, torch.optim.Optimizer)
    if made or not callable(server_optimizer):
        shown = f"{type(server_optimizer).__name__}(...)" if made else repr(server_optimizer)
        raise TypeError(
            f"server_optimizer={shown} must be a function that makes an optimizer from the global "
            "parameters, such as lambda parameters: torch.optim.Adam(parameters, lr=0.01)"
        )


def refuse_options(
    server_lr_scheduler: object,
    local_lr_schedule: object,
    state_dir: object,
    privacy: object,
    secure: object,
    broadcast: object,
) -> None:
    """Refuse arguments of FederatedModule that may be None and are something else than they are to be.

    Raises:
        TypeError: Naming the argument, what it must be, and an example.
        ValueError: If ``state_dir`` is an empty string.
    """
    if server_lr_scheduler is not None and (
        isinstance(server_lr_scheduler, torch.optim.lr_scheduler.LRScheduler) or not callable(server_lr_scheduler)
    ):
        raise TypeError(
            f"server_lr_scheduler={server_lr_scheduler!r} must be a function that makes a scheduler of the server "
            "optimizer, such as lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, step_size=10)"
        )
    if local_lr_schedule is not None:
        instance("local_lr_schedule", local_lr_schedule, LocalLRSchedule, "ExponentialDecay(0.99)")
    if state_dir is not None and not isinstance(state_dir, Path):
        text("state_dir", state_dir)
    if privacy is not None:
        instance("privacy", privacy, Privacy, "CentralDP(clip=1.0, noise_multiplier=1.0)")
    if secure is not None:
        instance("secure_aggregation", secure, SecureAggregation, "SecureAggregation(clip=10.0)")
    if broadcast is not None:
        instance("broadcast", broadcast, Compressor, "KBit(bits=8)")


def warn_of_lost_mean(algorithm: Algorithm, aggregator: Aggregator[Any] | None) -> None:
    """Warn of an aggregator that takes the place of a mean which the algorithm consists of."""
    own = type(algorithm.aggregator())
    if algorithm.lies_in_its_mean and aggregator is not None and type(aggregator.rule) is not own:
        rank_zero_warn(
            f"what {type(algorithm).__name__} does lies in its mean of updates ({own.__name__}), and "
            f"aggregator={type(aggregator).__name__} takes its place; leave one of them out"
        )


def require_seconds(argument: str, value: object) -> float | None:
    """Return a number of seconds, or None if there is no limit.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not positive and finite.
    """
    says = " must be a positive and finite number of seconds, or None for no limit"
    return None if value is None else float(number(argument, value, above=0, says=says))


def refuse_too_few(min_workers: int, cohort_size: int) -> None:
    """Refuse to wait for more workers than a cohort has.

    Args:
        min_workers: The number of workers below which a round fails.
        cohort_size: The number of workers in a cohort.

    Raises:
        ValueError: If no cohort can be enough.
    """
    if min_workers > cohort_size:
        raise ValueError(
            f"min_workers={min_workers} can never be met by a cohort of {cohort_size}; lower it or raise cohort_size"
        )


def refuse_no_round(has_run: bool, round: int) -> None:
    """Refuse a server optimizer that steps without calling its closure, which runs the round.

    Args:
        has_run: Whether the round has been run.
        round: Its number, for the message.

    Raises:
        RoundError: If it has not.
    """
    if not has_run:
        raise RoundError(
            f"round {round}: the server_optimizer did not call its closure, which trains the workers, so there is "
            "nothing to step on; let its step(closure) call closure() once"
        )
