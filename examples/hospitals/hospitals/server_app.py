"""The side of the server: a stock Trainer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from hospitals.model import module
from hospitals.site import read
from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Engine
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.flower import server_app
from lightning_fed.privacy import LocalDP, RecordDP

PROMISES = {
    "": None,
    "site": LocalDP(clip=0.3, noise_multiplier=1.0, delta=1e-3),
    "patients": RecordDP(clip=1.0, sampling_rate=0.1, noise_multiplier=2.0, delta=1e-4),
}


def main(workers: RemotePopulation, engine: Engine, config: Mapping[str, Any]) -> None:
    promise, registry = PROMISES[config["promise"]], DataLoader(read(Path(config["registry"])), batch_size=500)
    fed = FederatedModule(module(), engine=engine, privacy=promise, on_worker_error="drop", min_workers=2)
    # A promise covers no evaluation at the sites: then the server evaluates on what is public
    data = FederatedDataModule(workers, seed=7, val=None if promise is None else registry)
    trainer = pl.Trainer(
        max_epochs=config["rounds"],
        accelerator="cpu",
        logger=TensorBoardLogger(config["out"], name="logs", version="run", default_hp_metric=False),
        callbacks=[ModelCheckpoint(Path(config["out"], "checkpoints"), every_n_train_steps=1, save_last=True)],
        log_every_n_steps=1,
        check_val_every_n_epoch=2,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(fed, data, ckpt_path=config["resume"] or None)
    print(fed.last_evaluation if promise is None else f"epsilon {trainer.callback_metrics['epsilon']:.2f}")
    plain = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
    (public,) = plain.validate(fed.module, registry, verbose=False)  # the network is your own class again
    print(f"accuracy on the registry after {trainer.global_step} rounds: {100 * public['val_acc']:.1f} %")


app = server_app(main)
