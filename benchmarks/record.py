"""Cost of a step of DP-SGD: an example at a time, as here, beside Opacus, which splits a batch layer by layer.

    python benchmarks/record.py [--steps 30]

One worker with 600 random points, of which a step draws a tenth on average; one thread, processor time. Ours is the
local training of a FederatedModule with RecordDP; theirs is a loop by hand, with Opacus's module, loader and optimizer.
Prints the medians over steps for each network of the task, and how many times as long ours takes.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from itertools import pairwise
from typing import Any

import torch
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from workload import KINDS, LR, Classifier, network

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.privacy import RecordDP

EXAMPLES, RATE, CLIP, NOISE = 600, 0.1, 1.0, 1.0


class Timed(Classifier):
    """Notes the processor's time as each local step begins; in a list of the program's, which no worker sets back."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        BEGINNINGS.append(time.process_time())


BEGINNINGS: list[float] = []


class Examples(pl.LightningDataModule):
    def __init__(self, data: TensorDataset) -> None:
        super().__init__()
        self.data = data

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=round(RATE * EXAMPLES))


def ours(kind: str, data: TensorDataset, steps: int) -> list[float]:
    BEGINNINGS.clear()
    promise = RecordDP(clip=CLIP, noise_multiplier=NOISE, sampling_rate=RATE, delta=1e-5, accountant="rdp")
    fed = FederatedModule(Timed(kind), privacy=promise, local_steps=steps, engine="sequential")
    trainer = pl.Trainer(
        max_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        fast_dev_run=1,
    )
    trainer.fit(fed, FederatedDataModule({"w": Examples(data)}))
    return [after - before for before, after in pairwise(BEGINNINGS)]


def theirs(kind: str, data: TensorDataset, steps: int) -> list[float]:
    net = network(kind)
    loader = DataLoader(data, batch_size=round(RATE * EXAMPLES))
    module, optimizer, loader = PrivacyEngine().make_private(
        module=net,
        optimizer=torch.optim.SGD(net.parameters(), lr=LR),
        data_loader=loader,
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
    )
    beginnings: list[float] = []
    while len(beginnings) <= steps:
        for x, y in loader:
            beginnings.append(time.process_time())
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
    return [after - before for before, after in pairwise(beginnings[: steps + 1])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"{'ms a step':10}{'Opacus':>10}{'ours':>10}{'ratio':>8}")
    for kind, task in KINDS.items():
        data = TensorDataset(torch.randn(EXAMPLES, *task.shape), torch.randint(10, (EXAMPLES,)))
        one, other = (1e3 * statistics.median(way(kind, data, options.steps)) for way in (theirs, ours))
        print(f"{kind:10}{one:10.2f}{other:10.2f}{other / one:8.2f}")


if __name__ == "__main__":
    main()
