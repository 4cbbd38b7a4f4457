"""Compressors of updates: their errors, bytes and speed, beside FedJAX's; and accuracy over bytes on digits.

    python benchmarks/compression.py [--peers] [--size 1000000]
    python benchmarks/compression.py --accuracy [--seeds 3] [--rounds 100] [--out docs/compression.svg]
    python benchmarks/compression.py --broadcast [--seeds 3] [--rounds 100]

The first prints, for vectors of normal numbers and of signed lognormal ones, each compressor's error as a part of the
vector's squared length, the bytes, and the processor's time of one thread; with ``--peers`` also that of FedJAX's code
on the same vectors (``make .peers/fedjax/installed``), in turn with ours. The second trains the model of
``configs/compressed.yaml`` with each compressor, and draws its accuracy over the bytes that were sent; the third
compresses what the server sends, with updates of one bit.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from lightning_fed.transforms import EDEN, Compressed, Compressor, Form, KBit, PowerSGD, RandomK, Sign, TopK

HERE = Path(__file__).parent
PEER = HERE.parent / ".peers" / "fedjax" / "bin" / "python"

COMPRESSORS: tuple[Compressor, ...] = (
    *(EDEN(bits) for bits in (1, 2, 3, 4)),
    *(KBit(bits) for bits in (1, 2, 4, 8)),
    TopK(0.01),
    TopK(0.1),
    RandomK(0.1),
    Sign(),
    PowerSGD(4),
)
BESIDE = {
    "DRIVE": EDEN(1),
    "rotated, 4 levels": EDEN(2),
    "rotated, 16 levels": EDEN(4),
    "uniform, 256 levels": KBit(8),
}
"""FedJAX's quantizers, and ours of as many bits."""


# ---- errors and speed ------------------------------------------------------------------------------------------------


