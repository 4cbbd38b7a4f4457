"""Cost of a round beyond a hand-written PyTorch loop with the same arithmetic.

    python benchmarks/overhead.py [--kind mlp] [--rounds 100] [--threads 2] [--channels-last] [--precision bf16-mixed]

Prints the medians of both, measured in turn in one process, the difference, and the median of the ratios round by
round. With ``--channels-last`` or another precision there are two loops: a plain one in float32, and one that does as
ours is asked to, with ``torch.autocast`` and images whose channels lie last. The loop does the same arithmetic:
local SGD on shuffled batches, the weighted mean of global − local, a server step. It has no data loaders, no logging,
no per-worker losses, no check for NaN, and no randomness that can be repeated; ours is ``trainer.fit`` with the
sequential engine, TensorBoard included.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
from torch import nn
from workload import BATCH, KINDS, LR, POINTS, POPULATION, Classifier, WorkerData, network, points

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.engines import Sequential


class RawLoop:
    """FedAvg in a dozen lines."""

    def __init__(self, kind: str, precision: str = "32-true", channels_last: bool = False) -> None:
        self.kind = kind
        self.net = network(kind)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            self.net.to(memory_format=torch.channels_last)
        self.mixed = precision == "bf16-mixed"
        self.parameters = list(self.net.parameters())

    def round(self) -> None:
        cohort = torch.randperm(POPULATION)[: KINDS[self.kind].cohort].tolist()
        start = [p.detach().clone() for p in self.parameters]
        total = [torch.zeros_like(p) for p in start]
        optimizer = torch.optim.SGD(self.parameters, lr=LR)
        for worker in cohort:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, start)
            x, y = points(self.kind, worker)
            x = x.contiguous(memory_format=self.layout)
            order = torch.randperm(POINTS)
            for rows in order.split(BATCH):
                optimizer.zero_grad()
                with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
                    loss = nn.functional.cross_entropy(self.net(x[rows]), y[rows])
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(total, torch._foreach_sub(start, self.parameters), alpha=POINTS)
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, torch._foreach_sub(start, total, alpha=1 / (POINTS * len(cohort))))


class Interleave(pl.Callback):
    """After every round of ours, one of each loop; times all."""

    def __init__(self, loops: dict[str, RawLoop]) -> None:
        self.loops = loops
        self.ours: list[float] = []
        self.raw: dict[str, list[float]] = {name: [] for name in loops}
        self._since = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.ours.append(time.perf_counter() - self._since)
        for name, loop in self.loops.items():
            since = time.perf_counter()
            loop.round()
            self.raw[name].append(time.perf_counter() - since)
        self._since = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="mlp")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    loops = {"hand-written loop": RawLoop(options.kind)}
    if options.channels_last or options.precision != "32-true":
        loops["hand-written, as ours"] = RawLoop(options.kind, options.precision, options.channels_last)
    timer = Interleave(loops)
    for worker in range(POPULATION):
        points(options.kind, worker)
    data = FederatedDataModule(
        {f"worker_{i:03}": WorkerData(options.kind, i) for i in range(POPULATION)},
        cohort_size=KINDS[options.kind].cohort,
        rounds_per_epoch=50,
    )
    for name in data.names:  # a worker is built once, not in every round; the loop's data is there beforehand as well
        data.pool[name].batches  # noqa: B018
    with tempfile.TemporaryDirectory() as logs:
        pl.Trainer(
            max_steps=options.rounds,
            accelerator="cpu",
            precision=options.precision,
            default_root_dir=logs,
            callbacks=[timer],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(FederatedModule(Classifier(options.kind), engine=Sequential(channels_last=options.channels_last)), data)
    ours = 1e3 * statistics.median(timer.ours[2:])
    settings = f"{options.precision}{', channels last' if options.channels_last else ''}"
    print(
        f"{options.kind}, cohort {KINDS[options.kind].cohort}, {options.threads} threads, {settings}, medians of "
        f"{options.rounds - 2} rounds:\n"
        f"  {'lightning_fed':<22}{ours:8.1f} ms a round"
    )
    for name, times in timer.raw.items():
        raw = 1e3 * statistics.median(times[2:])
        ratio = statistics.median(loop / own for loop, own in zip(times[2:], timer.ours[2:], strict=True))
        print(
            f"  {name:<22}{raw:8.1f} ms a round; beyond it {ours - raw:+8.1f} ms = {100 * (ours / raw - 1):+.1f} %; "
            f"ratio to it {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
