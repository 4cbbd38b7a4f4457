"""The notebook *ToyFederatedLearning*, made real: a linear model, two workers, and data that stays where it is.

python examples/toy.py
python examples/toy.py --algorithm cyclic
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Cyclic, FedAvg
from lightning_fed.datasets import ToyDataModule
from lightning_fed.models import LinearRegression
from lightning_fed.record import next_version

ALGORITHMS = {"fedavg": FedAvg(), "cyclic": Cyclic()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=ALGORITHMS, default="fedavg", help="average, or visit in turn")
    parser.add_argument("--rounds", type=int, default=20, help="how often the workers train (default: 20)")
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu, ... (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="decides the initial weights (default: 0)")
    parser.add_argument("--logdir", default="logs", help="where TensorBoard's logs go (default: logs)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: train for at least one round")
    quiet()

    print("1. The data in one place: 20 iterations of plain gradient descent on the four rows")
    pl.seed_everything(options.seed, verbose=False)
    train_centrally(LinearRegression(2, 1))

    print("\n2. The data at two workers: rows 0 and 1 at bob, rows 2 and 3 at alice")
    pl.seed_everything(options.seed, verbose=False)
    model = LinearRegression(2, 1)
    federated = FederatedModule(model, algorithm=ALGORITHMS[options.algorithm])
    workers = {"bob": ToyDataModule(rows=[0, 1]), "alice": ToyDataModule(rows=[2, 3])}
    version = next_version(Path(options.logdir, "toy"), type(federated.algorithm).__name__)
    trainer = pl.Trainer(
        max_epochs=options.rounds,
        accelerator=options.accelerator,
        devices=1,
        logger=TensorBoardLogger(options.logdir, name="toy", version=version, default_hp_metric=False),
        log_every_n_steps=1,
        callbacks=[PrintRounds(list(workers))],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(federated, FederatedDataModule(workers))
    show(model, trainer, options.logdir)


def train_centrally(model: LinearRegression) -> None:
    """The notebook's baseline: print the loss before each step."""
    data = ToyDataModule()
    data.setup("fit")
    (batch,) = data.train_dataloader()
    optimizer = model.configure_optimizers()
    for _ in range(20):
        loss = ((model(batch[0]) - batch[1]) ** 2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"   loss {loss.item():.4f}")
    print(f"   learned {describe(model)}")


class PrintRounds(pl.Callback):
    """Prints the loss of every worker, as the notebook does: before the worker's own steps."""

    def __init__(self, workers: list[str]) -> None:
        self.workers = workers

    def on_train_start(self, *_: Any) -> None:
        print("   round " + "".join(f"{worker:>10}" for worker in self.workers) + "      mean")

    def on_train_batch_end(self, trainer: pl.Trainer, federated: pl.LightningModule, *_: Any) -> None:
        assert isinstance(federated, FederatedModule)
        report = federated.last_report
        losses = "".join(f"{report.workers[worker].loss:10.4f}" for worker in self.workers)
        print(f"   {trainer.global_step - 1:5} {losses}{report.loss:10.4f}")


def describe(model: LinearRegression) -> str:
    weight, bias = model.linear.weight.detach().flatten().tolist(), model.linear.bias.item()
    return f"y = {weight[0]:.3f}·x₀ {weight[1]:+.3f}·x₁ {bias:+.3f}"


def show(model: LinearRegression, trainer: pl.Trainer, logdir: str) -> None:
    metrics = trainer.callback_metrics
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"   learned {describe(model)}   (the truth: y = x₁)")
    print(f"   mean squared error over both workers' rows: {metrics['val_mse']:.6f}")
    print(
        "\n3. What left each worker, and what did not\n"
        f"   Left, per round: the change of {count} parameters ({4 * count} bytes), the number of rows behind it,\n"
        "   and the losses it logged. Did not leave: its rows. The server never sees a batch; but a change of\n"
        "   parameters can still tell about the rows it came from, so by itself this is no guarantee of privacy."
    )
    print(f"\n4. The curves: {trainer.log_dir}\n   tensorboard --logdir {logdir}")


def quiet() -> None:
    """Leave the page to what this example prints."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
