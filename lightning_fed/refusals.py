"""What cannot work, refused at the start of a run and in words that say what to do instead."""

from __future__ import annotations

from lightning_fed._lightning import DDPStrategy, SingleDeviceStrategy, pl, rank_zero_warn
from lightning_fed.data import FederatedDataModule
from lightning_fed.hooks import UNUSED_HOOKS, overrides


def refuse_unsupported(module: pl.LightningModule, trainer: pl.Trainer) -> None:
    """Refuse a module or a Trainer that federated training cannot work with.

    Args:
        module: The user's module.
        trainer: The Trainer that is about to run.

    Raises:
        TypeError: If the data is no FederatedDataModule.
        ValueError: If the module or the strategy cannot work; the message says why and what to do.
    """
    name = type(module).__name__
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, FederatedDataModule):
        raise TypeError(
            "FederatedModule needs a FederatedDataModule, as in trainer.fit(fed, FederatedDataModule({'bob': ..., "
            "'alice': ...})), not " + ("no datamodule" if datamodule is None else type(datamodule).__name__)
        )
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise ValueError(
            f"strategy {type(trainer.strategy).__name__} cannot work: it divides one model over devices, but every "
            "process here holds the whole global model and trains its own workers. Use strategy='auto' or 'ddp'"
        )
    if trainer.state.fn != "fit":
        return
    if not module.automatic_optimization:
        raise ValueError(
            f"{name} uses manual optimization (automatic_optimization = False), which local training cannot run: "
            "return the loss from training_step and let configure_optimizers() give one optimizer"
        )
    for required in ("training_step", "configure_optimizers"):
        if not overrides(module, required):
            raise ValueError(f"{name} has no {required}(); local training needs it")
    for hook, reason in UNUSED_HOOKS.items():
        if overrides(module, hook):
            rank_zero_warn(f"{name}.{hook}() is not used: {reason}")
