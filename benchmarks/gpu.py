"""Cost of a round on a GPU: hand-written loops, ours with every engine and chunk size, and apple/pfl-research.

    python benchmarks/gpu.py [--kind linear mlp cnn transformer] [--seconds 2] [--repeats 3] [--pfl] [--profile]

Prints a table for each kind: milliseconds a round, the ratio to the hand-written loop (above 1 where a contender is
faster), to pfl-research if it is asked for, and the peak of the GPU's memory. All contenders of a kind take turns in
one process, after two rounds that are not counted; pfl-research has a process of its own within each turn. Every run
takes about as many seconds as are asked for. What the arithmetic alone would take at the float32 rate that a large
product reaches here stands above each table.

``--profile`` prints, for the engine "vectorized", the operations that the GPU and the processor spend their time in.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from rounds import measure
from stopwatch import WARMUP
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from workload import BATCH, KINDS, LR, POINTS, POPULATION, Classifier, WorkerData, network, points

from lightning_fed import FederatedDataModule, FederatedModule, engines
from lightning_fed._lightning import pl

HERE = Path(__file__).resolve().parent


class Result(NamedTuple):
    """Milliseconds a round, and the peak of the GPU's memory in MB."""

    ms: float
    peak_mb: float = 0.0


class Clock:
    """Takes rounds until the seconds are over; the GPU has done its work whenever it is read."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self._seconds, self._device = seconds, device
        self._rounds, self._since = -WARMUP, 0.0
        self.ms = 0.0
        self._wait()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def is_over(self) -> bool:
        """Count a round; whether it was the last one."""
        self._rounds += 1
        if self._rounds < 0:
            return False
        if self._rounds == 0:
            self._wait()
            self._since = time.perf_counter()
            return False
        if self._rounds & (self._rounds - 1) and time.perf_counter() - self._since < self._seconds:
            return False
        self._wait()  # at powers of two, and at the end: a processor may run far ahead of the GPU
        took = time.perf_counter() - self._since
        self.ms = 1e3 * took / self._rounds
        return took >= self._seconds

    def result(self) -> Result:
        return Result(self.ms, torch.cuda.max_memory_allocated() / 1e6 if self._device.type == "cuda" else 0.0)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


class Loop:
    """FedAvg by hand, with the points on the device beforehand; as a CUDA graph of one worker's training if asked."""

    def __init__(self, kind: str, device: torch.device, graph: bool, precision: torch.dtype | None) -> None:
        self.net = network(kind).to(device)
        self.parameters = list(self.net.parameters())
        self.cohort = KINDS[kind].cohort
        self.device, self.precision = device, precision
        self.points = [tuple(t.to(device) for t in points(kind, worker)) for worker in range(POPULATION)]
        self.start = [p.detach().clone() for p in self.parameters]
        self.mean = [torch.zeros_like(p) for p in self.start]
        self.x, self.y = (t.clone() for t in self.points[0])
        self.graph: Any = None
        if graph:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._train()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._train()

    def _train(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.start)
        for inputs, labels in zip(self.x.split(BATCH), self.y.split(BATCH), strict=True):
            with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
                loss = nn.functional.cross_entropy(self.net(inputs), labels)
            gradients = torch.autograd.grad(loss, self.parameters)
            with torch.no_grad():
                torch._foreach_add_(self.parameters, gradients, alpha=-LR)
        with torch.no_grad():
            torch._foreach_add_(self.mean, self.parameters, alpha=1 / self.cohort)

    def round(self) -> None:
        torch._foreach_zero_(self.mean)
        for worker in torch.randperm(POPULATION)[: self.cohort].tolist():
            order = torch.randperm(POINTS).to(self.device)
            x, y = self.points[worker]
            torch.index_select(x, 0, order, out=self.x)
            torch.index_select(y, 0, order, out=self.y)
            self._train() if self.graph is None else self.graph.replay()
        torch._foreach_copy_(self.start, self.mean)


class Timer(pl.Callback):
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.should_stop or self.clock.is_over()


class Ours:
    """FedAvg by ``trainer.fit``, with TensorBoard every 50 rounds."""

    def __init__(self, kind: str, device: torch.device, engine: Any, precision: Any = "32-true") -> None:
        self.kind, self.device, self.engine, self.precision = kind, device, engine, precision
        self.data = FederatedDataModule(
            {f"worker_{i:03}": WorkerData(kind, i) for i in range(POPULATION)},
            cohort_size=KINDS[kind].cohort,
            rounds_per_epoch=50,
        )
        for name in self.data.names:
            self.data.pool[name].batches  # noqa: B018

    def fit(self, *callbacks: pl.Callback, **options: Any) -> None:
        with tempfile.TemporaryDirectory() as logs:
            pl.Trainer(
                **{"max_epochs": -1, **options},
                accelerator="gpu" if self.device.type == "cuda" else "cpu",
                devices=1,
                precision=self.precision,
                log_every_n_steps=50,
                default_root_dir=logs,
                callbacks=list(callbacks),
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
            ).fit(FederatedModule(Classifier(self.kind), engine=self.engine), self.data)


Run = Callable[[Clock], None]


