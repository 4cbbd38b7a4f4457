"""Cost of a round between processes over Flower, with TLS and keys: ours, and Flower's own strategy.

    make bench-deployment
    .flower/bin/python benchmarks/deployment.py [--only linear large bytes] [--rounds 9] [--large-rounds 6] [--turns 2]

A SuperLink and three nodes run on this machine, each in processes of its own, and carry out the same federated
averaging in turn

- as ours: ``lightning-fed node``, a stock Trainer with ``engine=Flower(grid)``;
- as Flower's own: the strategy FedAvg, ``flower-supernode`` as it comes, and a ClientApp that imports torch;
- by Flower's strategy *with our executor*: the same, but a ClientApp without torch hands the arrays to a process that
  stays, through ``lightning_fed.node.caller``.

``linear`` has 3 parameters and shows what a round waits for; ``large`` has 100 MB and shows what its bytes cost, and
the memory; ``bytes`` counts them, as they cross, in a proxy between the nodes and the SuperLink. The first round is not
counted: it starts the processes. Prints Markdown; ratios are of medians of one turn.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT / "tests" / "flower"), str(HERE / "deployment")]

from deployed.task import SITES  # noqa: E402
from federation import BIN, Federation  # noqa: E402

OURS, STOCK, SAME = "ours", "Flower's strategy, stock", "Flower's strategy, our executor"
LIMIT = 1200
"""Seconds after which a run is taken to hang."""
MODEL = 100_000_000
TICKS = os.sysconf("SC_CLK_TCK")
PROGRAMS = {
    "flwr-serverapp": "server: ServerApp",
    "flower-superlink": "server: SuperLink",
    "flower-superexec": "SuperExec",
    "flower-supernode": "node: SuperNode",
    "lightning_fed.node.resident": "node: resident process",
    "clientapp": "node: ClientApp",
}


class Stamped(Federation):
    """A federation whose processes' lines are noted with the time at which they came."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.lines: dict[str, list[tuple[float, str]]] = {}
        self.sessions: set[int] = set()
        super().__init__(*arguments, **options)

    def launch(self, name: str, *command: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self.environment,
            cwd=cwd or self.folder,
            start_new_session=True,
        )
        (self.folder / f"{name}.log").touch()
        threading.Thread(target=self._stamp, args=(name, process.stdout), daemon=True).start()
        self.processes[name] = process
        return process

    def _stamp(self, name: str, lines: Any) -> None:
        stamped = self.lines.setdefault(name, [])
        with (self.folder / f"{name}.log").open("a", buffering=1) as log:
            for line in lines:
                text = line.decode(errors="replace")
                stamped.append((time.time(), text))
                log.write(text)

    def close(self) -> None:
        """End all processes, also those in sessions of their own whose parents were killed before they could."""
        self.note_sessions()
        super().close()
        end = time.monotonic() + 10
        while (left := [pid for pid, each in _stats() if each.session in self.sessions and each.state != "Z"]) and (
            time.monotonic() < end
        ):
            time.sleep(0.2)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def note_sessions(self) -> list[tuple[int, Stat]]:
        """Return all processes that belong to the federation, with those whose parents have ended."""
        found = list(_stats())
        ours = {process.pid for process in self.processes.values()}
        for pid, each in sorted(found):
            if each.parent in ours or each.session in self.sessions:
                ours.add(pid)
        own = os.getsid(0)
        mine = [(pid, each) for pid, each in found if pid in ours and each.session != own]
        self.sessions |= {each.session for _, each in mine}
        return [(pid, each) for pid, each in found if each.session in self.sessions]


@dataclass(frozen=True)
class Stat:
    """A process: its parent, its session, its state, and its seconds of processor with those of ended children."""

    parent: int
    session: int
    state: str
    seconds: float


