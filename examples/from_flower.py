"""Flower's quickstart with PyTorch Lightning as one script: an autoencoder, four workers, two of them a round.

    python examples/from_flower.py

``docs/from/flower.md`` shows the three files of the original beside this one. The images are made here, so nothing is
downloaded.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.datasets import IID, PartitionedPopulation


# task.py: the original's module, but for the form of a batch
class LitAutoEncoder(pl.LightningModule):
    """Images to three numbers and back."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(28 * 28, 64), nn.ReLU(), nn.Linear(64, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 28 * 28))

    def loss(self, batch: list[Tensor]) -> Tensor:
        x = batch[0].flatten(1)
        return functional.mse_loss(self.decoder(self.encoder(x)), x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def images(count: int = 400) -> Tensor:
    """Return ``[count, 28, 28]``: mixtures of three patterns, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(3, 28 * 28, generator=generator)
    return (torch.rand(count, 3, generator=generator) @ patterns / 3).view(count, 28, 28)


# client_app.py: the data of each client; train() and evaluate() have no counterpart
def workers(clients: int = 4) -> PartitionedPopulation:
    return PartitionedPopulation((images(),), IID(workers=clients), batch_size=32, val_fraction=0.2)


# server_app.py: FedAvg(fraction_train=0.5)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="num-server-rounds of the original (default: 3)")
    parser.add_argument("--local-epochs", type=int, default=1, help="max-epochs of the original (default: 1)")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    pl.seed_everything(0, verbose=False)
    model = LitAutoEncoder()
    trainer = pl.Trainer(
        max_epochs=options.rounds,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    federated = FederatedModule(model, local_epochs=options.local_epochs)
    data = FederatedDataModule(workers(), cohort_size=2, rounds_per_epoch=1)
    trainer.fit(federated, data)
    (result,) = trainer.validate(federated, data, verbose=False)
    print(f"reconstruction error after {trainer.global_step} rounds, all clients together: {result['val_loss']:.4f}")
    for name, metrics in federated.last_evaluation.workers.items():
        print(f"  {name}: {metrics['val_loss']:.4f}")


if __name__ == "__main__":
    main()
