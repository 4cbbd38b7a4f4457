"""What goes wrong between machines, over real processes that train: each costs its worker alone, and is said in words.

Two runs at once on the same nodes (:func:`test_two_runs_at_once_both_end_as_if_alone`) work: a node answers one
message at a time, whichever run it is of, and lets go of one run as it takes up the other; what workers remember lies
in a folder of each run.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from broken_network import CutWire
from federation import CONNECTION, HERE, Federation
from sites import Data, run

from lightning_fed.wire import Job
from lightning_fed.worker.local_fit import LocalFit

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Checkpoint directory")]
APP = HERE / "training_app"
NAMES = ("north", "south")
LATE = 15.0
"""The seconds for a message where a worker is to be late: enough for the others on a busy machine."""


class Sites:
    """The two nodes, north as it is meant to be, and south as a test has it."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.folder = federation.folder
        self._south: tuple[Any, ...] = ()

    def start(self) -> None:
        self.federation.start(nodes=())
        for name in NAMES:
            self.federation.start_node(name, "--config", f"sites={name}")
        for name in NAMES:
            self.federation.wait_for_log(name, "SuperNode ID", seconds=120)

    def south(self, *words: str, build: str | None = None) -> None:
        """Let south run with more words of the command, and wait until it has signed on."""
        if (*words, build) == self._south and "south" in self.federation.processes:
            return
        self.end_south()
        count = self.federation.log("south").count("SuperNode ID")
        self.start_south(*words, build=build)
        self.federation.wait_for_log("south", "SuperNode ID", seconds=180, count=count + 1)

    def start_south(self, *words: str, build: str | None = None) -> None:
        self.federation.start_node("south", "--config", "sites=south", *words, build=build)
        self._south = (*words, build)

    def end_south(self) -> None:
        if "south" in self.federation.processes:
            self.federation.kill("south", signal.SIGTERM, group=False)

    def begin(self, name: str, **config: Any) -> tuple[int, Path]:
        """Begin a run; its number, and where its results will be."""
        out = self.folder / name
        return self.federation.begin(APP, out=str(out), nodes=2, **config), out

    def ended(self, number: int, out: Path, seconds: float = 400) -> dict[str, Any]:
        """Wait until a run has ended well, and return its results."""
        assert self.federation.wait_for_run(number, seconds) == "finished:completed", self.federation.log("superlink")
        return result_of(out)

    def run(self, name: str, **config: Any) -> dict[str, Any]:
        return self.ended(*self.begin(name, **config))


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sites]:
    folder = tmp_path_factory.mktemp("faults")
    with Federation(folder, nodes=NAMES, build="sites:build", separate=True) as federation:
        made = Sites(federation)
        made.start()
        yield made


@pytest.fixture
def plain(sites: Sites) -> Sites:
    """Both nodes as they are meant to be."""
    sites.south()
    return sites


