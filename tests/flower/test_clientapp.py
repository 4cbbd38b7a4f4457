"""Our ``flwr-clientapp``: Flower's own code for one message, without anything of the App bundle."""

from __future__ import annotations

import hashlib
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("flwr")

from flwr.app import Context, Message, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.supercore.fab import Fab
from flwr.supercore.task_identity import TaskIdentity

from lightning_fed.flower import clientapp
from lightning_fed.flower.records import of_records, to_records
from lightning_fed.node.caller import Caller

APP = Path(__file__).parent / "echo_app"
flowers = importlib.import_module("flwr.supernode.runtime.run_clientapp")
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # of flwr.cli.build


class Left(BaseException):
    """Flower's process would have ended."""


@pytest.fixture
def message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Message]]:
    """One message waits for the process; what it replies is put into the list. Nothing goes over a network."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.setenv("BUNDLE_WAS_RUN", str(tmp_path / "bundle-was-run"))
    fab = build_fab_from_disk(APP)
    asked = Message(to_records({"ask": "greet"}, []), dst_node_id=1, message_type="train", ttl=30.0)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    bundle = Fab(hashlib.sha256(fab).hexdigest(), fab, {})
    run = SimpleNamespace(run_id=1, fab_id="lightning-fed/echo-app", fab_version="1.0.0")
    replies: list[Message] = []

    def leave(**_: Any) -> None:
        raise Left

    monkeypatch.setattr(flowers.RuntimeHttpClient, "from_server_address", lambda **_: None)
    monkeypatch.setattr(flowers, "HeartbeatSender", lambda *_: SimpleNamespace(start=lambda: None))
    monkeypatch.setattr(flowers, "make_task_heartbeat_fn_http", lambda _: None)
    monkeypatch.setattr(flowers, "register_signal_handlers", lambda **_: None)
    monkeypatch.setattr(flowers, "event", lambda _: None)
    monkeypatch.setattr(flowers, "pull_task_input", lambda _: (asked, context, run, bundle))
    monkeypatch.setattr(flowers, "push_message", lambda client, reply, context: replies.append(reply))
    monkeypatch.setattr(flowers, "flwr_exit", leave)
    replaced = ("install_from_fab", "install_app_dependencies", "get_load_client_app_fn")
    for name in (*replaced, "pull_and_inflate_object_from_tree"):
        monkeypatch.setattr(flowers, name, getattr(flowers, name))  # set back after the test
    yield replies
    for name in [name for name in sys.modules if name.startswith("echo_app")]:
        del sys.modules[name]


WORDS = ["--runtime-api-address", "127.0.0.1:1", "--token", "t", "--insecure"]


@pytest.mark.usefixtures("message")
def test_flowers_own_would_run_the_bundle(tmp_path: Path) -> None:
    """Else the next test would show nothing."""
    with pytest.raises(Left):
        flowers.run_clientapp("127.0.0.1:1", "t", insecure=True)
    assert (tmp_path / "bundle-was-run").exists()
    assert list((tmp_path / "flwr" / "apps").iterdir())


def test_ours_runs_nothing_of_the_bundle(
    message: list[Message], caller: Callable[..., Caller], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = caller()
    monkeypatch.setattr("lightning_fed.flower.relay.Caller", lambda *_: asking)
    for name, value in asking._settings.environment().items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Left):
        clientapp.main([*WORDS, "--allow-runtime-dependency-installation"])  # which would run pip, or uv
    (reply,) = message
    assert of_records(reply.content)[0]["echo"] == {"ask": "greet"}
    assert not (tmp_path / "bundle-was-run").exists()
    assert not (tmp_path / "flwr" / "apps").exists()


@pytest.mark.parametrize("name", ["install_from_fab", "install_app_dependencies", "get_load_client_app_fn"])
@pytest.mark.usefixtures("message")
def test_a_flower_that_has_moved_its_names_runs_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTNING_FED_BUILD", "fake_nodes:build")
    monkeypatch.setenv("LIGHTNING_FED_HOME", "/tmp")
    monkeypatch.delattr(flowers, name)
    with pytest.raises(SystemExit) as left:
        clientapp.main([clientapp.CHECK])
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert f"has no {name} where it is expected" in said
    assert "nothing is run" in said


@pytest.mark.usefixtures("message")
def test_a_flower_that_runs_client_apps_in_another_way_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_FED_BUILD", "fake_nodes:build")
    monkeypatch.setenv("LIGHTNING_FED_HOME", "/tmp")

    def run_clientapp(runtime_api_address: str, token: str) -> None:
        flowers.install_from_fab, flowers.get_load_client_app_fn, flowers.install_app_dependencies  # noqa: B018

    monkeypatch.setattr(flowers, "run_clientapp", run_clientapp)
    with pytest.raises(ImportError, match="has no run_clientapp where it is expected"):
        clientapp.runner()


def test_it_runs_only_for_a_node(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        clientapp.main([clientapp.CHECK])
    assert "LIGHTNING_FED_BUILD does not name the function" in capsys.readouterr().err


def test_it_is_found_and_can_be_run() -> None:
    environment = {"LIGHTNING_FED_BUILD": "a:b", "LIGHTNING_FED_HOME": "/tmp", "PYTHONPATH": str(APP.parents[2])}
    command = [sys.executable, "-m", "lightning_fed.flower.staying", "--check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("message")
def test_a_part_that_is_not_there_yet_is_looked_for_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHTNING_FED_BUILD", "fake_nodes:build")
    monkeypatch.setenv("LIGHTNING_FED_HOME", "/tmp")
    waits: list[float] = []
    monkeypatch.setattr(
        flowers, "pull_and_inflate_object_from_tree", lambda *_, initial_backoff=1.0: waits.append(initial_backoff)
    )
    clientapp.runner()
    flowers.pull_and_inflate_object_from_tree("tree")
    assert waits == [0.05]
    monkeypatch.delattr(flowers, "pull_and_inflate_object_from_tree")
    clientapp.runner()  # a Flower that fetches messages in another way
