"""Convergence at scale: 10,000 workers of Fashion-MNIST in one process, 1,000 of them in a round.

    python benchmarks/convergence.py --fashion-mnist FOLDER [--rounds 120] [--out convergence.svg]
    python benchmarks/convergence.py --fashion-mnist FOLDER --rounds 2 --workers 100 --cohort-size 10

Each worker has six pictures, of two classes at most: sorted by label, cut into 20,000 shards of three, two for each
worker (``Shards``, the non-IID split of McMahan et al. 2017). The model is an ``MLPClassifier`` of 784-64-10 numbers; a
worker trains two epochs in batches of three, with a learning rate of 0.1; the server averages.

Prints the accuracy on the 10,000 test pictures over rounds, ours beside a hand-written loop of the same settings, which
draws its own cohorts; and of each the median round, in seconds and in seconds of the processor, rounds per second, the
most memory that the process has had, and what it had in use after the 10th and after the last round. Each is measured
in a process of its own, of one thread. ``--out`` draws accuracy and memory over rounds; it needs matplotlib.

Both together take some ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.datasets import FashionMNIST, PartitionedPopulation, Shards
from lightning_fed.models import MLPClassifier

HIDDEN, EPOCHS, BATCH, LR = 64, 2, 3, 0.1
WAYS = ("ours", "by hand")
Measured: TypeAlias = dict[str, list[Any]]


class Gauge:
    """Notes, after each round, the time and the memory in use; and accuracies."""

    def __init__(self) -> None:
        self.noted: Measured = {"seconds": [], "processor": [], "memory": [], "curve": []}
        self.round()

    def round(self) -> None:
        """Note the end of a round."""
        self.noted["seconds"].append(time.perf_counter())
        self.noted["processor"].append(time.process_time())
        self.noted["memory"].append(in_use())

    def accuracy(self, rounds: int, accuracy: float) -> None:
        self.noted["curve"].append((rounds, 100 * accuracy))


class Watch(pl.Callback):
    def __init__(self, gauge: Gauge) -> None:
        self.gauge = gauge

    def on_train_batch_end(self, *_: Any) -> None:
        self.gauge.round()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.gauge.accuracy(trainer.global_step, float(trainer.callback_metrics["val_acc"]))


def model() -> MLPClassifier:
    return MLPClassifier(784, hidden=(HIDDEN,), classes=10, lr=LR)


def ours(pictures: FashionMNIST, options: argparse.Namespace, gauge: Gauge) -> None:
    workers = PartitionedPopulation(
        pictures.examples("train"), Shards(options.workers, 2, seed=options.seed), batch_size=BATCH
    )
    off = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(
        max_steps=options.rounds,
        max_epochs=-1,
        val_check_interval=options.every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        callbacks=[Watch(gauge)],
        accelerator="cpu",
        devices=1,
        **off,
    )
    federated = FederatedModule(model(), local_epochs=EPOCHS)
    trainer.fit(
        federated, FederatedDataModule(workers, cohort_size=options.cohort_size, val=pictures, seed=options.seed)
    )


def by_hand(pictures: FashionMNIST, options: argparse.Namespace, gauge: Gauge) -> None:
    network = model()
    parameters = list(network.parameters())
    x, label = pictures.examples("train").tensors
    shards = label.argsort(stable=True).tensor_split(2 * options.workers)
    dealt = torch.randperm(2 * options.workers).view(options.workers, 2).tolist()
    shares = [torch.cat([shards[first], shards[second]]) for first, second in dealt]
    for round in range(1, options.rounds + 1):
        start = parameters_to_vector(parameters).detach().clone()
        total, examples = torch.zeros_like(start), 0  # a running sum, since a thousand models are no small matter
        for worker in torch.randperm(options.workers)[: options.cohort_size].tolist():
            vector_to_parameters(start.clone(), parameters)
            optimizer = torch.optim.SGD(parameters, LR)
            share = shares[worker]
            for _ in range(EPOCHS):
                for batch in torch.randperm(len(share)).split(BATCH):
                    optimizer.zero_grad()
                    cross_entropy(network(x[share[batch]]), label[share[batch]]).backward()
                    optimizer.step()
            total += len(share) * (start - parameters_to_vector(parameters).detach())
            examples += len(share)
        vector_to_parameters(start - total / examples, parameters)
        gauge.round()
        if round % options.every == 0:
            gauge.accuracy(round, right(network, *pictures.examples("test").tensors))


@torch.no_grad()
def right(network: torch.nn.Module, x: Tensor, label: Tensor) -> float:
    predicted = torch.cat([network(part).argmax(dim=1) for part in x.split(1000)])
    return float((predicted == label).double().mean())


def in_use() -> float:
    """The memory that this process has in use, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """Train, and return what was noted."""
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(options.seed, verbose=False)
    pictures = FashionMNIST(options.fashion_mnist, flatten=True, batch_size=1000)
    pictures.setup("fit")
    gauge = Gauge()
    (ours if way == "ours" else by_hand)(pictures, options, gauge)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux
    # the system counts pages in batches for each thread, so that its peak may lie a little below what was in use
    return {**gauge.noted, "peak": max(peak, *gauge.noted["memory"])}


