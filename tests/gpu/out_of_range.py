"""A run in which worker ``bad`` has a label that is no class: on a GPU an assertion fails that ends all work there.

python out_of_range.py FOLDER ENGINE raise|drop
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import pytorch_lightning as pl
import torch
from menagerie import Examples, member

from lightning_fed import FederatedDataModule, FederatedModule


class Late(pl.Callback):
    """Spoils a label before round 2."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            workers["bad"].rows.tensors[1][3] = 99


workers = {name: Examples(i, 8) for i, name in enumerate(("ann", "bob", "cyd", "dee", "bad"))}


def main(folder: str, engine: str, on_worker_error: Any) -> None:
    module = member("tied")
    trainer = pl.Trainer(
        max_steps=4,
        accelerator="gpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Late(), pl.callbacks.ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1)],
    )
    fed = FederatedModule(module, engine=engine, on_worker_error=on_worker_error)
    trainer.fit(fed, FederatedDataModule(dict(workers), rounds_per_epoch=4))
    assert [failure.worker for failure in fed.last_report.failures] == ["bad"]
    assert all(torch.isfinite(p).all() for p in module.parameters())
    print("to the end")


if __name__ == "__main__":
    main(*sys.argv[1:])
