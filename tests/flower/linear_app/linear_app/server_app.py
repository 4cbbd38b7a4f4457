import json
import time
from pathlib import Path

import pytorch_lightning as pl
import torch
from linear_nodes import module
from pytorch_lightning.callbacks import ModelCheckpoint

from lightning_fed import FederatedDataModule, FederatedModule, algorithms
from lightning_fed.flower import server_app


class Times(pl.Callback):
    def __init__(self):
        self.times, self.failures = [], []

    def on_train_batch_start(self, *_):
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer, fed, *_):
        self.times.append(time.perf_counter() - self.began)
        self.failures.append([str(f) for f in fed.last_report.failures])


def main(workers, engine, config):
    torch.set_num_threads(1)
    times = Times()
    out = Path(config["out"])
    fed = FederatedModule(
        module(), algorithm=getattr(algorithms, config["algorithm"])(), engine=engine, on_worker_error=config["error"]
    )
    trainer = pl.Trainer(
        max_steps=config["rounds"],
        max_epochs=-1,
        default_root_dir=out,
        accelerator="cpu",
        enable_progress_bar=False,
        log_every_n_steps=1,
        callbacks=[times, ModelCheckpoint(out, every_n_train_steps=1, save_last=True)],
        limit_val_batches=0,
    )
    began = time.perf_counter()
    trainer.fit(fed, FederatedDataModule(workers, seed=7), ckpt_path=config["ckpt"] or None)
    (out / "result.json").write_text(
        json.dumps(
            {
                "model": {n: p.tolist() for n, p in fed.module.state_dict().items()},
                "times": times.times,
                "failures": times.failures,
                "fit": time.perf_counter() - began,
            }
        )
    )
    print("RESULT", times.times)


app = server_app(main, wait=60)
