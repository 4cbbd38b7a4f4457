"""A run for tests that need processes of their own: DDP, SIGKILL, the other Lightning.

    python train.py OUT [--devices N] [--rounds N] [--ckpt PATH] [--norm] [--dropout] [--cohort N] ...

Trains a small net on ten workers of very different sizes and writes the weights and the last metrics to OUT (rank 0).
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

if "--lightning" in sys.argv:
    import lightning.pytorch as pl
else:
    import pytorch_lightning as pl

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_fed import (
    FederatedDataModule,
    FederatedModule,
    aggregation,
    algorithms,
    privacy,
    secure,
    selection,
    transforms,
)
from lightning_fed.testing import attacks

warnings.filterwarnings("ignore")


class Data(pl.LightningDataModule):
    def __init__(self, worker: int, broken: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(worker)
        n = 3 + worker**2
        self.x = torch.randn(n, 6, generator=generator)
        self.y = torch.randint(3, (n,), generator=generator)
        if broken:
            self.x[0] = float("nan")

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=5, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.x, self.y), batch_size=7)


class Net(pl.LightningModule):
    def __init__(self, norm: bool = False, dropout: float = 0.0, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        parts: list[nn.Module] = [nn.BatchNorm1d(width)] if norm else []
        # A bias before batch norm has no gradient but rounding, which Adam would blow up to full steps.
        self.net = nn.Sequential(
            nn.Linear(6, width, bias=not norm), *parts, nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3)
        )
        self.val_acc = MulticlassAccuracy(3, average="micro")

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        logits = self.net(batch[0])
        self.val_acc(logits, batch[1])
        self.log("val_acc", self.val_acc)
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


def remembered(federated: FederatedModule) -> dict[str, Any]:
    """What the algorithm remembers, as tensors by name, wherever they lie; and how many rows lie on disk."""
    rows = {f"server {name}": tensor for name, tensor in federated.server_state.items()}
    for table, part in federated.own_state.items():
        rows.update({f"{table} {name}": row for name, row in part.items()})
    checkpoint: dict[str, Any] = {"state_dict": {}, "loops": {"fit_loop": federated.trainer.fit_loop.state_dict()}}
    federated.on_save_checkpoint(checkpoint)
    tables = checkpoint["lightning_fed"]["state"]["workers"].values()
    return {"memory": rows, "on_disk": sum(len(table["names_on_disk"]) for table in tables)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--strategy", default="auto")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--cohort", type=int, default=6)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--ckpt")
    parser.add_argument("--norm", action="store_true")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--double", action="store_true", help="compute in float64")
    parser.add_argument("--algorithm", default="FedAvg()")
    parser.add_argument("--aggregator", default="None")
    parser.add_argument("--transforms", default="[]")
    parser.add_argument("--broadcast", default="None")
    parser.add_argument("--availability", default="None")
    parser.add_argument("--sampler", default="None")
    parser.add_argument("--state-memory", type=int, default=256)
    parser.add_argument("--central", action="store_true")
    parser.add_argument("--broken", type=int, default=-1)
    parser.add_argument("--on-worker-error", default="raise")
    parser.add_argument("--lightning", action="store_true")
    parser.add_argument("--privacy", default="None")
    parser.add_argument("--secure", default="None", help="how updates are aggregated securely")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--keep", type=int, default=-1, help="how many checkpoints to keep")
    options = parser.parse_args(arguments)
    if options.double:
        torch.set_default_dtype(torch.float64)
    pl.seed_everything(0, verbose=False)
    model = Net(options.norm, options.dropout, options.width)
    federated = FederatedModule(
        model,
        algorithm=eval(options.algorithm, vars(algorithms)),
        aggregator=eval(options.aggregator, {**vars(aggregation), **vars(attacks)}),
        transforms=eval(options.transforms, vars(transforms)),
        broadcast=eval(options.broadcast, vars(transforms)),
        server_optimizer=partial(torch.optim.Adam, lr=0.05),
        server_lr_scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5),
        on_worker_error=options.on_worker_error,
        privacy=eval(options.privacy, vars(privacy)),
        secure_aggregation=eval(options.secure, vars(secure)),
        state_memory_mb=options.state_memory,
        engine=options.engine,
    )
    data = FederatedDataModule(
        {f"w{i}": Data(i, broken=i == options.broken) for i in range(10)},
        cohort_size=options.cohort,
        rounds_per_epoch=3 * options.accumulate,
        val=Data(7) if options.central else None,
        sampler=eval(options.sampler, vars(selection)),
        availability=eval(options.availability, vars(selection)),
    )
    folder = options.out.parent / f"{options.out.stem}-checkpoints"
    trainer = pl.Trainer(
        max_steps=options.rounds,
        max_epochs=-1,
        accelerator=options.accelerator,
        devices=options.devices,
        num_nodes=options.nodes,
        strategy=options.strategy,
        accumulate_grad_batches=options.accumulate,
        gradient_clip_val=0.5,
        default_root_dir=options.out.parent,
        logger=False,
        callbacks=[
            pl.callbacks.ModelCheckpoint(
                folder,
                every_n_train_steps=1,
                save_top_k=options.keep,
                monitor=None if options.keep == -1 else "step",
                mode="max",
                filename="{step:03d}",
            )
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(federated, data, ckpt_path=options.ckpt)
    if trainer.is_global_zero:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        outcome = {"state": model.state_dict(), "metrics": metrics, "step": trainer.global_step}
        # A module that was trained in spawned processes comes back without its Trainer.
        memory = {} if options.strategy == "ddp_spawn" else remembered(federated)
        torch.save({**outcome, **memory}, options.out)
    if torch.distributed.is_initialized():
        # Left to the end of the interpreter, gloo's threads abort now and then: "terminate called without an active
        # exception", after everything is done.
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
