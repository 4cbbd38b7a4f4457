"""The toy with five workers and secure aggregation: of each the server sees random numbers, of all the right average.

In round 1 dave shares its secrets, and is gone before it sends its numbers: the average is that of the other four.

python examples/secure_toy.py
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean
from lightning_fed.datasets import ToyDataModule
from lightning_fed.models import LinearRegression
from lightning_fed.record import next_version
from lightning_fed.secure import SecureAggregation
from lightning_fed.secure.server import SecureServer
from lightning_fed.selection import Availability, Response
from lightning_fed.state import OwnTables
from lightning_fed.transforms import UpdateTransform
from lightning_fed.wire import Aggregate, Job, Updates

ROWS = {"bob": [0, 1], "alice": [2, 3], "carol": [0, 3], "dave": [1, 2], "erin": [0, 2]}
GONE, ROUND = "dave", 1
"""The lost worker, and its round."""
PRINTED = 2
"""The number of printed rounds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="how often the workers train (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="decides the initial weights (default: 0)")
    parser.add_argument("--logdir", default="logs", help="where TensorBoard's logs go (default: logs)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: train for at least one round")
    quiet()

    print("One process plays the server and all workers here, so it can print both sides; machines see one each.\n")
    pl.seed_everything(options.seed, verbose=False)
    model, truth, server = LinearRegression(2, 1), Truth(), Server()
    federated = FederatedModule(
        model,
        aggregator=UniformMean(),
        transforms=[truth],  # for what is printed, and nothing else
        secure_aggregation=SecureAggregation(clip=10.0, protocol=True),
    )
    workers = {name: ToyDataModule(rows=rows) for name, rows in ROWS.items()}
    version = next_version(Path(options.logdir, "secure_toy"), type(federated.algorithm).__name__)
    trainer = pl.Trainer(
        max_epochs=options.rounds,
        limit_val_batches=0,  # what there is to validate on is the workers' own: nobody is to see what single ones give
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(options.logdir, name="secure_toy", version=version, default_hp_metric=False),
        log_every_n_steps=1,
        callbacks=[PrintRounds(truth, server)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with patch.object(SecureServer, "take", server.noting(SecureServer.take)):
        trainer.fit(federated, FederatedDataModule(workers, availability=OneIsLost()))
    weight, bias = model.linear.weight.detach().flatten().tolist(), model.linear.bias.item()
    print(
        f"after {options.rounds} rounds: y = {weight[0]:.3f}·x₀ {weight[1]:+.3f}·x₁ {bias:+.3f}   (the truth: y = x₁)"
    )
    print(f"the curves: {trainer.log_dir}\n   tensorboard --logdir {options.logdir}")


class OneIsLost(Availability):
    """One worker is lost in one round, after it has shared its secrets."""

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return Response("lost") if (worker, number) == (GONE, ROUND) else Response()


class Truth(UpdateTransform):
    """Notes each worker's update before it is sealed, and the average that the server comes to; it changes nothing."""

    def __init__(self) -> None:
        self.updates: dict[str, Tensor] = {}
        self.average = torch.empty(0)

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        self.updates |= zip(updates.workers, updates.delta.clone(), strict=True)
        return updates

    def server(self, aggregate: Aggregate) -> Aggregate:
        self.average = aggregate.delta.clone()
        return aggregate


class Server:
    """Notes the messages with workers' numbers, just before the server adds them up."""

    def __init__(self) -> None:
        self.messages: dict[str, bytes] = {}

    def noting(self, take: Callable[..., bool]) -> Callable[..., bool]:
        def noted(server: SecureServer, worker: str, masked: bytes) -> bool:
            self.messages[worker] = masked
            return take(server, worker, masked)

        return noted


class PrintRounds(pl.Callback):
    """Prints the first rounds from both sides."""

    def __init__(self, truth: Truth, server: Server) -> None:
        self.truth = truth
        self.server = server

    def on_train_batch_end(self, trainer: pl.Trainer, federated: pl.LightningModule, *_: Any) -> None:
        assert isinstance(federated, FederatedModule)
        updates, messages, average = self.truth.updates, self.server.messages, self.truth.average
        if (number := trainer.global_step - 1) < PRINTED:
            print(f"round {number}     the update           what the server sees of it")
            for name in ROWS:
                if name not in messages:
                    print(f"   {name:<6}  is gone; it has shared its secrets")
                    continue
                words = np.frombuffer(messages[name], "<u4")[-average.numel() :]  # behind counts, weights and losses
                print(f"   {name:<6}{numbers(updates[name])}" + "".join(f"{word:12}" for word in words))
            exact = torch.stack([updates[name] for name in messages]).double().mean(0)
            print(f"   mean  {numbers(exact)}  of these {len(messages)}, in float64")
            print(f"   server{numbers(average)}  differs by at most {(average - exact).abs().max():.0e}")
            print(f"   the cohort's loss: {federated.last_report.loss:.4f}\n")
        updates.clear()
        messages.clear()


def numbers(row: Tensor) -> str:
    return "".join(f"{value:+9.4f}" for value in row.tolist())


def quiet() -> None:
    """Leave the page to what this example prints."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
