"""Secure aggregation over real processes: the simulation's model to the bit, with a node killed at each step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from federation import HERE, Federation
from sites import NAMES, Data, run

from lightning_fed.selection import Availability, Response

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Checkpoint directory")]
APP = HERE / "training_app"


SECONDS = {"node": 12.0, "resident": 60.0}
"""How long is waited for an answer: one that has begun anew imports torch before it says so."""


class Absent(Availability):
    """One site is absent from a round on."""

    def __init__(self, site: str, since: int) -> None:
        self.site = site
        self.since = since

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return Response("absent" if worker == self.site and number >= self.since else "replies")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("secure")
    with Federation(folder, nodes=NAMES, build="dying_sites:build", separate=True) as made:
        made.start(nodes=())
        for name in NAMES:
            start(made, name)
        for name in NAMES:
            made.wait_for_log(name, "SuperNode ID")
        yield made


def start(federation: Federation, name: str, step: str = "", victim: str = "") -> None:
    federation.start_node(name, "--config", f"sites={name}", "--config", f"step={step}", "--config", f"victim={victim}")


def deployed(federation: Federation, name: str, seconds: float = 300, **config: Any) -> dict[str, Any]:
    out = federation.folder / name
    federation.run(APP, seconds=seconds, out=str(out), secure=True, **config)
    result: dict[str, Any] = json.loads((out / "result.json").read_text())
    return result


def simulated(tmp_path: Path, **config: Any) -> dict[str, Any]:
    return run({site: Data(site) for site in NAMES}, "sequential", out=str(tmp_path / "here"), secure=True, **config)


def test_a_run_ends_with_the_simulations_model(federation: Federation, tmp_path: Path) -> None:
    there, here = deployed(federation, "whole"), simulated(tmp_path)
    assert there["model"] == here["model"]
    assert there["metrics"] == here["metrics"]
    assert not any(there["failures"])
    print(f"{', '.join(f'{seconds:.1f}' for seconds in there['seconds'])} s")


@pytest.mark.parametrize(
    ("step", "victim"), [*((step, "node") for step in ("train", "share", "mask", "unmask")), ("mask", "resident")]
)
def test_a_node_that_is_killed_at_a_step(federation: Federation, tmp_path: Path, step: str, victim: str) -> None:
    """Before its numbers have come it is not in the sum, and after that it is; a resident comes back for the next."""
    federation.kill("west")
    count = federation.log("west").count("SuperNode ID")
    start(federation, "west", step, victim)
    federation.wait_for_log("west", "SuperNode ID", seconds=120, count=count + 1)
    there = deployed(federation, f"{victim}-{step}", timeout=SECONDS[victim], error="drop", rounds=2)
    failed = [set(each) for each in there["failures"]]
    first = set() if step == "unmask" else {"west"}
    assert failed == [first, {"west"} if victim == "node" else set()]
    if victim == "node":
        absent = Absent("west", since=1 if step == "unmask" else 0)
        assert there["model"] == simulated(tmp_path, rounds=2, availability=absent)["model"]
        start(federation, "west")
        federation.wait_for_log("west", "SuperNode ID", seconds=120, count=count + 2)
