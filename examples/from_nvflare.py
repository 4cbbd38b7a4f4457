"""NVFlare's hello-lightning as one script: the same network, two sites, each with a datamodule of its own.

    python examples/from_nvflare.py
    python examples/from_nvflare.py --algorithm fedprox

``docs/from/nvflare.md`` shows the original beside this script. The pictures are made here, so nothing is downloaded.
"""

from __future__ import annotations

import argparse
import logging
import warnings

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Accuracy

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Algorithm, FedAvg, FedProx, Scaffold

ALGORITHMS: dict[str, Algorithm] = {"fedavg": FedAvg(), "fedprox": FedProx(mu=0.01), "scaffold": Scaffold()}


# model.py: the network and the module
class LitNet(pl.LightningModule):
    """A small convolutional network with its loss, its accuracy and its optimizer.

    Args:
        classes: How many classes.
        lr: The learning rate of a worker's SGD.
        momentum: The momentum of that SGD.
    """

    def __init__(self, classes: int = 10, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.model = nn.Sequential(
            *(nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
        )
        self.train_acc = Accuracy(task="multiclass", num_classes=classes)
        self.val_acc = Accuracy(task="multiclass", num_classes=classes)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        scores = self.model(x)
        loss = functional.cross_entropy(scores, y)
        self.train_acc(scores, y)
        self.log("train_loss", loss)
        self.log("train_acc", self.train_acc, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        scores = self.model(x)
        self.val_acc(scores, y)
        self.log("val_loss", functional.cross_entropy(scores, y))
        self.log("val_acc", self.val_acc, on_step=False, on_epoch=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["lr"], momentum=self.hparams["momentum"])


# client.py: the datamodule of a site; the loop around flare.receive() has no counterpart
class SiteDataModule(pl.LightningDataModule):
    """Pictures of one site, ``[n, 3, 32, 32]``: each class has a colour of its own, under noise.

    Args:
        seed: Decides the pictures of the site.
        count: Pictures to train on; half as many are for validation.
        batch_size: Pictures in a batch.
    """

    def __init__(self, seed: int, count: int = 160, batch_size: int = 16) -> None:
        super().__init__()
        self.seed, self.count, self.batch_size = seed, count, batch_size

    def setup(self, stage: str) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        colours = torch.rand(10, 3, generator=torch.Generator().manual_seed(0))
        labels = torch.randint(10, (self.count * 3 // 2,), generator=generator)
        noise = torch.randn(len(labels), 3, 32, 32, generator=generator)
        pictures = 4 * colours[labels, :, None, None] - 2 + 0.3 * noise
        self.train = TensorDataset(pictures[: self.count], labels[: self.count])
        self.val = TensorDataset(pictures[self.count :], labels[self.count :])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, batch_size=self.batch_size)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, batch_size=self.batch_size)


# job.py: FedAvgRecipe, FedProxRecipe, ScaffoldRecipe and SimEnv
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="num_rounds (default: 10; 2 in the original)")
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="fedavg", help="default: fedavg")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    pl.seed_everything(7, verbose=False)
    trainer = pl.Trainer(
        max_epochs=options.rounds,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # flare.patch(trainer) restores a site's optimizer in the next round, too
    federated = FederatedModule(LitNet(), algorithm=ALGORITHMS[options.algorithm], local_optimizer_state="kept")
    data = FederatedDataModule({"site-1": SiteDataModule(seed=1), "site-2": SiteDataModule(seed=2)})
    trainer.fit(federated, data)
    (result,) = trainer.validate(federated, data, verbose=False)
    print(f"{options.algorithm}, {trainer.global_step} rounds: accuracy {result['val_acc']:.3f} over both sites")
    for name, metrics in federated.last_evaluation.workers.items():
        print(f"  {name}: {metrics['val_acc']:.3f}")


if __name__ == "__main__":
    main()