def _stats() -> Iterator[tuple[int, Stat]]:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "stat").read_text().rsplit(")", 1)[1].split()
            seconds = sum(map(int, words[11:15])) / TICKS
            yield int(path.name), Stat(int(words[1]), int(words[3]), words[0], seconds)


class Sampler(threading.Thread):
    """Looks at the federation's processes every so often: processor time, and peaks of memory by program."""

    def __init__(self, federation: Stamped, every: float) -> None:
        super().__init__(daemon=True)
        self.federation, self.every = federation, every
        self.times: list[float] = []
        self.seconds: list[float] = []
        self.peaks: dict[str, int] = {}
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(self.every):
            self._look()

    def _look(self) -> None:
        total = 0.0
        for pid, each in self.federation.note_sessions():
            total += each.seconds
            with contextlib.suppress(OSError, StopIteration):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
                program = next(name for key, name in PROGRAMS.items() if key in words)
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        self.peaks[program] = max(self.peaks.get(program, 0), 1024 * int(line.split()[1]))
        self.times.append(time.time())
        self.seconds.append(total)

    def between(self, began: float, ended: float) -> float:
        """Seconds of processor from one moment to another, by the nearest looks."""

        def at(moment: float) -> float:
            place = bisect_right(self.times, moment)
            before, after = max(place - 1, 0), min(place, len(self.times) - 1)
            span = self.times[after] - self.times[before]
            part = (moment - self.times[before]) / span if span else 0.0
            return self.seconds[before] + part * (self.seconds[after] - self.seconds[before])

        return at(ended) - at(began)

    def end(self) -> None:
        self._over.set()
        self.join()
        self._look()


