"""View of the Trainer that user code finds as ``self.trainer`` when it is about a batch of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

from lightning_fed._lightning import pl
from lightning_fed.population import EvaluationKind, Worker


@final
class BatchTrainer:
    """The Trainer, but the data are those that a batch comes from: a worker's own, or the central ones.

    Args:
        trainer: The Trainer, which answers everything else and takes what is set.
        module: The user's module.
        datamodule: The datamodule that the batch comes from.
        worker: Whose that is; None: it is the central one.
    """

    def __init__(
        self, trainer: pl.Trainer, module: pl.LightningModule, datamodule: pl.LightningDataModule, worker: Worker | None
    ) -> None:
        vars(self).update(
            _trainer=trainer, lightning_module=module, model=module, datamodule=datamodule, _worker=worker
        )

    def __getattr__(self, name: str) -> Any:
        if name == "_trainer":  # it is being copied
            raise AttributeError(name)
        return getattr(self._trainer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._trainer, name, value)

    @property
    def val_dataloaders(self) -> Any:
        """The loaders that the batch may come from."""
        return self._loaders("val")

    @property
    def test_dataloaders(self) -> Any:
        """The loaders that the batch may come from."""
        return self._loaders("test")

    @property
    def predict_dataloaders(self) -> Any:
        """The loaders that the batch may come from."""
        return self._loaders("predict")

    def _loaders(self, kind: EvaluationKind) -> Any:
        if self._worker is None:
            return getattr(self._trainer, f"{kind}_dataloaders")
        loaders = self._worker.evaluation_loaders(kind)
        return loaders[0] if len(loaders) == 1 else list(loaders)


@contextmanager
def about_data(trainer: pl.Trainer, parts: Sequence[pl.LightningModule], name: str | None) -> Iterator[None]:
    """Let the user's module and its parts see the datamodule of a batch on their Trainer for a while.

    Args:
        trainer: The Trainer, whose datamodule is a FederatedDataModule.
        parts: The user's module, and its parts that are LightningModules.
        name: The worker whose batch it is; None: it is of central data.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    worker = None if name is None else data.pool[name]
    datamodule = data.val if worker is None else worker.datamodule
    if datamodule is None or data.federation is not data:  # that has the attributes of what it stands in for
        yield
        return
    seen = BatchTrainer(trainer, parts[0], datamodule, worker)
    before = [vars(part).get("_trainer") for part in parts]
    for part in parts:
        vars(part)["_trainer"] = seen
    try:
        yield
    finally:
        for part, theirs in zip(parts, before, strict=True):
            vars(part)["_trainer"] = theirs
