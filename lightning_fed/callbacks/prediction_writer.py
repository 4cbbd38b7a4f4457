"""A callback that writes the predictions of ``predict``, by worker."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, final

import torch
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import text
from lightning_fed.core.shown import Shown
from lightning_fed.module import FederatedModule


@final
class PredictionWriter(Shown, pl.callbacks.BasePredictionWriter):
    """Writes the predictions of ``trainer.predict`` to a file, which ``torch.load`` reads.

    The file holds a dict: for each worker, by name, the list of the results of ``predict_step`` for its batches, in
    their order; ``""`` holds the predictions for central data. Each process writes its own file; the files of processes
    other than the first have the process's number before the suffix.

    Args:
        file: The path of the file; its folder is created. An existing file is replaced once the new one is complete.

    Raises:
        TypeError: If ``file`` is not a path, or the predicting module is not a FederatedModule.

    Example::

        trainer = pl.Trainer(callbacks=[PredictionWriter("predictions.pt")])
        trainer.predict(fed, data)
        torch.load("predictions.pt")["bob"]  # one item a batch
    """

    def __init__(self, file: str | Path = "predictions.pt") -> None:
        super().__init__(write_interval="epoch")
        self.file = Path(text("file", str(file) if isinstance(file, Path) else file))

    @override
    def write_on_epoch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, predictions: Sequence[Any], batch_indices: Any
    ) -> None:
        """Write all predictions at the end."""
        if not isinstance(pl_module, FederatedModule):
            raise TypeError(
                f"PredictionWriter is for a FederatedModule, not {type(pl_module).__name__}: wrap it in one"
            )
        by_worker: dict[str, list[Any]] = {}
        for worker, prediction in _pairs(pl_module.predicted_workers, predictions):
            by_worker.setdefault(worker or "", []).append(prediction)
        rank = trainer.global_rank
        file = self.file if rank == 0 else self.file.with_name(f"{self.file.stem}_{rank}{self.file.suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_name(f"{file.name}.part")
        torch.save(by_worker, unfinished)
        os.replace(unfinished, file)


def where_predictions_are(trainer: pl.Trainer) -> str:
    """Return a line with the path of a Trainer's predictions; empty if a user's writer has written them."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    writers = [callback for callback in callbacks if isinstance(callback, pl.callbacks.BasePredictionWriter)]
    if not writers:
        return (
            "The predictions are not written to a file; --trainer.callbacks+=PredictionWriter writes predictions.pt\n"
        )
    files = [writer.file for writer in writers if isinstance(writer, PredictionWriter)]
    return "".join(f"The predictions are in {file}, by worker\n" for file in files)


def _pairs(workers: Sequence[Any], predictions: Sequence[Any]) -> Iterator[tuple[str | None, Any]]:
    """Yield each prediction with its worker; both are lists of lists with several loaders."""
    for worker, prediction in zip(workers, predictions, strict=True):
        if isinstance(worker, list):
            yield from _pairs(worker, prediction)
        else:
            yield worker, prediction