class Proxy(threading.Thread):
    """Passes on what the nodes and the SuperLink send each other, and counts the bytes."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self.port = 0
        self.up = self.down = self.connections = 0
        self.looks: list[tuple[float, int, int]] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    def run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.create_task(self._serve())
        self._loop.run_forever()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=2**20)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        while True:
            self.looks.append((time.time(), self.down, self.up))
            await asyncio.sleep(0.05)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.CancelledError):  # as the proxy ends
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
            await asyncio.gather(self._pass(reader, far_writer, "up"), self._pass(far_reader, writer, "down"))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(2**20):
                setattr(self, way, getattr(self, way) + len(data))
                writer.write(data)
                await writer.drain()
        writer.close()

    def listen(self) -> Proxy:
        self.start()
        self._ready.wait()
        return self

    def between(self, began: float, ended: float) -> tuple[int, int]:
        """Bytes down and up from one moment to another."""

        def at(moment: float) -> tuple[int, int]:
            place = bisect_right(self.looks, (moment, sys.maxsize, sys.maxsize))
            _, down, up = self.looks[max(place - 1, 0)]
            return down, up

        (one, two), (three, four) = at(began), at(ended)
        return three - one, four - two

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self.join()

    def _stop(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        asyncio.gather(*tasks, return_exceptions=True).add_done_callback(lambda _: self._loop.stop())


@dataclass
class Run:
    """The result of a run."""

    result: dict[str, Any]
    cpu: float = 0.0
    peaks: dict[str, int] = field(default_factory=dict)
    nodes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    lines: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    starts: dict[str, list[float]] = field(default_factory=dict)
    proxy: Proxy | None = None
    idle: tuple[float, float] = (0.0, 0.0)

    @property
    def seconds(self) -> list[float]:
        """The time of each round but the first."""
        ends = self.result["ends"][1:]
        return [after - before for before, after in pairwise(ends)]

    @property
    def first(self) -> float:
        ends: list[float] = self.result["ends"]
        return ends[1] - ends[0]


def carry_out(way: str, kind: str, rounds: int, counts: bool = False) -> Run:
    """Start a federation, run an App on it and end it."""
    # A short path: sockets lie in it
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        environment = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE / "deployment")]),
            "TMPDIR": str(folder),
            # As it comes, Flower looks for a task once a second; a node of ours asks for more.
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "1" if way == STOCK else "0.25",
        }
        federation = Stamped(folder, nodes=SITES, build="deployed.nodes:build", environment=environment)
        stack.callback(federation.close)
        federation.start_superlink()
        proxy = Proxy(federation.port).listen() if counts else None
        if proxy is not None:
            stack.callback(proxy.end)
        for site in SITES:
            federation.register(site)
            start_node(federation, way, kind, site, proxy.port if proxy else federation.port)
        for site in SITES:
            federation.wait_for_log(site, "SuperNode ID", seconds=120)
        if way == OURS:
            for site in SITES:
                note_starts(federation.home(site) / "bin" / "flwr-clientapp", folder / f"{site}.starts")
        idle = (0.0, 0.0)
        if proxy is not None:
            began = time.time()
            time.sleep(15)
            idle = tuple(count / 15 for count in proxy.between(began, time.time()))  # type: ignore[assignment]
        sampler = Sampler(federation, 2.0 if kind == "linear" else 0.5)
        sampler.start()
        federation.run(app_of(way, folder), seconds=LIMIT, kind=kind, rounds=rounds, out=str(folder / "out"))
        sampler.end()
        result = json.loads((folder / "out" / "result.json").read_text())
        ends = result["ends"]
        return Run(
            result,
            sampler.between(ends[1], ends[-1]) / (len(ends) - 2),
            sampler.peaks,
            {site: [json.loads(line) for line in _lines(folder / f"{site}.notes")] for site in SITES},
            federation.lines,
            {site: [float(line) for line in _lines(folder / f"{site}.starts")] for site in SITES},
            proxy,
            idle,
        )


def start_node(federation: Stamped, way: str, kind: str, site: str, port: int) -> None:
    config = {"kind": kind, "site": site, "notes": f"{federation.folder}/{site}.notes"}
    if way == OURS:
        words = ["--superlink", f"127.0.0.1:{port}", "--config", *(f"{key}={value}" for key, value in config.items())]
        federation.start_node(site, *words)
        return
    config["home"] = str(federation.home(site))
    at = federation.folder
    with_ = ["--root-certificates", f"{at}/ca.crt", "--auth-supernode-private-key", f"{at}/{site}"]
    with_ += ["--node-config", " ".join(f'{key}="{value}"' for key, value in config.items())]
    home = f"FLWR_HOME={federation.home(site)}/flwr"
    address = ["--superlink", f"127.0.0.1:{port}", "--host", "127.0.0.1", "--port", str(free_port())]
    federation.launch(site, "env", home, str(BIN / "flower-supernode"), *address, *with_)


def note_starts(program: Path, notes: Path) -> None:
    """Have the relay's program write down when it is started."""
    first, rest = program.read_text().split("\n", 1)
    program.write_text(f"{first}\ndate +%s.%N >> {notes}\n{rest}")


def free_port() -> int:
    from federation import free_port

    port: int = free_port()
    return port


def app_of(way: str, folder: Path) -> Path:
    if way == OURS:
        return HERE / "deployment" / "ours"
    app = folder / "plain"
    shutil.copytree(HERE / "deployment" / "plain", app, ignore=shutil.ignore_patterns("__pycache__"))
    if way == SAME:
        settings = app / "pyproject.toml"
        settings.write_text(settings.read_text().replace("plain_app.stock", "plain_app.resident"))
    return app


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


# ---- what is printed -------------------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def load() -> str:
    return " ".join(Path("/proc/loadavg").read_text().split()[:2])


def in_turn(ways: Sequence[str], kind: str, rounds: int, turns: int) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    for turn in range(turns):
        for way in ways:
            before = load()
            runs[way].append(run := carry_out(way, kind, rounds))
            said = ", ".join(f"{each:.2f}" for each in run.seconds)
            print(f"turn {turn + 1}, {kind}, {way}: {said} s; load {before} -> {load()}", file=sys.stderr, flush=True)
    return runs