def vectors(size: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(size, generator=generator)
    heavy = torch.randn(size, generator=generator).exp() * torch.randn(size, generator=generator).sign()
    return {"normal": normal, "lognormal": heavy}


def measured(compressor: Compressor, vector: torch.Tensor, repeats: int) -> tuple[float, float, float, int]:
    """The error, the least ms of encoding and of decoding, and the bytes."""
    width = 1000 if isinstance(compressor, PowerSGD) else 1
    rows = vector[: len(vector) // width * width].view(1, *((width, -1) if width > 1 else (-1,)))
    form = Form(tuple(rows.shape[1:]))
    encoding, decoding = [], []
    for repeat in range(1 + repeats):
        begun = time.process_time()
        codes = compressor.encode(rows, [repeat])
        between = time.process_time()
        back = compressor.decode(codes, form, [repeat])
        encoding.append(1e3 * (between - begun))
        decoding.append(1e3 * (time.process_time() - between))
    error = float(((back - rows) ** 2).sum() / (rows**2).sum())
    return error, min(encoding[1:]), min(decoding[1:]), codes.shape[1]


def print_speeds(size: int, repeats: int) -> None:
    there = vectors(size)
    print(f"{size:,} numbers, {4 * size:,} bytes without compression; one thread\n")
    print("| compressor | error, normal | error, lognormal | bytes | encode, ms | decode, ms |")
    print("|---|---|---|---|---|---|")
    for compressor in COMPRESSORS:
        error, encode, decode, length = measured(compressor, there["normal"], repeats)
        heavy = measured(compressor, there["lognormal"], 1)[0]
        print(f"| `{compressor}` | {error:.5g} | {heavy:.5g} | {length:,} | {encode:.1f} | {decode:.1f} |")


def print_beside_fedjax(size: int, repeats: int, turns: int) -> None:
    vector = vectors(size)["normal"]
    theirs: dict[str, list[dict[str, float]]] = {name: [] for name in BESIDE}
    ours: dict[str, list[tuple[float, float]]] = {name: [] for name in BESIDE}
    one_thread = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vector.npy")
        np.save(path, vector.numpy())
        for _ in range(turns):
            command = [str(PEER), str(HERE / "peers" / "fedjax_compression.py"), str(path), str(repeats)]
            answer = subprocess.run(
                command, env={**os.environ, **one_thread}, check=True, stdout=subprocess.PIPE, text=True
            )
            for name, found in json.loads(answer.stdout).items():
                if name in theirs:
                    theirs[name].append(found)
            for name, compressor in BESIDE.items():
                error, encode, decode, _ = measured(compressor, vector, repeats)
                ours[name].append((error, encode + decode))
    print(f"\nbeside FedJAX, which makes no bytes; medians of {turns} turns, processor's time of all threads\n")
    print("| FedJAX | error | ms | ours, with bytes | error | ms | times as fast |")
    print("|---|---|---|---|---|---|---|")
    for name, compressor in BESIDE.items():
        ms = [found["ms"] for found in theirs[name]]
        own = [both for _, both in ours[name]]
        ratios = [a / b for a, b in zip(ms, own, strict=True)]
        print(
            f"| {name} | {theirs[name][0]['error']:.4g} | {statistics.median(ms):.1f} | `{compressor}` | "
            f"{ours[name][0][0]:.4g} | {statistics.median(own):.1f} | {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}) |"
        )


# ---- accuracy over bytes ---------------------------------------------------------------------------------------------

RUNS: dict[str, Compressed | None] = {
    "none": None,
    "EDEN 4": Compressed(EDEN(4)),
    "EDEN 2": Compressed(EDEN(2)),
    "EDEN 1": Compressed(EDEN(1)),
    "KBit 8": Compressed(KBit(8)),
    "KBit 2": Compressed(KBit(2)),
    "top 10 %": Compressed(TopK(0.1)),
    "top 1 %": Compressed(TopK(0.01)),
    "top 1 %, no feedback": Compressed(TopK(0.01), error_feedback=False),
    "random 10 %": Compressed(RandomK(0.1)),
    "sign": Compressed(Sign()),
    "sign, no feedback": Compressed(Sign(), error_feedback=False),
    "PowerSGD 4": Compressed(PowerSGD(4)),
}


BROADCASTS: tuple[Compressor | None, ...] = (None, KBit(8), KBit(4), KBit(2), EDEN(4), EDEN(2), EDEN(1))
"""The compression of the sent model."""

DRAWN = ("none", "KBit 8", "PowerSGD 4", "EDEN 2", "EDEN 1", "sign", "sign, no feedback", "top 1 %")
EVERY = 5
"""Rounds from an evaluation to the next."""


class Trained(NamedTuple):
    """The accuracies in percent as they come, and bytes of a worker: of its message, of the vector in it, of its job,
    and of the parameters in that."""

    accuracies: list[float]
    message: int
    vector: int
    job: int
    parameters: int


def run(
    compressed: Compressed | None, seed: int, rounds: int, hidden: int, broadcast: Compressor | None = None
) -> Trained:
    """Train once."""
    import pytorch_lightning as pl

    from lightning_fed import FederatedDataModule, FederatedModule
    from lightning_fed.datasets import DigitsDataModule, Dirichlet, PartitionedPopulation
    from lightning_fed.models import MLPClassifier

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)  # which importing it has set
    pl.seed_everything(seed, verbose=False)
    partition = Dirichlet(workers=100, alpha=0.3, min_size=2, seed=seed)
    workers = PartitionedPopulation(DigitsDataModule(), partition, batch_size=10)
    data = FederatedDataModule(workers, cohort_size=10, rounds_per_epoch=EVERY, val=DigitsDataModule(), seed=seed)
    federated = FederatedModule(
        MLPClassifier(in_features=64, hidden=(hidden,), classes=10, lr=0.3),
        transforms=[] if compressed is None else [compressed],
        broadcast=broadcast,
    )
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    accuracies: list[float] = []

    class Follow(pl.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            if not trainer.sanity_checking:
                accuracies.append(100 * float(trainer.callback_metrics["val_acc"]))

    trainer = pl.Trainer(max_steps=rounds, max_epochs=-1, accelerator="cpu", devices=1, callbacks=[Follow()], **quiet)
    trainer.fit(federated, data)
    assert federated.leaves is not None
    leaves = federated.leaves
    vector = sum(row.bytes for row in leaves.up if row.kind == "delta")
    parameters = sum(row.bytes for row in leaves.down if row.kind == "parameter")
    return Trained(accuracies, leaves.bytes_up, vector, leaves.bytes_down, parameters)


def print_accuracies(seeds: int, rounds: int, hidden: int, out: Path | None) -> None:
    print(f"digits, 10 of 100 workers, {rounds} rounds, {hidden} hidden units, {seeds} seeds\n")
    print("| compressor | accuracy, % | least, most | bytes of a message | of the update in it | times shorter |")
    print("|---|---|---|---|---|---|")
    found: dict[str, tuple[list[float], int]] = {}
    plain = 0
    for name, compressed in RUNS.items():
        each = [run(compressed, seed, rounds, hidden) for seed in range(seeds)]
        curves, message, vector = [one.accuracies for one in each], each[0].message, each[0].vector
        plain, last = plain or vector, [curve[-1] for curve in curves]
        found[name] = [statistics.mean(accuracies) for accuracies in zip(*curves, strict=True)], message
        print(
            f"| {name} | {statistics.mean(last):.1f} | {min(last):.1f}, {max(last):.1f} | {message:,} | {vector:,} | "
            f"{plain / vector:.1f} |",
            flush=True,
        )
    if out is not None:
        draw(found, out, f"digits, 10 of 100 workers, {rounds} rounds, mean of {seeds} seeds")


def print_broadcasts(seeds: int, rounds: int, hidden: int) -> None:
    print(f"digits, 10 of 100 workers, {rounds} rounds, {hidden} hidden units, {seeds} seeds; updates of one bit\n")
    print("| broadcast | accuracy, % | least, most | bytes of a job | of the parameters in it | times shorter |")
    print("|---|---|---|---|---|---|")
    plain = 0
    for broadcast in BROADCASTS:
        each = [run(Compressed(EDEN(1)), seed, rounds, hidden, broadcast) for seed in range(seeds)]
        last, parameters = [one.accuracies[-1] for one in each], each[0].parameters
        plain = plain or parameters
        name = "none" if broadcast is None else f"`{broadcast}`"
        print(
            f"| {name} | {statistics.mean(last):.1f} | {min(last):.1f}, {max(last):.1f} | {each[0].job:,} | "
            f"{parameters:,} | {plain / parameters:.1f} |",
            flush=True,
        )


def draw(found: dict[str, tuple[list[float], int]], out: Path, title: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "lightning_fed", "svg.fonttype": "none"})  # the same numbers, the same file
    figure, axes = plt.subplots(figsize=(8, 4.5))
    for name in DRAWN:
        accuracies, length = found[name]
        sent = [EVERY * (1 + position) * length / 1e3 for position in range(len(accuracies))]
        style = {"color": "black"} if name == "none" else {"linestyle": "--"} if "no feedback" in name else {}
        axes.plot(sent, accuracies, label=name, **style)
    axes.set(xscale="log", xlabel="kB that a worker of each cohort has sent", ylabel="accuracy, %", title=title)
    axes.set_ylim(bottom=70)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(out, bbox_inches="tight", metadata=_UNDATED if out.suffix == ".svg" else None)


_UNDATED: dict[str, Any] = {"Date": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=10**6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="FedJAX on the same vectors, in turn with ours")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--accuracy", action="store_true", help="train with each, in place of all that")
    parser.add_argument("--broadcast", action="store_true", help="compress the model for the workers, too")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--out", type=Path, help="where the plot goes; needs matplotlib")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if options.accuracy:
        print_accuracies(options.seeds, options.rounds, options.hidden, options.out)
        return
    if options.broadcast:
        print_broadcasts(options.seeds, options.rounds, options.hidden)
        return
    print_speeds(options.size, options.repeats)
    if options.peers:
        print_beside_fedjax(options.size, options.repeats, options.turns)


if __name__ == "__main__":
    main()
