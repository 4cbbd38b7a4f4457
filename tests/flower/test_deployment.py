"""Nodes as processes of their own, with TLS and keys, asked by a ServerApp: the chain from end to end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

pytest.importorskip("flwr")

from federation import HERE, Federation

pytestmark = [pytest.mark.slow]
APP = HERE / "echo_app"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    folder = tmp_path_factory.mktemp("federation")
    with Federation(folder, environment={"BUNDLE_WAS_RUN": str(folder / "bundle-was-run")}) as made:
        yield made.start()


def _rounds(federation: Federation, name: str, **config: Any) -> list[dict[str, Any]]:
    out = federation.folder / name
    federation.run(APP, out=str(out), **config)
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_messages_reach_the_nodes_processes_and_come_back(
    federation: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = _rounds(federation, "echo.jsonl", rounds=9)
    answers = [answer for each in rounds for answer in each["answers"]]
    assert [answer["echo"]["round"] for answer in answers] == [number for number in range(9) for _ in range(2)]
    assert all(answer["whole"] for answer in answers)
    assert len({answer["pid"] for answer in answers}) == 2  # one resident process each, for all rounds
    seconds = [each["seconds"] for each in rounds]
    with capsys.disabled():
        print(f"\nseconds of a round of 2 nodes: {median(seconds[1:]):.2f} ({', '.join(f'{s:.2f}' for s in seconds)})")


def test_a_second_run_finds_the_same_processes(federation: Federation) -> None:
    pids = [
        {answer["pid"] for each in _rounds(federation, f"{name}.jsonl", rounds=1) for answer in each["answers"]}
        for name in ("first", "second")
    ]
    assert pids[0] == pids[1]


def test_nothing_of_the_bundle_is_run_or_installed_at_nodes(federation: Federation) -> None:
    _rounds(federation, "bundle.jsonl", rounds=1)
    assert not (federation.folder / "bundle-was-run").exists()
    for name in federation.nodes:
        assert not (federation.home(name) / "flwr" / "apps").exists()
        assert not list(federation.home(name).rglob("*echo_app*"))


def test_a_large_part_arrives_whole(federation: Federation) -> None:
    (only,) = _rounds(federation, "large.jsonl", rounds=1, bytes=20_000_000)
    assert [answer["whole"] for answer in only["answers"]] == [True, True]


def test_an_exception_sends_no_text(federation: Federation) -> None:
    (only,) = _rounds(federation, "error.jsonl", rounds=1, script=json.dumps([{"error": "Jane Doe"}]))
    assert [answer["refused"] for answer in only["answers"]] == ["KeyError; see the node's log"] * 2
    assert "Jane Doe" in (federation.home("alice") / "resident.log").read_text()


def test_a_resident_that_dies_in_a_message_is_back_for_the_next(federation: Federation) -> None:
    one, other = _rounds(federation, "exit.jsonl", rounds=2, script=json.dumps([{"exit": 1}, {}]))
    assert ["ended in the middle of a message" in answer["error"] for answer in one["answers"]] == [True, True]
    assert [answer["whole"] for answer in other["answers"]] == [True, True]


def test_a_hung_resident_costs_one_message(federation: Federation) -> None:
    one, other = _rounds(federation, "hang.jsonl", rounds=2, timeout=12, script=json.dumps([{"sleep": 600}, {}]))
    assert [answer["code"] for answer in one["answers"]] == [3, 3]  # the SuperLink's word for late
    assert [answer.get("whole") for answer in other["answers"]] == [True, True]


def test_a_node_that_is_ended_leaves_nothing_and_may_come_back_at_once(federation: Federation) -> None:
    _rounds(federation, "before.jsonl", rounds=1)
    children = federation.children("bob", "")
    assert len(children) >= 3  # SuperNode, SuperExec, resident process
    began = time.monotonic()
    federation.kill("bob", signal.SIGTERM, group=False)
    assert time.monotonic() - began < 10
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    federation.start_node("bob")
    federation.wait_for_log("bob", "SuperNode ID", count=2)
    (only,) = _rounds(federation, "after.jsonl", rounds=1)
    assert [answer["whole"] for answer in only["answers"]] == [True, True]


def test_a_supernode_that_is_killed_signs_on_again(federation: Federation) -> None:
    (supernode,) = federation.children("bob", "flower-supernode")
    signed_on = federation.log("bob").count("SuperNode ID")
    os.kill(supernode, signal.SIGKILL)
    federation.wait_for_log("bob", "SuperNode ID", seconds=120, count=signed_on + 1)
    assert "it is started again every 15 s" in federation.log("bob")
    (only,) = _rounds(federation, "again.jsonl", rounds=1)
    assert [answer["whole"] for answer in only["answers"]] == [True, True]


def test_a_key_that_is_not_registered_is_not_let_in(federation: Federation) -> None:
    federation.command("certificates", "--out", str(federation.folder / "other"), "--address", "x", "--nodes", "eve")
    federation.start_node("eve", key="other/eve")
    federation.wait_for_log("eve", "the SuperLink does not let this node in")
    federation.kill("eve", signal.SIGTERM, group=False)
    assert "SuperNode ID" not in federation.log("eve")


def test_a_run_survives_a_superlink_that_is_killed(tmp_path: Path) -> None:
    """With a SuperExec that is a service of its own."""
    environment = {"BUNDLE_WAS_RUN": str(tmp_path / "bundle-was-run")}
    with Federation(tmp_path, nodes=["alice"], separate=True, environment=environment) as made:
        made.start()
        out = tmp_path / "rounds.jsonl"
        run = made.begin(APP, out=str(out), nodes=1, rounds=4, timeout=90)
        end = time.monotonic() + 90
        while not out.exists():
            assert time.monotonic() < end
            time.sleep(0.1)
        made.kill("superlink")
        made.start_superlink()
        assert made.wait_for_run(run, 300) == "finished:completed"
        answers = [answer for line in out.read_text().splitlines() for answer in json.loads(line)["answers"]]
        assert [answer["echo"]["round"] for answer in answers] == [0, 1, 2, 3]
        assert len({answer["pid"] for answer in answers}) == 1