def timed(runs: dict[str, list[Run]]) -> str:
    rows = []
    for way, each in runs.items():
        ratios = [median(ours.seconds) / median(run.seconds) for ours, run in zip(runs[OURS], each, strict=True)]
        seconds = [second for run in each for second in run.seconds]
        ratio = "" if way == OURS else spread(ratios) if len(ratios) > 1 else f"{ratios[0]:.2f}"
        first, cpu = median(run.first for run in each), median(run.cpu for run in each)
        rows.append([way, spread(seconds), f"{first:.1f}", f"{cpu:.2f}", ratio])
    return table(["", "s a round", "first round", "processor, s a round", "ours / this"], rows)


def same_model(runs: dict[str, list[Run]]) -> str:
    ours = runs[OURS][0].result["weights"]
    apart = max(
        abs(a - b) for each in runs.values() for run in each for a, b in zip(ours, run.result["weights"], strict=True)
    )
    return f"Largest difference between the first weights of all these runs at the end: {apart:.1e}."


def linear(rounds: int, turns: int) -> None:
    before = load()
    runs = in_turn([OURS, STOCK, SAME], "linear", rounds, turns)
    print(f"## A model of 3 parameters\n\n{rounds} rounds, {turns} turns; load {before} before and {load()} after.\n")
    print(timed(runs), f"\n{same_model(runs)}\n", sep="\n")
    print("### Where the time of a round of ours goes\n")
    print(phases(runs[OURS]), flush=True)


def phases(runs: Sequence[Run]) -> str:
    """A table of the parts of a round, by the moments that the processes have noted."""
    parts: dict[str, list[float]] = {}
    whole: list[float] = []
    for run in runs:
        for chain in chains(run):
            for name, seconds in chain.items():
                parts.setdefault(name, []).append(seconds)
        whole += run.seconds
    total = sum(median(seconds) for seconds in parts.values())
    rows = [[name, spread(seconds)] for name, seconds in parts.items()]
    last = f"Sum of the medians: {total:.2f} s; a round: {median(whole):.2f} s."
    return f"{table(['', 's'], rows)}\n\n{last}\n"


def chains(run: Run) -> Iterator[dict[str, float]]:
    """Yield the parts of each round but the first, on the way to the node that answered last and back."""
    events = run.result["events"]
    pushes = [(began, ended) for kind, began, ended, about in events if kind == "push" and len(about) == len(SITES)]
    pulls = [(began, ended) for kind, began, ended, _ in events if kind == "pull"]
    ends = run.result["ends"]
    moments = {site: moments_of(run, site) for site in SITES}
    for number in range(1, len(ends) - 1):
        began, ended = ends[number], ends[number + 1]
        push = next(each for each in pushes if each[0] >= began - 1e-3)
        pull = [each for each in pulls if each[1] <= ended][-1]

        def within(stamps: Sequence[float], after: float = push[0], before: float = pull[1]) -> float:
            return [stamp for stamp in stamps if after <= stamp <= before][-1]

        try:
            last = max(SITES, key=lambda site: within(moments[site]["sent"]))
            at = {name: within(stamps) for name, stamps in moments[last].items()}
        except IndexError:  # a line came after its time
            continue
        yield {
            "server: end of a round until the messages are pushed": push[0] - began,
            "server: push": push[1] - push[0],
            "node: its next look (Flower: every 3 s)": at["receiving"] - push[1],
            "node: sees the message until the relay's program starts (SuperExec: every 0.25 s)": at["start"]
            - at["receiving"],
            "node: relay, until the resident process has the message": at["began"] - at["start"],
            "node: training": at["ended"] - at["began"],
            "node: answer to the SuperNode, and its next look (Flower: every 0.5 s)": at["sending"] - at["ended"],
            "node: sends": at["sent"] - at["sending"],
            "server: next look (every 0.25 s), and pull": pull[1] - at["sent"],
            "server: decodes, aggregates, steps, logs": ended - pull[1],
        }