def median(times: list[float]) -> float:
    """The median round; the first two, which set up, are left out where there are more."""
    rounds = [end - start for start, end in pairwise(times)]
    return statistics.median(rounds[2:] or rounds)


def table(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> str:
    """Return both tables, in Markdown."""
    lines = [
        f"{options.workers:,} workers, {options.cohort_size:,} a round; "
        f"{platform.machine()}, torch {torch.__version__}, threads: {options.threads}",
        "",
        "| | round, s | of the processor | rounds a second | most memory, MB | after round 10 | at the end |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, noted in found.items():
        seconds, processor = median(noted["seconds"]), median(noted["processor"])
        memory = noted["memory"]
        lines.append(
            f"| {way} | {seconds:.2f} | {processor:.2f} | {1 / seconds:.2f} | {noted['peak']:.0f} | "
            f"{memory[min(10, len(memory) - 1)]:.0f} | {memory[-1]:.0f} |"
        )
    curves = [dict(noted["curve"]) for noted in found.values()]
    lines += ["", f"| rounds | {' | '.join(f'{way}, accuracy in %' for way in found)} |", "|---|" + "---|" * len(found)]
    for at in sorted(curves[0]):
        lines.append(f"| {at} | {' | '.join(f'{curve[at]:.2f}' for curve in curves)} |")
    return "\n".join(lines)


def draw(found: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Draw accuracy and memory over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 5.5), layout="constrained")
    for (way, noted), style in zip(found.items(), ("-", "--"), strict=True):
        above.plot(*zip(*noted["curve"], strict=True), style, label=way)
        below.plot(range(len(noted["memory"])), noted["memory"], style, label=way)
    title = f"Fashion-MNIST, {options.workers:,} workers with two classes, {options.cohort_size:,} a round"
    above.set(ylabel="accuracy, %", title=title)
    above.legend(loc="lower right")
    below.set(xlabel="round", ylabel="memory in use, MB", ylim=(0, None))
    for axes in (above, below):
        axes.grid(alpha=0.3)
    with plt.rc_context({"svg.hashsalt": "lightning_fed", "svg.fonttype": "none"}):  # the same numbers, the same file
        figure.savefig(options.out, metadata={"Date": None} if options.out.suffix == ".svg" else None)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion-mnist", default="data/fashion-mnist", help="the folder of its IDX files")
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--every", type=int, default=10, help="rounds from one evaluation to the next")
    parser.add_argument("--workers", type=int, default=10_000)
    parser.add_argument("--cohort-size", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the picture goes")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.every = min(options.every, options.rounds)
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(measure(options.only, options)))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, *sys.argv, "--only", way]
        printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[way] = json.loads(printed.splitlines()[-1])
    print(table(found, options))
    if options.out is not None:
        draw(found, options)


if __name__ == "__main__":
    main()
