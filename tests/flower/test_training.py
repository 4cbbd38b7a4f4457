"""Training over real processes, with TLS and keys: equal to the simulation bit for bit, and what faults cost."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("flwr")

from federation import HERE, Federation
from sites import NAMES, Data, run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Checkpoint directory")]
APP = HERE / "training_app"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("training")
    with Federation(folder, nodes=NAMES, build="sites:build", separate=True) as made:
        made.start(nodes=())
        for name in NAMES:
            made.start_node(name, "--config", f"sites={name}")
        for name in NAMES:
            made.wait_for_log(name, "SuperNode ID")
        yield made


def deployed(federation: Federation, name: str, seconds: float = 300, **config: Any) -> dict[str, Any]:
    """Run over the nodes to the end."""
    out = federation.folder / name
    federation.run(APP, seconds=seconds, out=str(out), **config)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def simulated(tmp_path: Path, **config: Any) -> dict[str, Any]:
    """The same in this process."""
    return run({site: Data(site) for site in NAMES}, "sequential", out=str(tmp_path / "simulation"), **config)


def same(there: dict[str, Any], here: dict[str, Any]) -> None:
    for key in ("model", "failures", "bytes"):
        assert there[key] == here[key], key
    # In a simulation the value of one worker's torchmetrics object is a difference of sums, in float32.
    for key in ("metrics", "workers"):
        torch.testing.assert_close(there[key], here[key], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["FedAvg", "Scaffold", "FedPer"])
def test_training_and_evaluation_equal_the_simulation(federation: Federation, algorithm: str, tmp_path: Path) -> None:
    there = deployed(federation, algorithm, algorithm=algorithm, evaluates=True)
    same(there, simulated(tmp_path, algorithm=algorithm, evaluates=True))
    print(f"{algorithm}: {', '.join(f'{seconds:.1f}' for seconds in there['seconds'])} s")


@pytest.mark.filterwarnings("ignore:LocalDP. noise comes from the seed")
def test_a_local_promise_is_kept_at_the_nodes(federation: Federation, tmp_path: Path) -> None:
    there = deployed(federation, "local", promise="LocalDP")
    here = simulated(tmp_path, promise="LocalDP")
    assert there["model"] == here["model"]
    for name in NAMES:
        (account,) = (federation.home(name) / "account").rglob("*.jsonl")
        assert len(account.read_text().splitlines()) >= 3


def test_a_second_run_resumes_where_the_first_ended_with_what_the_nodes_remember(
    federation: Federation, tmp_path: Path
) -> None:
    deployed(federation, "first", algorithm="Scaffold", rounds=2)
    last = federation.folder / "first" / "last.ckpt"
    there = deployed(federation, "second", algorithm="Scaffold", rounds=4, ckpt=str(last))
    assert there["model"] == simulated(tmp_path, algorithm="Scaffold", rounds=4)["model"]


def test_a_run_outlives_its_superlink(federation: Federation, tmp_path: Path) -> None:
    out = federation.folder / "outlives"
    number = federation.begin(APP, out=str(out), rounds=4, algorithm="Scaffold", error="drop", pause=1.0)
    _wait_for_round(out, 1)
    federation.kill("superlink")
    time.sleep(3)
    federation.start_superlink()
    assert federation.wait_for_run(number) == "finished:completed"
    there = json.loads((out / "result.json").read_text())
    if not any(there["failures"]):  # a round that was on its way may have lost an answer
        assert there["model"] == simulated(tmp_path, algorithm="Scaffold", rounds=4)["model"]
    assert len(there["failures"]) == 4


def test_a_node_that_is_killed_in_a_round_costs_its_rounds_and_comes_back(federation: Federation) -> None:
    out = federation.folder / "killed"
    number = federation.begin(APP, out=str(out), rounds=12, timeout=12.0, error="drop", pause=1.0)
    _wait_for_round(out, 1)
    (supernode,) = federation.children("west", "flower-supernode")
    os.kill(supernode, signal.SIGKILL)
    assert federation.wait_for_run(number) == "finished:completed"
    failures = json.loads((out / "result.json").read_text())["failures"]
    failed = [number for number, each in enumerate(failures) if each]
    assert failed
    assert all(set(failures[number]) == {"west"} for number in failed)
    words = " ".join(failures[number]["west"] for number in failed)
    assert "no answer within 12 seconds" in words or "its node is away" in words
    federation.wait_for_log("west", "SuperNode ID", seconds=120, count=federation.log("west").count("SuperNode ID"))


def test_a_resident_that_is_killed_is_back_for_the_next_message(federation: Federation) -> None:
    out = federation.folder / "resident"
    number = federation.begin(APP, out=str(out), rounds=4, error="drop", pause=2.0)
    _wait_for_round(out, 1)
    (resident,) = federation.children("south", "lightning_fed.node.resident")
    os.kill(resident, signal.SIGKILL)
    assert federation.wait_for_run(number) == "finished:completed"
    failures = json.loads((out / "result.json").read_text())["failures"]
    assert failures[-1] == {}


def test_a_module_that_differs_ends_the_run_before_its_first_round(federation: Federation) -> None:
    said = federation.run(APP, out=str(federation.folder / "differs"), rounds=1, wide=True)
    assert "the run cannot begin, since nodes refuse" in said
    for name in NAMES:
        assert f"the node of {name!r}: its module is another one: body.weight is trained, float32, [8, 2] here" in said


def _wait_for_round(out: Path, rounds: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path = out / "rounds.json"
        if path.exists() and len(json.loads(path.read_text() or "[]")) >= rounds:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{out} has not come to round {rounds}")
