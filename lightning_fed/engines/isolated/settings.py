"""Settings that a child has from the beginning of a fit."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from lightning_fed._lightning import pl
from lightning_fed.state import OwnState
from lightning_fed.worker.copying import copied
from lightning_fed.worker.outbox import Outbox, tables_of
from lightning_fed.worker.pickling import dumps


@final
@dataclass(frozen=True)
class Settings:
    """Code and settings that a node has from the beginning.

    Args:
        module: The user's module, pickled.
        outbox: The steps between local training and the wire; without anyone's state.
        tables: The tables of the workers' own state.
        engine: The options of :class:`Sequential`.
        trainer: The options of a Trainer with the server's device and precision.
        seed: The seed of the run, by which a worker's data is set up.
        threads: The number of threads, which decides the order of sums.
        default_dtype: torch's default dtype.
        matmul_precision: The precision of float32 products.
        deterministic: Whether torch is to use deterministic algorithms only.
    """

    module: bytes
    outbox: Outbox
    tables: tuple[str, ...]
    engine: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    threads: int
    default_dtype: torch.dtype
    matmul_precision: str
    deterministic: bool


def settings_for(
    module: pl.LightningModule, trainer: pl.Trainer, outbox: Outbox, engine: dict[str, Any], seed: int
) -> bytes:
    """Write what a child needs as bytes.

    Args:
        module: The user's module.
        trainer: The server's Trainer.
        outbox: The steps between local training and the wire.
        engine: The options of :class:`Sequential`.
        seed: The seed of the run.

    Raises:
        ValueError: If the module or the steps cannot be sent to another process.
    """
    device = trainer.strategy.root_device
    try:
        return pickle.dumps(
            Settings(
                module=dumps(copied(module, trainer), trainer),
                outbox=replace(outbox, own=OwnState()),
                tables=tables_of(outbox.algorithm, outbox.transforms, outbox.kept),
                engine=engine,
                trainer={
                    "accelerator": device.type,
                    "devices": 1 if device.index is None else [device.index],
                    "precision": trainer.precision,
                    "max_epochs": -1 if trainer.max_epochs is None else trainer.max_epochs,
                    "max_steps": trainer.max_steps,
                    "default_root_dir": trainer.default_root_dir,
                    "overfit_batches": trainer.overfit_batches,  # type: ignore[attr-defined]
                    "reload_dataloaders_every_n_epochs": trainer.reload_dataloaders_every_n_epochs,  # type: ignore[attr-defined]
                    "logger": False,
                    "enable_checkpointing": False,
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                },
                seed=seed,
                threads=torch.get_num_threads(),
                default_dtype=torch.get_default_dtype(),
                matmul_precision=torch.get_float32_matmul_precision(),
                deterministic=torch.are_deterministic_algorithms_enabled(),
            )
        )
    except Exception as error:
        raise ValueError(
            f'engine="isolated": {type(module).__name__} cannot be sent to another process ({_first_line(error)}); '
            "define classes and functions at the top level of a file, and keep open files and lambdas out of the "
            "module's attributes, or, where a layer itself cannot be pickled, such as a parametrized one, take "
            'engine="sequential"'
        ) from error


def _first_line(error: Exception) -> str:
    """Return an exception's message without what follows its first line, such as links."""
    return str(error).partition("\n")[0].removesuffix(" See:")
