"""FedProx's experiment: Synthetic(1, 1), 10 of 30 workers a round, of which many do only a part of their work.

    python examples/synthetic.py --out synthetic.png

Multinomial logistic regression, 200 rounds, 20 local epochs, batches of 10, learning rate 0.01, as in Li et al. 2020,
figure 1; 0, 50 or 90 % of the workers are stragglers. FedAvg leaves stragglers out, FedProx takes what they have done,
with mu=0 and mu=1. (Without stragglers FedAvg and mu=0 are the same.) Prints for every run

- loss: of the global model on all workers' training data, after the last round;
- last 20: its mean over the last 20 rounds, since a curve that jumps may end anywhere;
- rises: the sum of its increases from a round to the next, 0 for a curve that only falls;
- accuracy: of the global model on all workers' held-out data, after the last round.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import warnings
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedAvg, FedProx
from lightning_fed.datasets import Synthetic
from lightning_fed.engines import Sequential
from lightning_fed.selection import RandomAvailability

STRAGGLERS = (0.0, 0.5, 0.9)
METHODS = {
    "FedAvg": FedAvg(),
    "FedProx, mu=0": FedProx(mu=0.0),
    "FedProx, mu=1": FedProx(mu=1.0),
}


class Setting(NamedTuple):
    """One run."""

    method: str
    stragglers: float
    rounds: int
    seed: int


class LogisticRegression(pl.LightningModule):
    """Logs nothing while it trains: a round has thousands of steps, and a metric costs more than a step."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(60, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x)
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        right = self(batch[0]).argmax(dim=1) == batch[1]
        self.log("val_acc", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Curve(pl.Callback):
    """The loss of the global model on all workers' training data, before the first round and after every one."""

    def __init__(self, workers: Synthetic) -> None:
        train = [workers[name].train_set for name in workers]
        rows = torch.tensor([row for share in train for row in share.indices])
        self.x, self.label = (tensor[rows] for tensor in train[0].dataset.tensors)
        self.losses: list[float] = []

    @torch.no_grad()
    def measure(self, federated: pl.LightningModule) -> None:
        self.losses.append(cross_entropy(federated(self.x), self.label).item())

    def on_train_start(self, trainer: pl.Trainer, federated: pl.LightningModule) -> None:
        self.measure(federated)

    def on_train_batch_end(self, trainer: pl.Trainer, federated: pl.LightningModule, *_: Any) -> None:
        self.measure(federated)


def run(setting: Setting) -> tuple[list[float], float]:
    """Return the loss after every round, and at the end the accuracy in %."""
    quietly()
    pl.seed_everything(setting.seed, verbose=False)
    workers = Synthetic(alpha=1, beta=1, batch_size=10)
    data = FederatedDataModule(
        workers,
        cohort_size=10,
        availability=RandomAvailability(stragglers=setting.stragglers, drop_stragglers=setting.method == "FedAvg"),
        seed=setting.seed,
    )
    # One by one: the largest worker takes 16 times the steps of the smallest, so a lockstep would soon be one of few.
    federated = FederatedModule(
        LogisticRegression(), algorithm=METHODS[setting.method], local_epochs=20, engine=Sequential()
    )
    curve = Curve(workers)
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options: Any = {"accelerator": "cpu", "devices": 1, **quiet}
    pl.Trainer(max_steps=setting.rounds, max_epochs=-1, limit_val_batches=0, callbacks=[curve], **options).fit(
        federated, data
    )
    (result,) = pl.Trainer(**options).validate(federated, data, verbose=False)
    return curve.losses, 100 * result["val_acc"]


def rises(losses: list[float]) -> float:
    """The sum of all increases."""
    return sum(max(after - before, 0.0) for before, after in pairwise(losses))


def draw(curves: dict[Setting, list[float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shares = sorted({setting.stragglers for setting in curves})
    figure, grid = pyplot.subplots(1, len(shares), figsize=(1 + 4 * len(shares), 4), squeeze=False, sharey=True)
    axes = grid[0]
    for axis, stragglers in zip(axes, shares, strict=True):
        for setting, losses in curves.items():
            if setting.stragglers == stragglers:
                axis.plot(losses, label=setting.method, linewidth=1)
        axis.set(title=f"{stragglers:.0%} stragglers", xlabel="round")
    axes[0].set_ylabel("loss on all training data")
    axes[0].legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def quietly() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--stragglers", nargs="+", type=float, default=STRAGGLERS, help="which shares of them to try")
    parser.add_argument("--seed", type=int, default=0, help="of the training; the data are always the same")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="runs at the same time")
    parser.add_argument("--out", type=Path, help="where the plot goes; needs matplotlib")
    options = parser.parse_args()
    settings = [
        Setting(method, share, options.rounds, options.seed) for share in options.stragglers for method in METHODS
    ]
    curves: dict[Setting, list[float]] = {}
    print(f"after {options.rounds} rounds\n\nstragglers  method           loss  last 20   rises   accuracy in %")
    with ProcessPoolExecutor(options.processes, multiprocessing.get_context("spawn")) as pool:
        for setting, (losses, accuracy) in zip(settings, pool.map(run, settings), strict=True):
            curves[setting] = losses
            last = losses[-20:]
            print(
                f"{setting.stragglers:10.0%}  {setting.method:14}{losses[-1]:7.3f}{sum(last) / len(last):9.3f}"
                f"{rises(losses):8.2f}{accuracy:16.1f}",
                flush=True,
            )
    if options.out is not None:
        draw(curves, options.out)
        print(f"\nthe curves: {options.out}")


if __name__ == "__main__":
    main()