def moments_of(run: Run, site: str) -> dict[str, list[float]]:
    def said(text: str) -> list[float]:
        return [moment for moment, line in run.lines[site] if text in line]

    notes = [note for note in run.nodes[site] if note["ask"] == "train"]
    return {
        "receiving": said("Receiving: train"),
        "received": said("Received successfully"),
        "start": run.starts[site],
        "began": [note["began"] for note in notes],
        "ended": [note["ended"] for note in notes],
        "sending": said("Sending: train"),
        "sent": said("Sent successfully"),
    }


def large(rounds: int, turns: int) -> None:
    before = load()
    runs = in_turn([OURS, SAME], "large", rounds, turns)
    print(f"## A model of 100 MB\n\n{rounds} rounds, {turns} turns; load {before} before and {load()} after.\n")
    print(timed(runs), f"\n{same_model(runs)}\n\n### Memory\n", sep="\n")
    rows = []
    for way, each in runs.items():
        peaks = [max(run.result["peaks"].values()) / MODEL for run in each]
        held = [max(note["peak"] for notes in run.nodes.values() for note in notes) / 1e6 for run in each]
        base = [run.result["before"] / 1e6 for run in each]
        rows.append([way, f"{max(base):.0f}", f"{max(peaks):.2f}", f"{max(held):.0f}"])
    print(table(["", "ServerApp before the first round, MB", "peak above that, models", "resident process, MB"], rows))
    parts = {part: max(run.result["peaks"][part] for run in runs[OURS]) for part in runs[OURS][0].result["peaks"]}
    print(f"\nOurs, by part: {', '.join(f'{part} {peak / MODEL:.2f}' for part, peak in parts.items())} models.")
    print("\nPeaks of all programs, MB:\n")
    names = [name for name in PROGRAMS.values() if any(name in run.peaks for each in runs.values() for run in each)]
    rows = [
        [name, *(f"{max(run.peaks.get(name, 0) for run in each) / 1e6:.0f}" for each in runs.values())]
        for name in names
    ]
    print(table(["", *runs], rows), flush=True)


def bytes_(rounds: dict[str, int]) -> None:
    rows = []
    said = []
    for kind, count in rounds.items():
        run = carry_out(OURS, kind, count, counts=True)
        assert run.proxy is not None
        ends = run.result["ends"]
        crossed = [run.proxy.between(before, after) for before, after in pairwise(ends[1:])]
        reported = run.result["reported"][1:]
        for position, way in enumerate(("down", "up")):
            wire, told = (median(each[position] for each in what) for what in (crossed, reported))
            rows.append([f"{kind}, {way}", f"{wire:,.0f}", f"{told:,.0f}", f"{wire - told:,.0f}", f"{wire / told:.4f}"])
        down, up = run.idle
        said.append(f"{kind}: three nodes that wait exchange {down:,.0f} bytes a second down and {up:,.0f} up.")
    print("## Bytes of a round, three nodes together\n")
    print(table(["", "crossed", "reported", "more", "ratio"], rows), *said, sep="\n\n", flush=True)


def machine() -> str:
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("flwr", "torch", "pytorch-lightning"))
    return f"{os.cpu_count()} cores of {names[0].split(': ')[1]}; Python {sys.version.split()[0]}, {versions}"


def _ends(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parts: dict[str, Callable[[], None]] = {
        "linear": lambda: linear(options.rounds, options.turns),
        "large": lambda: large(options.large_rounds, options.turns),
        "bytes": lambda: bytes_({"linear": options.rounds, "large": 4}),
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--large-rounds", type=int, default=6)
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _ends)
    print(f"{machine()}.\n", flush=True)
    for name in options.only:
        parts[name]()
        print()


if __name__ == "__main__":
    main()
