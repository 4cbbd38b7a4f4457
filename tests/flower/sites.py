"""Three sites: a module, their data, the function that builds a node, and the run, in a simulation or over nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanAbsoluteError

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedAvg, FedPer, FedProx, Scaffold
from lightning_fed.node import Node
from lightning_fed.privacy import LocalDP
from lightning_fed.secure import SecureAggregation
from lightning_fed.selection import Availability

NAMES = ("north", "south", "west")
ALGORITHMS = {
    "FedAvg": FedAvg,
    "FedProx": lambda: FedProx(mu=0.1),
    "Scaffold": Scaffold,
    "FedPer": lambda: FedPer(["head.*"]),
}
PROMISES = {
    "": lambda: None,
    "LocalDP": lambda: LocalDP(
        clip=1.0, noise_multiplier=0.5, delta=1e-5, accountant="rdp", insecure_deterministic_noise=True
    ),
}


class Net(pl.LightningModule):
    """Two layers; its loss and a torchmetrics object on validation data."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(2, width), nn.Linear(width, 1)
        self.error = MeanAbsoluteError()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.mse_loss(self(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.error(self(batch[0]), batch[1])
        self.log("val_error", self.error)
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Data(pl.LightningDataModule):
    """A site's rows, of which the last eight are for validation."""

    def __init__(self, site: str) -> None:
        super().__init__()
        self.number = NAMES.index(site)

    def _rows(self) -> tuple[Tensor, Tensor]:
        drawn = torch.Generator().manual_seed(100 + self.number)
        x = torch.randn(64 + 8 * self.number, 2, generator=drawn)
        return x, x @ torch.tensor([[1.0], [-2.0]]) + 0.3 * self.number

    def train_dataloader(self) -> Any:
        x, y = self._rows()
        return DataLoader(TensorDataset(x[:-8], y[:-8]), batch_size=16, shuffle=True)

    def val_dataloader(self) -> Any:
        x, y = self._rows()
        return DataLoader(TensorDataset(x[-8:], y[-8:]), batch_size=4)


def build(config: Mapping[str, str]) -> Node:
    """The node of the sites that are named, with commas between them."""
    return Node(Net(), {site: Data(site) for site in config["sites"].split(",")}, threads=1)


class Notes(pl.Callback):
    """Notes how long rounds took, and who failed in them."""

    def __init__(self, out: Path, pause: float) -> None:
        self.out, self.pause = out, pause
        self.seconds: list[float] = []
        self.failures: list[dict[str, str]] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, fed: Any, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self.began)
        self.failures.append({failure.worker: failure.reason for failure in fed.last_report.failures})
        (self.out / "rounds.json").write_text(json.dumps(self.failures))
        time.sleep(self.pause)


def run(
    workers: Any,
    engine: Any,
    rounds: int = 3,
    algorithm: str = "FedAvg",
    promise: str = "",
    error: str = "raise",
    evaluates: bool = False,
    pause: float = 0.0,
    out: str = "",
    ckpt: str = "",
    wide: bool = False,
    secure: bool = False,
    availability: Availability | None = None,
) -> dict[str, Any]:
    """Fit, and return all that is to be compared; it is written to ``result.json``, too."""
    torch.set_num_threads(1)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    notes = Notes(folder, pause)
    fed = FederatedModule(
        Net(width=8 if wide else 4),
        algorithm=ALGORITHMS[algorithm](),
        privacy=PROMISES[promise](),
        secure_aggregation=SecureAggregation(clip=10.0, weight_cap=100, threshold=0.6) if secure else None,
        engine=engine,
        on_worker_error=error,  # type: ignore[arg-type]
    )
    trainer = pl.Trainer(
        max_steps=rounds,
        max_epochs=-1,
        default_root_dir=folder,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        limit_val_batches=1.0 if evaluates else 0,
        callbacks=[notes, ModelCheckpoint(folder, every_n_train_steps=1, save_last=True)],
    )
    trainer.fit(fed, FederatedDataModule(workers, seed=7, availability=availability), ckpt_path=ckpt or None)
    result = {
        "model": {name: tensor.tolist() for name, tensor in fed.module.state_dict().items()},
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items() if "time" not in name},
        "workers": {name: dict(values) for name, values in fed.last_evaluation.workers.items()} if evaluates else {},
        "failures": notes.failures,
        "bytes": [fed.last_report.bytes_down, fed.last_report.bytes_up],
        "seconds": notes.seconds,
    }
    (folder / "result.json").write_text(json.dumps(result))
    return result
