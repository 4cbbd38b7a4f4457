"""``examples/hospitals``: its policies and its site are such, and it runs as its README says."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightning_fed.node import Node, NodeAccount, Policy
from lightning_fed.wire.terms import PROTOCOL

FOLDER = Path(__file__).parents[2] / "examples" / "hospitals"
PATIENTS = {"north": 520, "south": 240, "west": 380, "registry": 1500}
needs_flower = pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="needs flwr: make test-flower")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(FOLDER))
    subprocess.run([sys.executable, str(FOLDER / "make_data.py"), str(tmp_path / "data")], check=True, timeout=120)
    yield tmp_path / "data"
    for name in [name for name in sys.modules if name.split(".")[0] == "hospitals"]:
        del sys.modules[name]


def test_the_files_have_as_many_patients_as_they_say(data: Path) -> None:
    assert {path.stem: len(path.read_text().splitlines()) - 1 for path in data.iterdir()} == PATIENTS


def test_a_site_announces_itself_as_its_policy_allows(data: Path, tmp_path: Path) -> None:
    from hospitals.site import build

    node: Node = build({"site": "north", "data": str(data / "north.csv")})
    node.home = tmp_path
    told, _ = node.answer({"ask": "greet", "protocol": PROTOCOL}, [])
    assert told["workers"] == [{"name": "north", "examples": 416, "loaders": {"val": 1, "test": 0, "predict": 0}}]
    for name in ("patients", "site"):
        node.policy = Policy.read(FOLDER / "policies" / f"{name}.yaml")
        told, _ = node.answer({"ask": "greet", "protocol": PROTOCOL}, [])
        assert [each["examples"] for each in told["workers"]] == [None]
        assert "val" not in told["workers"][0]["loaders"]


def run_here(folder: Path, *options: str, status: int = 0) -> str:
    command = [sys.executable, str(FOLDER / "run_here.py"), "--folder", str(folder), *options]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER.parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_flower
@pytest.mark.slow
def test_it_runs_resumes_and_hides_patients(tmp_path: Path) -> None:
    said = run_here(tmp_path / "plain", "--rounds", "1")
    assert "accuracy on the registry after 1 rounds" in said, said
    said = run_here(tmp_path / "plain", "--rounds", "2", "--resume", str(tmp_path / "plain/checkpoints/last.ckpt"))
    assert "EvaluationReport, after round 1: 3 workers, 228 examples" in said, said
    said = run_here(tmp_path / "hidden", "--rounds", "2", "--promise", "patients")
    (epsilon,) = re.findall(r"^epsilon ([\d.]+)$", said, re.M)
    account = NodeAccount(tmp_path / "hidden" / "home-west" / "account")
    assert account.epsilon("west", 1e-4) == pytest.approx(float(epsilon), abs=0.005)
    assert list((tmp_path / "hidden" / "logs" / "run").glob("events.out.tfevents.*"))
    said = run_here(tmp_path / "hidden", "--promise", "patients", "--asks", "nothing", status=1)
    assert "the node of 'north': the run makes no promise, and the policy (patients.yaml, line 4) says promise:" in said
