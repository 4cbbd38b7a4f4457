"""The ClientApp that hands messages to the resident process, without Flower's processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from lightning_fed.flower import client_app
from lightning_fed.flower.records import of_records, to_records
from lightning_fed.node.caller import Caller


@pytest.fixture(autouse=True)
def _in_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caller: Callable[..., Caller]) -> Iterator[list[Any]]:
    """The processes that relays have started."""
    processes: list[Any] = []
    start = Caller._start

    def kept(self: Caller) -> Any:
        processes.append(start(self))
        return processes[-1]

    monkeypatch.setattr(Caller, "_start", kept)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def _context(**config: Any) -> Context:
    return Context(run_id=1, node_id=42, node_config=config, state=RecordDict(), run_config={})


def _message(kind: str = "train", ttl: float = 30.0, **fields: Any) -> Message:
    return Message(to_records(fields, [b"abc"]), dst_node_id=42, message_type=kind, ttl=ttl)


@pytest.mark.parametrize("kind", ["train", "evaluate", "query"])
def test_every_kind_of_message_is_answered(kind: str, started: list[Any], tmp_path: Path) -> None:
    reply = client_app("fake_nodes:build")(_message(kind, ask="greet"), _context(site="north", number=3))
    fields, parts = of_records(reply.content)
    assert fields["echo"] == {"ask": "greet"}
    assert fields["config"] == {"site": "north", "number": "3"}
    assert [bytes(part) for part in parts] == [b"abc"]
    assert (tmp_path / ".lightning_fed" / "42" / "resident.log").exists()


def test_the_owner_of_a_node_has_the_last_word(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIGHTNING_FED_BUILD", "fake_nodes:build_without_config")
    monkeypatch.setenv("LIGHTNING_FED_HOME", str(tmp_path / "own"))
    fields, _ = of_records(client_app("of_a_server:build")(_message(), _context()).content)
    assert fields["config"] == {"made": "without"}
    assert (tmp_path / "own" / "resident.log").exists()


def test_a_message_waits_no_longer_than_it_lives(started: list[Any]) -> None:
    app = client_app("fake_nodes:build")
    app(_message(), _context())
    with pytest.raises(TimeoutError, match="has not answered within"):
        app(_message(ttl=2.0, sleep=600), _context())


def test_what_is_no_message_of_ours_never_reaches_the_node(started: list[Any]) -> None:
    message = Message(RecordDict(), dst_node_id=42, message_type="train", ttl=30.0)
    with pytest.raises(ValueError, match="has the records"):
        client_app("fake_nodes:build")(message, _context())
    assert not started


def test_the_relay_imports_neither_torch_nor_lightning() -> None:
    heavy = "[name for name in ('torch', 'pytorch_lightning', 'lightning') if name in sys.modules]"
    program = f"import sys, lightning_fed.flower.relay, lightning_fed.flower.clientapp; print({heavy})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