def contenders(kind: str, device: torch.device) -> dict[str, Run]:
    """All of a kind, by name; each runs until its clock says that it is over."""
    cuda = device.type == "cuda"

    def loop(graph: bool = False, precision: torch.dtype | None = None) -> Run:
        def run(clock: Clock) -> None:
            hand = Loop(kind, device, graph, precision)
            while not clock.is_over():
                hand.round()

        return run

    def ours(engine: Callable[[], Any], precision: Any = "32-true", **options: Any) -> Run:
        return lambda clock: Ours(kind, device, engine(), precision).fit(Timer(clock), **options)

    def tf32(run: Run) -> Run:
        def fast(clock: Clock) -> None:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
            try:
                run(clock)
            finally:
                torch.set_float32_matmul_precision(before)

        return fast

    runs = {"loop": loop(), "loop, bf16-mixed": loop(precision=torch.bfloat16)}
    if cuda and kind != "cnn":  # its dropout draws from a generator that the graph would hold
        runs["loop, a CUDA graph"] = loop(graph=True)
    runs["Sequential()"] = ours(engines.Sequential)
    for size in (1, 5, 10, 25, 50):
        runs[f"Vectorized({size})"] = ours(lambda size=size: engines.Vectorized(size))
    runs["Vectorized()"] = ours(engines.Vectorized)
    runs["Vectorized(compile=True)"] = ours(lambda: engines.Vectorized(compile=True))
    runs["Vectorized(), TF32"] = tf32(ours(engines.Vectorized))
    if kind == "cnn":  # the Trainer's flag: cuDNN tries its algorithms for convolutions once
        runs["Vectorized(), benchmark=True"] = ours(engines.Vectorized, benchmark=True)
    runs["Vectorized(), bf16-mixed"] = ours(engines.Vectorized, "bf16-mixed")
    return runs


def floor_ms(kind: str, device: torch.device) -> tuple[float, float]:
    """The arithmetic of a round in GFLOP, and how long it takes at the rate of a large float32 product."""
    net = network(kind).to(device)
    x, y = (t[:BATCH].to(device) for t in points(kind, 0))
    with FlopCounterMode(display=False) as counter:
        nn.functional.cross_entropy(net(x), y).backward()
    flop = counter.get_total_flops() * (POINTS // BATCH) * KINDS[kind].cohort
    n = 4096 if device.type == "cuda" else 512
    a = torch.randn(n, n, device=device)
    clock = Clock(0.3, device)
    while not clock.is_over():
        a @ a
    return flop / 1e9, flop / (2 * n**3 / (clock.ms / 1e3)) * 1e3


def pfl(kind: str, seconds: float, guess_ms: float) -> Result | str:
    """The round by pfl-research, in a process of its own; or what went wrong."""
    rounds = max(3, int(1e3 * seconds / guess_ms))
    figures = measure([sys.executable, str(HERE / "peers" / "apple_pfl.py"), kind, str(rounds)], threads=2)
    return figures if isinstance(figures, str) else Result(figures["ms"])


def compete(kind: str, device: torch.device, options: argparse.Namespace) -> None:
    runs = contenders(kind, device)
    wanted = {name: run for name, run in runs.items() if name == "loop" or any(part in name for part in options.only)}
    turns: dict[str, list[Result]] = {name: [] for name in wanted}
    failures: dict[str, str] = {}
    for _ in range(options.repeats):
        for name, run in wanted.items():
            if name in failures:
                continue
            clock = Clock(options.seconds, device)
            try:
                run(clock)
            except Exception as error:
                failures[name] = f"{type(error).__name__}: {str(error)[:150]}"
                continue
            turns[name].append(clock.result())
        if options.pfl and "pfl-research" not in failures:
            result = pfl(kind, options.seconds, turns["loop"][-1].ms)
            if isinstance(result, str):
                failures["pfl-research"] = result
            else:
                turns.setdefault("pfl-research", []).append(result)
    gflop, floor = floor_ms(kind, device)
    print(f"\n## {kind}: cohort {KINDS[kind].cohort}, medians of {options.repeats} turns of {options.seconds:g} s\n")
    print(f"{gflop:.1f} GFLOP a round: {floor:.2f} ms at the {gflop / floor:.3g} TFLOP/s of a float32 product here.\n")
    print("| contender | ms a round | least–most | ratio to the loop | ratio to pfl | peak MB |")
    print("|---|---|---|---|---|---|")
    for name, results in turns.items():
        if not results:
            print(f"| {name} | {failures[name]} | | | | |")
            continue
        ms = [result.ms for result in results]
        ratios = []
        for other in ("loop", "pfl-research"):
            pairs = zip(turns.get(other, []), results, strict=False)
            ratios.append(f"{median([one.ms / two.ms for one, two in pairs]):.2f}" if turns.get(other) else "")
        print(
            f"| {name} | {median(ms):.2f} | {min(ms):.2f}–{max(ms):.2f} | {ratios[0]} | {ratios[1]} | "
            f"{max(result.peak_mb for result in results):.0f} |"
        )
    for name in failures.keys() - turns.keys():
        print(f"| {name} | {failures[name]} | | | | |")
    sys.stdout.flush()


class Profiled(pl.Callback):
    """Profiles some rounds after the first ones."""

    def __init__(self, first: int = 4, rounds: int = 4) -> None:
        self.first, self.last, self.seen = first, first + rounds, 0
        self.profile = torch.profiler.profile()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.first:
            self.profile.start()
        if self.seen == self.last:
            self.profile.stop()


def profile(kind: str, device: torch.device) -> None:
    watched = Profiled()
    Ours(kind, device, "vectorized").fit(watched, max_steps=10)
    averages = watched.profile.key_averages()
    for by in ("self_device_time_total", "self_cpu_time_total"):
        print(f"\n### {kind}, four rounds, by {by}\n")
        print(averages.table(sort_by=by, row_limit=18, max_name_column_width=50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], metavar="SUBSTRING", help="besides the loop")
    parser.add_argument("--pfl", action="store_true", help="apple/pfl-research as well, in this environment")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{name}; torch {torch.__version__}, pytorch-lightning {pl.__version__}, Python {sys.version.split()[0]}")
    for kind in options.kind:
        for worker in range(POPULATION):
            points(kind, worker)
        if options.profile:
            profile(kind, device)
        else:
            compete(kind, device, options)


if __name__ == "__main__":
    main()
