"""Routes of the Lightning hooks that the user's module defines.

A Trainer calls hooks on the outer module only, which is the server. Those that are about the server's work (a fit, an
evaluation, a checkpoint) are passed on to the user's module; those that are about a batch or an optimizer step are
called on the worker's copy during local training. ``tests/test_hooks.py`` holds these tables against Lightning's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from lightning_fed._lightning import is_overridden, is_param_in_hook_signature, pl, rank_zero_warn

SERVER_HOOKS = (
    "configure_callbacks",
    "configure_model",
    "configure_sharded_model",
    "on_fit_end",
    "on_fit_start",
    "on_predict_batch_end",
    "on_predict_batch_start",
    "on_predict_end",
    "on_predict_epoch_end",
    "on_predict_epoch_start",
    "on_predict_model_eval",
    "on_predict_start",
    "on_test_batch_end",
    "on_test_batch_start",
    "on_test_end",
    "on_test_epoch_end",
    "on_test_epoch_start",
    "on_test_model_eval",
    "on_test_model_train",
    "on_test_start",
    "on_train_end",
    "on_train_start",
    "on_validation_batch_end",
    "on_validation_batch_start",
    "on_validation_end",
    "on_validation_epoch_end",
    "on_validation_epoch_start",
    "on_validation_model_eval",
    "on_validation_model_train",
    "on_validation_model_zero_grad",
    "on_validation_start",
    "prepare_data",
    "setup",
    "teardown",
)
"""Called by the Trainer on the server, passed on to the user's module (which then holds the global model)."""

BATCH_HOOKS = frozenset(hook for hook in SERVER_HOOKS if hook.endswith(("_batch_start", "_batch_end")))
"""Those of them that are about a batch of an evaluation."""

AFTER_BATCHES = frozenset(
    hook
    for hook in SERVER_HOOKS
    if hook.startswith(("on_validation", "on_test", "on_predict")) and hook.endswith("_end")
) - BATCH_HOOKS | {"configure_callbacks"}
"""Those of them that are about all workers' batches, or a whole run: where one worker is evaluated for a server
elsewhere, they are called there."""

EVALUATION_STEPS = ("validation_step", "test_step")
"""Passed on with the user's own batch; present on the server exactly if the user's module defines them."""

LOCAL_HOOKS = (
    "backward",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "on_after_backward",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "on_train_batch_end",
    "on_train_batch_start",
    "on_train_epoch_end",
    "on_train_epoch_start",
    "optimizer_step",
    "optimizer_zero_grad",
)
"""Called on the worker's copy during local training; an epoch there is one pass over the worker's data."""

TRANSFER_HOOKS = ("on_after_batch_transfer", "on_before_batch_transfer", "transfer_batch_to_device")
"""Called around every batch, in local training and in evaluation; a worker's datamodule may define them as well, and
then its own win, as with a Trainer."""

CHECKPOINT_HOOKS = ("on_load_checkpoint", "on_save_checkpoint")
"""Passed on with a checkpoint that looks like one of the user's module alone."""

UNUSED_HOOKS = {
    "train_dataloader": "training data comes from the workers of a FederatedDataModule",
    "val_dataloader": "evaluation data comes from FederatedDataModule(val=...) or from the workers",
    "test_dataloader": "evaluation data comes from FederatedDataModule(val=...) or from the workers",
    "predict_dataloader": "prediction data comes from FederatedDataModule(val=...) or from the workers",
}
"""Never called in a fit, and why, which a warning names if a user's module defines one. An evaluation without
data goes through those of the module, as a Trainer does."""


def overrides(module: pl.LightningModule, hook: str) -> bool:
    """Whether the user's module defines a hook of its own."""
    return hook in _KNOWN and is_overridden(hook, module, pl.LightningModule)


_KNOWN = frozenset(dir(pl.LightningModule))  # of another version of Lightning, some of the tables' may be missing


def lightning_parts(module: pl.LightningModule) -> Sequence[pl.LightningModule]:
    """Return the user's module, and then those of its parts that are LightningModules: they log and see a Trainer.

    That takes a walk through all layers: what is called around each batch is given the parts that were found before.
    """
    return [part for part in module.modules() if isinstance(part, pl.LightningModule)]


@contextmanager
def logging_through(parts: Sequence[pl.LightningModule], log: Callable[..., None]) -> Iterator[None]:
    """Let ``self.log`` in the user's module and its parts call ``log(name, value, **options)`` for a while.

    Lightning lets only the outermost module log, so a wrapped one would raise. ``log_dict`` calls ``log``. And what
    ``self.optimizers()`` and ``self.lr_schedulers()`` give is said to be the server's.

    Args:
        parts: Its :func:`lightning_parts`.
        log: Takes the values.
    """
    module = parts[0]

    def positional(name: str, value: Any, *places: Any, **options: Any) -> None:
        log(name, value, **dict(zip(_LOG_OPTIONS, places, strict=False)), **options)

    for part in parts:
        part.__dict__["log"] = positional
    module.__dict__.update({name: partial(_servers, module, name) for name in _OF_THE_SERVER})
    try:
        yield
    finally:
        for name in _OF_THE_SERVER:
            del module.__dict__[name]
        for part in parts:
            del part.__dict__["log"]


_OF_THE_SERVER = ("optimizers", "lr_schedulers")


def _servers(module: pl.LightningModule, name: str, *arguments: Any, **options: Any) -> Any:
    rank_zero_warn(
        f"self.{name}() in a hook or step of {type(module).__name__} that runs on the server gives the server's, which "
        "take the aggregated update; a worker's own are there in its local training, as in training_step() or "
        "on_train_epoch_end()"
    )
    return getattr(type(module), name)(module, *arguments, **options)


_LOG_OPTIONS = tuple(inspect.signature(pl.LightningModule.log).parameters)[3:]


def place_batch(
    batch: Any, device: torch.device, datamodule: pl.LightningDataModule | None, module: pl.LightningModule, index: int
) -> Any:
    """Bring a batch to the device, through the hooks of its datamodule or else of the user's module.

    Args:
        batch: The user's own batch.
        device: Where it is to go.
        datamodule: The datamodule that it comes from.
        module: The user's module.
        index: The dataloader's index.
    """

    def hook(name: str) -> Any:
        if datamodule is not None and is_overridden(name, datamodule, pl.LightningDataModule):
            return getattr(datamodule, name)
        return getattr(module, name)

    batch = hook("on_before_batch_transfer")(batch, index)
    transfer = hook("transfer_batch_to_device")
    batch = transfer(batch, device, index)
    return hook("on_after_batch_transfer")(batch, index)


def step_arguments(step: Any, batch: Any, batch_idx: int, *rest: int) -> tuple[Any, ...]:
    """The arguments that a user's ``*_step`` takes: it may leave out ``batch_idx`` and ``dataloader_idx``."""
    arguments: tuple[Any, ...] = (batch,)
    if is_param_in_hook_signature(step, "batch_idx", min_args=2):
        arguments += (batch_idx,)
    if rest and is_param_in_hook_signature(step, "dataloader_idx", min_args=3):
        arguments += rest
    return arguments