def result_of(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def failures_of(out: Path) -> list[dict[str, str]]:
    """Who has failed so far, round by round, and why."""
    with contextlib.suppress(OSError, ValueError):
        failures: list[dict[str, str]] = json.loads((out / "rounds.json").read_text())
        return failures
    return []


def until(condition: Callable[[], Any], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it has not come to it in time"
        time.sleep(0.1)


def rounds_of(failures: Sequence[Collection[str]]) -> list[int]:
    """The rounds in which somebody failed."""
    return [number for number, each in enumerate(failures) if each]


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Makes the same run in this process, with south failing in some rounds."""

    def simulate(absent: Collection[int] = (), **config: Any) -> dict[str, Any]:
        train = LocalFit.train

        def fail(self: LocalFit, job: Job, worker: Any, *rest: Any) -> Any:
            if worker.name == "south" and job.round in absent:
                raise RuntimeError("absent")
            return train(self, job, worker, *rest)

        with monkeypatch.context() as patched:
            patched.setattr(LocalFit, "train", fail)
            workers = {site: Data(site) for site in NAMES}
            return run(workers, "sequential", error="drop", out=str(tmp_path / "simulation"), **config)

    return simulate


# ---- two runs --------------------------------------------------------------------------------------------------------


def test_two_runs_at_once_both_end_as_if_alone(plain: Sites, simulated: Callable[..., dict[str, Any]]) -> None:
    begun = [
        plain.begin("one", algorithm="Scaffold", rounds=4, timeout=120.0, evaluates=True),
        plain.begin("other", algorithm="FedPer", rounds=4, timeout=120.0, evaluates=True),
    ]
    one, other = (plain.ended(*each) for each in begun)
    assert one["model"] == simulated(algorithm="Scaffold", rounds=4, evaluates=True)["model"]
    assert other["model"] == simulated(algorithm="FedPer", rounds=4, evaluates=True)["model"]
    assert not any(one["failures"] + other["failures"])


def test_a_run_that_is_stopped_in_a_round_leaves_the_nodes_free(
    sites: Sites, simulated: Callable[..., dict[str, Any]]
) -> None:
    mark = sites.folder / "stopped-training"
    sites.south(*_slow(mark, round=1, seconds=3.0), build="faulty_sites:slow")
    number, out = sites.begin("stopped", algorithm="Scaffold", rounds=50, timeout=300.0)
    until(mark.exists)
    sites.federation.flwr("stop", str(number), CONNECTION)
    assert sites.federation.wait_for_run(number, 60) == "finished:stopped"
    until(lambda: not sites.federation.children("superexec", "flwr-serverapp"), 60)
    rounds = len(failures_of(out))
    assert rounds <= 2
    # What south was at it finishes, at most; then it is free for others
    after = sites.run("after-stopped", algorithm="Scaffold", rounds=1, timeout=120.0)
    assert after["model"] == simulated(algorithm="Scaffold", rounds=1)["model"]
    assert len(failures_of(out)) == rounds


# ---- late, and cut off -----------------------------------------------------------------------------------------------


def _slow(mark: Path, round: int, seconds: float) -> list[str]:
    return ["--config", f"round={round}", f"seconds={seconds}", f"mark={mark}"]


def test_a_late_answer_is_dropped_and_what_it_would_remember_does_not_count(
    sites: Sites, simulated: Callable[..., dict[str, Any]]
) -> None:
    sites.south(*_slow(sites.folder / "late", round=1, seconds=1.2 * LATE), build="faulty_sites:slow")
    there = sites.run("late-run", algorithm="Scaffold", rounds=6, timeout=LATE, error="drop", pause=1.0)
    failed = rounds_of(there["failures"])
    assert 1 in failed
    assert all(set(there["failures"][number]) == {"south"} for number in failed)
    assert f"no answer within {LATE:g} seconds" in there["failures"][1]["south"]
    assert 5 not in failed
    assert there["model"] == simulated(failed, algorithm="Scaffold", rounds=6)["model"]


def test_a_network_that_is_cut_costs_its_worker_alone_until_it_is_mended(
    sites: Sites, simulated: Callable[..., dict[str, Any]]
) -> None:
    with CutWire(sites.federation.port) as wire, contextlib.ExitStack() as after:
        after.callback(sites.end_south)
        sites.south("--superlink", f"127.0.0.1:{wire.port}")
        number, out = sites.begin("cut", algorithm="Scaffold", rounds=16, timeout=LATE, error="drop", pause=1.0)
        until(lambda: len(failures_of(out)) >= 1)
        wire.cut()
        until(lambda: len(rounds_of(failures_of(out))) >= 2)
        wire.mend()
        there = sites.ended(number, out)
        failed = rounds_of(there["failures"])
        assert all(set(there["failures"][number]) == {"south"} for number in failed)
        words = {there["failures"][number]["south"] for number in failed}
        assert all("no answer within" in each or "its node is away" in each for each in words)
        assert failed[-1] < 15
        assert there["model"] == simulated(failed, algorithm="Scaffold", rounds=16)["model"]


# ---- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_costs_its_worker_until_there_is_room(
    sites: Sites, small_disk: Path, simulated: Callable[..., dict[str, Any]]
) -> None:
    sites.south("--home", str(small_disk / "home"))
    number, out = sites.begin("full", algorithm="Scaffold", rounds=8, timeout=60.0, error="drop", pause=1.0)
    until(lambda: len(failures_of(out)) >= 1)
    _fill(small_disk / "filler")
    until(lambda: len(rounds_of(failures_of(out))) >= 2)
    (small_disk / "filler").unlink()
    there = sites.ended(number, out)
    failed = rounds_of(there["failures"])
    assert all(set(there["failures"][number]) == {"south"} for number in failed)
    for each in failed:
        assert "No space left on device" in there["failures"][each]["south"]
        assert "make room on the node's disk" in there["failures"][each]["south"]
    assert failed[-1] < 7
    assert there["model"] == simulated(failed, algorithm="Scaffold", rounds=8)["model"]
    sites.end_south()


def _fill(path: Path) -> None:
    """Write until there is no room, to the last page."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


# ---- a policy --------------------------------------------------------------------------------------------------------


def test_a_policy_that_refuses_an_algorithm_ends_the_run_before_its_first_round(sites: Sites) -> None:
    policy = sites.folder / "only-mean.yaml"
    policy.write_text("# what we allow\nalgorithms: [FedAvg]\n")
    sites.south("--policy", str(policy))
    number, out = sites.begin("refused", algorithm="Scaffold")
    assert sites.federation.wait_for_run(number) == "finished:failed"
    said = " ".join(sites.federation.flwr("list", CONNECTION, "--format", "json").split())
    assert "the run cannot begin, since nodes refuse" in said
    assert "the node of 'south': the run uses the algorithm Scaffold" in said
    assert "(only-mean.yaml, line 2) says algorithms: [FedAvg]" in said
    assert not failures_of(out)


def test_a_policy_that_allows_some_rounds_refuses_the_next(
    sites: Sites, simulated: Callable[..., dict[str, Any]]
) -> None:
    policy = sites.folder / "twice.yaml"
    policy.write_text("most_rounds: 2\n")
    sites.south("--policy", str(policy), "--home", str(sites.folder / "home-of-twice"))
    there = sites.run("twice", rounds=3, error="drop")
    assert there["failures"][:2] == [{}, {}]
    assert set(there["failures"][2]) == {"south"}
    assert "its node refuses" in there["failures"][2]["south"]
    assert "most_rounds" in there["failures"][2]["south"]
    assert there["model"] == simulated([2], rounds=3)["model"]


# ---- a node that is not let in ---------------------------------------------------------------------------------------


_CLOCK = """
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += OFFSET;
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec, now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *now) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    return now ? *now = exact.tv_sec : exact.tv_sec;
}
"""
"""A library that shifts the wall clock, and no other; libfaketime 0.9.10 breaks Python's sleep, too."""


@contextlib.contextmanager
def _clock(federation: Federation, offset: int) -> Iterator[None]:
    """Nodes that are started meanwhile have a clock that is some seconds off."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("a wrong clock needs Linux and a C compiler")
    source, library = federation.folder / "clock.c", federation.folder / f"clock{offset}.so"
    source.write_text(_CLOCK)
    subprocess.run([compiler, "-shared", "-fPIC", f"-DOFFSET={offset}", "-o", str(library), str(source)], check=True)
    federation.environment["LD_PRELOAD"] = str(library)
    yield
    del federation.environment["LD_PRELOAD"]


@pytest.mark.parametrize("offset", [600, -600, 60])
def test_a_node_whose_clock_is_wrong_is_not_let_in_and_says_so(sites: Sites, offset: int) -> None:
    sites.end_south()
    before = len(sites.federation.log("south"))
    with _clock(sites.federation, offset):
        sites.start_south()
    until(lambda: "it is tried again" in sites.federation.log("south")[before:])
    sites.end_south()
    said = sites.federation.log("south")[before:]
    assert "the SuperLink does not let this node in" in said
    assert "this machine's clock" in said
    assert "SuperNode ID" not in said


def test_a_clock_that_is_a_minute_late_does_no_harm(sites: Sites, simulated: Callable[..., dict[str, Any]]) -> None:
    sites.end_south()
    with _clock(sites.federation, -60):
        sites.south()
    there = sites.run("minute", algorithm="Scaffold", rounds=2, timeout=90.0)
    sites.end_south()
    assert there["model"] == simulated(algorithm="Scaffold", rounds=2)["model"]


def test_a_wrong_certificate_authority_is_named(sites: Sites) -> None:
    sites.end_south()
    other = sites.folder / "other-ca"
    sites.federation.command("certificates", "--out", str(other), "--address", "127.0.0.1", "--nodes", "x")
    before = len(sites.federation.log("south"))
    sites.start_south("--root-certificates", str(other / "ca.crt"))
    until(lambda: "it is tried again" in sites.federation.log("south")[before:])
    sites.end_south()
    said = sites.federation.log("south")[before:]
    assert "its certificate is not signed by the --root-certificates" in said
