"""The resident process of a node: started by a message, one for all, private, and gone when nobody needs it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_fed.core.channel import Channel
from lightning_fed.node.caller import Caller, ResidentError
from lightning_fed.node.settings import Settings

Make = Callable[..., Caller]


def _log(tmp_path: Path) -> str:
    return (tmp_path / "home" / "resident.log").read_text()


def _until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_two_messages_are_answered_by_one_process(caller: Make) -> None:
    first = caller(config={"site": "north"})
    fields, parts = first.ask({"ask": "greet", "fd": 5, "parts": 1, "file": True}, [b"ab", memoryview(b"")], 30)
    assert fields["echo"] == {"ask": "greet", "fd": 5, "parts": 1, "file": True}  # no name of the channel's own
    assert [bytes(part) for part in parts] == [b"ab", b""]
    assert fields["config"] == {"site": "north"}
    again, _ = caller(config={"site": "north"}).ask({}, [], 30)
    assert again["pid"] == fields["pid"] == first.started[0].pid


def test_other_settings_are_another_process(caller: Make) -> None:
    one, other = (caller(config={"site": site}).ask({}, [], 30)[0] for site in ("north", "south"))
    assert one["pid"] != other["pid"]


def test_large_parts_arrive_whole(caller: Make) -> None:
    part = os.urandom(2**20) * 32
    _, (answered,) = caller().ask({}, [part], 30)
    assert answered == part


def test_only_its_user_can_reach_the_socket(caller: Make) -> None:
    asking = caller()
    asking.ask({}, [], 30)
    assert stat.S_IMODE(asking.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(asking.socket.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["open", "link"])
def test_a_folder_that_others_can_enter_is_refused(kind: str, caller: Make, short: Path, tmp_path: Path) -> None:
    folder = short / f"lightning-fed-{os.getuid()}"
    if kind == "open":
        folder.mkdir(mode=0o755)
    else:
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResidentError, match="not a folder of this user alone"):
        caller()


def test_a_path_that_is_too_long_for_a_socket_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with pytest.raises(ResidentError, match="longer than 103 bytes: set TMPDIR"):
        Caller(Settings("a:b", tmp_path), "node")


def test_messages_at_once_start_one_process_and_wait_for_each_other(caller: Make) -> None:
    askers, pids = [caller("build_slowly") for _ in range(4)], []
    threads = [threading.Thread(target=lambda a=asker: pids.append(a.ask({}, [], 60)[0]["pid"])) for asker in askers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 4
    assert len(set(pids)) == sum(len(asker.started) for asker in askers) == 1


def test_a_killed_process_is_started_by_the_next_message(caller: Make) -> None:
    asking = caller()
    pid = asking.ask({}, [], 30)[0]["pid"]
    asking.started[0].kill()
    asking.started[0].wait()
    assert asking.socket.exists()  # nobody was left to remove it
    assert asking.ask({}, [], 30)[0]["pid"] not in (pid, os.getpid())


def test_a_process_that_ends_in_the_middle_of_a_message_is_an_error(caller: Make) -> None:
    with pytest.raises(ResidentError, match="ended in the middle of a message"):
        caller().ask({"exit": 7}, [], 30)


def test_a_process_that_hangs_is_ended_when_the_time_is_up(caller: Make) -> None:
    asking = caller()
    asking.ask({}, [], 30)
    with pytest.raises(TimeoutError, match="has not answered within 1 s; its process was ended"):
        asking.ask({"sleep": 600}, [], 1)
    assert asking.started[0].wait(5) == -signal.SIGKILL
    assert asking.ask({}, [], 30)[0]["pid"] == asking.started[1].pid


def test_a_process_that_works_for_another_is_left_alone(caller: Make, tmp_path: Path) -> None:
    asking, answers = caller(), []
    asking.ask({}, [], 30)
    began = str(tmp_path / "began")
    thread = threading.Thread(target=lambda: answers.append(asking.ask({"sleep": 3, "began": began}, [], 30)))
    thread.start()
    _until(lambda: os.path.exists(began))
    with pytest.raises(TimeoutError, match=r"busy with another message, or still being built, for 0\.5 s"):
        caller().ask({}, [], 0.5)
    thread.join()
    assert answers[0][0]["echo"]["sleep"] == 3


def test_the_text_of_an_exception_stays_in_the_log(caller: Make, tmp_path: Path) -> None:
    asking = caller()
    assert asking.ask({"error": "Jane Doe"}, [], 30) == ({"refused": "KeyError; see the node's log"}, [])
    assert "Jane Doe" in _log(tmp_path)
    assert asking.ask({"nonsense": True}, [], 30)[0] == {"refused": "TypeError; see the node's log"}
    assert asking.ask({}, [], 30)[0]["pid"] == asking.started[0].pid


def test_the_log_is_the_users_own(caller: Make, tmp_path: Path) -> None:
    caller().ask({}, [], 30)
    assert stat.S_IMODE((tmp_path / "home" / "resident.log").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("build", "refused"),
    [
        ("build_that_fails", "ValueError; see"),  # its text quotes data
        ("build_that_lacks", "ModuleNotFoundError: No module named 'a_package_that_nobody_has'; see"),
        ("build_nothing", "BuildError: fake_nodes:build_nothing has made no node but a NoneType; see"),
        ("missing", "BuildError: module 'fake_nodes' has no function 'missing'; see"),
    ],
)
def test_a_node_that_cannot_be_built_says_so_and_ends(build: str, refused: str, caller: Make, tmp_path: Path) -> None:
    asking = caller(build)
    assert asking.ask({}, [], 30)[0] == {"refused": f"the node cannot be built: {refused} the node's log"}
    assert asking.started[0].wait(5) == 1
    assert not asking.socket.exists()
    assert "Traceback" in _log(tmp_path)


def test_a_process_that_ends_as_it_is_built_is_an_error(caller: Make) -> None:
    asking = caller("build_that_ends")
    with pytest.raises(ResidentError, match=r"ended (3 times before it took the message|as soon as it was started)"):
        asking.ask({}, [], 30)


def test_a_function_may_take_no_config(caller: Make) -> None:
    assert caller("build_without_config").ask({}, [], 30)[0]["config"] == {"made": "without"}


def test_it_ends_when_no_message_comes(caller: Make, tmp_path: Path) -> None:
    asking = caller(idle_timeout=1.0)
    asking.ask({}, [], 30)
    assert asking.started[0].wait(10) == 0
    assert not asking.socket.exists()
    assert "no message for 1 s" in _log(tmp_path)
    assert asking.ask({}, [], 30)[0]["pid"] == asking.started[1].pid


@pytest.mark.parametrize("busy", [False, True])
def test_it_ends_with_its_owner(busy: bool, caller: Make, tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    asking = caller(owner=owner.pid)
    asking.ask({}, [], 30)
    began = tmp_path / "began"

    def ask() -> None:
        with contextlib.suppress(ResidentError):
            asking.ask({"sleep": 600, "began": str(began)}, [], 60)

    thread = threading.Thread(target=ask)
    if busy:
        thread.start()
        _until(began.exists)
    owner.kill()
    owner.wait()
    assert asking.started[0].wait(5) == 0
    assert not asking.socket.exists()
    if busy:
        thread.join()


def test_a_signal_ends_it_and_removes_the_socket(caller: Make) -> None:
    asking = caller()
    asking.ask({}, [], 30)
    asking.started[0].terminate()
    assert asking.started[0].wait(5) == 0
    assert not asking.socket.exists()


def test_a_connection_that_says_nothing_sensible_does_no_harm(caller: Make) -> None:
    import socket

    asking = caller()
    asking.ask({}, [], 30)
    for words in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x02" + b"\0" * 7 + b"[]"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(asking.socket))
            connection.sendall(words)
    assert asking.ask({}, [], 30)[0]["pid"] == asking.started[0].pid


def test_what_starts_it_imports_neither_torch_nor_lightning() -> None:
    modules = "lightning_fed.node.caller, lightning_fed.node.resident, lightning_fed.flower, lightning_fed.cli.node"
    heavy = "[name for name in ('torch', 'pytorch_lightning', 'lightning', 'flwr') if name in sys.modules]"
    program = f"import sys, {modules}; print({heavy})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_a_channel_of_a_resident_is_one_of_the_package(caller: Make) -> None:
    """The socket speaks the package's own protocol: a greeting with the process id, then a message each way."""
    import socket

    asking = caller()
    asking.ask({}, [], 30)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as connection:
        connection.connect(str(asking.socket))
        channel = Channel(connection)
        assert channel.receive(5)[0] == {"pid": asking.started[0].pid}
        channel.send([b"x"], fields={"ask": 1})
        head, parts = channel.receive(5)
        assert (head["fields"]["echo"], [bytes(part) for part in parts]) == ({"ask": 1}, [b"x"])
