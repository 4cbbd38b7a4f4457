"""PySyft's fourth tutorial as one script: bob and alice train copies of a model, and the copies are averaged.

    python examples/from_pysyft_averaging.py

``docs/from/pysyft.md`` shows the tutorial of PySyft 0.2 beside this script.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean


class Net(pl.LightningModule):
    """The tutorial's ``nn.Linear(2, 1)``, its loss and its optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Linear(2, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        data, target = batch
        loss: Tensor = ((self.model(data) - target) ** 2).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class PrintLosses(pl.Callback):
    """Prints the losses of both workers after each round, as the tutorial does."""

    def on_train_batch_end(self, trainer: pl.Trainer, federated: FederatedModule, *_: object) -> None:  # type: ignore[override]
        losses = "  ".join(f"{name} {report.loss:.4f}" for name, report in federated.last_report.workers.items())
        print(f"round {trainer.global_step - 1}: {losses}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="iterations of the tutorial (default: 10)")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    data = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    target = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    workers = {"bob": (data[:2], target[:2]), "alice": (data[2:], target[2:])}  # .send(bob), .send(alice)

    pl.seed_everything(0, verbose=False)
    net = Net()
    trainer = pl.Trainer(
        max_epochs=options.rounds,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PrintLosses()],
    )
    # worker_iters = 5; .move(secure_worker) and (alices + bobs) / 2
    trainer.fit(FederatedModule(net, local_epochs=5, aggregator=UniformMean()), FederatedDataModule(workers))
    print(f"predictions {[round(p, 4) for p in net.model(data).flatten().tolist()]}, to be {target.flatten().tolist()}")


if __name__ == "__main__":
    main()
