"""FedJAX's example of federated averaging as one script: clients are writers, and Adam steps at the server.

    python examples/from_fedjax.py

``docs/from/tff-fedjax.md`` shows the original beside this script. The pictures are made here, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from functools import partial

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.datasets import NaturalIds, PartitionedPopulation


class Net(pl.LightningModule):
    """A network for pictures ``[n, 28, 28]``, the gradient of whose mean loss is the original's ``grad_fn``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return functional.cross_entropy(self.layers(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val_acc", (self.layers(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=10**-1.5)


def pictures(count: int, seed: int) -> tuple[TensorDataset, list[str]]:
    """Return pictures with labels from 0 to 9, and the writer of each: the later ones wrote less."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(10, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(10, (count,), generator=generator)
    noise = 0.5 * torch.randn(count, 28, 28, generator=generator)
    writers = (50 * torch.rand(count, generator=generator) ** 2).long().tolist()
    return TensorDataset(patterns[labels] + noise, labels), [f"writer_{number:02d}" for number in writers]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="rounds (default: 30; 1500 in the original)")
    parser.add_argument("--batch-size", type=int, default=20)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    pl.seed_everything(17, verbose=False)
    dataset, writers = pictures(2000, seed=1)
    clients = PartitionedPopulation(dataset, NaturalIds(writers), batch_size=options.batch_size)
    test, _ = pictures(500, seed=2)
    trainer = pl.Trainer(
        max_steps=options.rounds,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Optax's Adam corrects its bias, and so does torch's; FedAdam of lightning_fed.optim does not
    server = partial(torch.optim.Adam, lr=10**-2.5, betas=(0.9, 0.999), eps=1e-4)
    federated = FederatedModule(Net(), server_optimizer=server)
    data = FederatedDataModule(clients, cohort_size=min(10, len(clients)), val=test)
    trainer.fit(federated, data)
    (result,) = trainer.validate(federated, data, verbose=False)
    print(f"{len(clients)} writers, {trainer.global_step} rounds: accuracy {result['val_acc']:.3f}")


if __name__ == "__main__":
    main()
