"""FedLab's standalone example as one script: 100 workers with two classes each, a tenth of them a round.

    python examples/from_fedlab.py

``docs/from/fedlab.md`` shows the original beside this script. The pictures are made here, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean
from lightning_fed.datasets import PartitionedPopulation, Shards


class MLP(pl.LightningModule):
    """The original's network; the loss and the optimizer are those of its ``SGDSerialClientTrainer``.

    Args:
        lr: The learning rate of a worker's SGD.
    """

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.layers(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        scores = self.layers(x)
        self.log("val_loss", functional.cross_entropy(scores, y))
        self.log("val_acc", (scores.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def pictures(count: int, seed: int) -> TensorDataset:
    """Return pictures ``[count, 28, 28]`` and labels from 0 to 9: each class has a pattern of its own, under noise."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(10, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 10
    return TensorDataset(patterns[labels] + 0.5 * torch.randn(count, 28, 28, generator=generator), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total_clients", type=int, default=100)
    parser.add_argument("--com_round", type=int, default=30, help="rounds (default: 30; 3 in the original's README)")
    parser.add_argument("--sample_ratio", type=float, default=0.1)
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.02)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    pl.seed_everything(0, verbose=False)
    shards = Shards(workers=options.total_clients, shards_per_worker=2)  # PathologicalMNIST
    workers = PartitionedPopulation(pictures(4000, seed=1), shards, batch_size=options.batch_size)
    trainer = pl.Trainer(
        max_steps=options.com_round,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # SyncServerHandler averages without weights
    federated = FederatedModule(MLP(lr=options.lr), local_epochs=options.epochs, aggregator=UniformMean())
    cohort = max(1, int(options.sample_ratio * options.total_clients))
    data = FederatedDataModule(workers, cohort_size=cohort, val=pictures(500, seed=2))
    trainer.fit(federated, data)
    (result,) = trainer.validate(federated, data, verbose=False)
    print(f"{len(workers)} workers, {cohort} a round, {trainer.global_step} rounds: accuracy {result['val_acc']:.3f}")


if __name__ == "__main__":
    main()
