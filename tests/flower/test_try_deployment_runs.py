"""`lightning-fed try-deployment`: a config over real processes from one command, which leaves none behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("flwr")

from federation import ROOT

pytestmark = [pytest.mark.slow]
SECONDS = 400
"""For a run of two nodes, on a busy machine."""


@pytest.fixture
def environment(short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Variables by which all processes of a test are known, and ended if the test fails."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield {**os.environ, "TMPDIR": str(short)}
    for process in left(short):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Lets Ctrl-C reach what a test starts: it does not where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def left(short: Path) -> list[int]:
    """The processes that a command has left behind."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"TMPDIR={short}\0".encode() in path.read_bytes():
                found.append(int(path.parent.name))
    return found


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lightning_fed", *words]


def run(here: Path, environment: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; what it says is one text."""
    return subprocess.run(
        command(*words),
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    (path,) = (run / "checkpoints").glob("*.ckpt")
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=False)["state_dict"]
    return state


def test_a_config_runs_over_two_machines_as_in_the_simulation(
    tmp_path: Path, short: Path, environment: dict[str, str]
) -> None:
    began = time.monotonic()
    there = run(tmp_path, environment, "try-deployment", "-c", "toy", "--rounds", "2")
    print(f"{time.monotonic() - began:.0f} s\n{there.stdout}")
    assert there.returncode == 0, there.stdout
    assert not left(short)
    assert not list(short.glob("lightning_fed-*"))
    folder = tmp_path / "logs" / "toy" / "FedAvg-0"
    assert (folder / "run.json").exists()
    assert list(folder.glob("events.out.tfevents.*"))
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    assert not [path for path in written if re.search(rb"token=|HttpGrid|--token (?!HIDDEN)", path.read_bytes())]
    assert "--token HIDDEN" in (folder / "run.json").read_text()
    same = ["--trainer.max_steps", "2", "--trainer.max_epochs", "-1", "--model.engine", "sequential"]
    here = run(tmp_path, environment, "fit", "-c", "toy", *same)
    assert here.returncode == 0, here.stdout
    deployed, simulated = weights(folder), weights(tmp_path / "logs" / "toy" / "FedAvg-1")
    assert deployed.keys() == simulated.keys()
    for name, tensor in deployed.items():
        assert torch.equal(tensor, simulated[name]), name
    # What is said is calm and complete
    assert re.search(r"node-1 hosts bob\n.*node-2 hosts alice\n", there.stdout)
    assert "2 rounds in" in there.stdout
    assert "logs in logs/toy/FedAvg-0" in there.stdout
    assert not re.search("GPU available|Traceback|Warning|INFO|Successfully", there.stdout)
    assert len(there.stdout.splitlines()) <= 14


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_all_processes(tmp_path: Path, short: Path, environment: dict[str, str]) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command("try-deployment", "-c", "toy", "--rounds", "100"),
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=file,
        )
    end = time.monotonic() + SECONDS
    while not re.search(r"round \d+/100", output.read_text()):
        assert time.monotonic() < end
        assert process.poll() is None, output.read_text()
        time.sleep(0.2)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - began < 20
    assert not left(short)
    said = output.read_text()
    assert said.endswith("interrupted; all processes have ended\n")
    assert "Traceback" not in said


def test_a_mistake_in_a_config_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, short: Path, environment: dict[str, str]
) -> None:
    done = run(tmp_path, environment, "try-deployment", "-c", "toy", "--model.local_step", "3")
    assert done.returncode == 2
    assert [line for line in done.stdout.splitlines() if "the one that comes with" not in line] == [
        "error: there is no option '--model.local_step'; did you mean '--model.local_steps'?",
        "",
        "lightning-fed fit --help-all lists all options",
    ]
    assert not left(short)


def test_a_hundred_workers_live_on_two_nodes(tmp_path: Path, short: Path, environment: dict[str, str]) -> None:
    done = run(tmp_path, environment, "try-deployment", "-c", "digits", "--nodes", "2", "--rounds", "1")
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    assert len(re.findall(r"node-\d hosts .* and 46 more", done.stdout)) == 2
    assert (tmp_path / "logs" / "digits" / "FedAvg-0" / "run.json").exists()
    assert not left(short)
