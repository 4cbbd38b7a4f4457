"""A view of the Trainer for a worker's datamodule, which can be sent to the processes of its loaders."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import Any, final

from torch.utils.data import DataLoader

from lightning_fed._lightning import CombinedLoader, pl

_PLAIN = (
    "current_epoch",
    "default_root_dir",
    "global_rank",
    "global_step",
    "local_rank",
    "max_epochs",
    "max_steps",
    "node_rank",
    "num_nodes",
    "predicting",
    "sanity_checking",
    "testing",
    "training",
    "validating",
    "world_size",
)


@final
class TrainerOfData:
    """A view of the Trainer of which only plain numbers are sent to a loader's process.

    A datamodule is sent to a spawned process (``multiprocessing_context="spawn"``) whenever a part of the loader is one
    of its methods. Its Trainer would be sent with it, including the server in the middle of a round and all workers.

    Args:
        trainer: The server's Trainer.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    def __getattr__(self, name: str) -> Any:
        if name == "_trainer":  # missing while the object is being copied
            raise AttributeError(name)
        return getattr(self._trainer, name)

    def __reduce__(self) -> Any:
        return SimpleNamespace, (), {name: getattr(self._trainer, name) for name in _PLAIN}


def starts_afresh(loader: object) -> bool:
    """Whether a loader, or one of several, has processes that do not inherit the memory of this one."""
    if isinstance(loader, CombinedLoader):
        return any(map(starts_afresh, loader.flattened))
    if isinstance(loader, dict):
        return any(map(starts_afresh, loader.values()))
    if isinstance(loader, (list, tuple)):
        return any(map(starts_afresh, loader))
    if not isinstance(loader, DataLoader) or loader.num_workers == 0:
        return False
    context: Any = loader.multiprocessing_context or multiprocessing
    return str(context.get_start_method()) != "fork"
