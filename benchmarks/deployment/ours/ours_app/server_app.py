"""A stock Trainer with the engine Flower; the Grid is watched."""

from typing import Any

import pytorch_lightning as pl
import torch
from deployed.lightning import Module
from deployed.task import SITES
from deployed.watched import Notes, Watched
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.flower import Flower, workers

app = ServerApp()


class Marks(pl.Callback):
    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.reported: list[tuple[int, int]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        if not self.notes.ends:
            self.notes.begin()

    def on_train_batch_end(self, trainer: pl.Trainer, fed: Any, *_: Any) -> None:
        self.reported.append((fed.last_report.bytes_down, fed.last_report.bytes_up))
        self.notes.end_round()


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    torch.set_num_threads(1)
    notes = Notes(str(config["out"]))
    watched: Any = Watched(grid, notes)
    fed = FederatedModule(Module(str(config["kind"])), engine=Flower(watched))
    marks = Marks(notes)
    trainer = pl.Trainer(
        max_steps=int(config["rounds"]),
        max_epochs=-1,
        default_root_dir=notes.folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,  # Flower's own strategy writes none
        callbacks=[marks],
    )
    trainer.fit(fed, FederatedDataModule(workers(watched, nodes=len(SITES), names=SITES)))
    notes.more["reported"] = marks.reported
    notes.write(next(iter(fed.module.parameters())).flatten()[:3].tolist())
