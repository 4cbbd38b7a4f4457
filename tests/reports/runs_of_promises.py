"""Small private runs with a record and a ledger, one of each promise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from private import ValidatedNet, ValidatedPoints, people
from pytorch_lightning.loggers import CSVLogger

from lightning_fed import FederatedDataModule, FederatedModule, Uniform
from lightning_fed._lightning import pl
from lightning_fed.privacy import DPFTRL, CentralDP, DistributedDP, LocalDP, Privacy, RecordDP

PROMISES: dict[str, tuple[Callable[[], Privacy], dict[str, Any]]] = {
    "central": (lambda: CentralDP(clip=1.0, noise_multiplier=2.0, delta=1e-3), {}),
    "central_uniform": (lambda: CentralDP(clip=1.0, noise_multiplier=2.0, delta=1e-3), {"sampler": Uniform()}),
    "ftrl": (lambda: DPFTRL(clip=1.0, noise_multiplier=3.0, delta=1e-3, epsilon=50.0), {}),
    "distributed": (lambda: DistributedDP(clip=1.0, survivors=3, noise_multiplier=4.0, delta=1e-3), {}),
    "local": (lambda: LocalDP(clip=1.0, noise_multiplier=8.0, delta=1e-3), {}),
    "record": (lambda: RecordDP(clip=1.0, sampling_rate=0.5, noise_multiplier=2.0, delta=1e-3), {}),
}
"""Each promise, with arguments of the data."""


def private_run(
    folder: Path,
    privacy: Privacy | None,
    rounds: int = 2,
    name: str = "run",
    fed: Any = None,
    ckpt_path: Path | None = None,
    **data: Any,
) -> Path:
    """Train and return the folder of the run.

    Args:
        folder: The folder of all runs.
        privacy: What is promised.
        rounds: How many rounds.
        name: The run's folder in it.
        fed: Arguments of the FederatedModule.
        ckpt_path: The checkpoint from which it goes on.
        data: Arguments of the FederatedDataModule.
    """
    logger = CSVLogger(folder, name="", version=name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is outside of the guarantee
        trainer = pl.Trainer(
            max_steps=rounds,
            max_epochs=-1,
            logger=logger,
            default_root_dir=folder,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            accelerator="cpu",
        )
        module = FederatedModule(ValidatedNet(), privacy=privacy, **(fed or {}))
        arguments = {"cohort_size": 5, "val": ValidatedPoints(99), **data}
        trainer.fit(module, FederatedDataModule(people(10), **arguments), ckpt_path=ckpt_path)
        trainer.save_checkpoint(folder / name / "last.ckpt")
    return folder / name
