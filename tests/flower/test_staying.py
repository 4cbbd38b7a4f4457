"""One process of the relay's program stays and forks the later ones; whatever becomes of it, messages are answered."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lightning_fed.node.settings import Settings
from lightning_fed.node.sockets import is_running

PROGRAM = Path(__file__).parent / "staying_program.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each message has a process of its own")
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(short: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts the program as a node does; all processes of it end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def make(name: str, *more: str, idle: float = 60.0, owner: int | None = None) -> subprocess.Popen[bytes]:
        settings = Settings("a:b", tmp_path, idle_timeout=idle, owner=owner or os.getpid())
        surroundings = {**os.environ, **settings.environment(), "TMPDIR": str(short), "PREPARED": str(tmp_path / "p")}
        command = [sys.executable, str(PROGRAM), str(tmp_path), name, *more]
        started.append(subprocess.Popen(command, env=surroundings, stderr=subprocess.PIPE, start_new_session=True))
        return started[-1]

    yield make
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _socket(short: Path) -> Path | None:
    return next(iter(short.rglob("*.sock")), None)


def _wait(until: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.01)


def _began(tmp_path: Path, name: str) -> tuple[int, int]:
    path = tmp_path / f"{name}.began"
    _wait(lambda: path.exists() and " " in path.read_text())
    child, parent = path.read_text().split()
    return int(child), int(parent)


def _prepared(tmp_path: Path) -> int:
    return len((tmp_path / "p").read_text().splitlines())


@pytest.fixture
def staying(start: Start, short: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    """The process that has stayed, with its first message answered."""
    process = start("first")
    _began(tmp_path, "first")
    _wait(lambda: _socket(short))
    return process


def test_later_messages_are_answered_by_its_children(
    staying: subprocess.Popen[bytes], start: Start, tmp_path: Path
) -> None:
    assert start("second").wait(20) == 0
    assert start("third").wait(20) == 0
    children = {_began(tmp_path, name) for name in ("first", "second", "third")}
    assert len(children) == 3
    assert {parent for _, parent in children} == {staying.pid}
    assert _prepared(tmp_path) == 1


@pytest.mark.parametrize(("what", "status"), [("seven", 7), ("fail", 1), ("kill", 1)])
@pytest.mark.usefixtures("staying")
def test_the_status_of_a_child_is_passed_on(what: str, status: int, start: Start) -> None:
    assert start("second", what).wait(20) == status
    assert start("third").wait(20) == 0


def test_a_message_that_takes_long_holds_up_no_other(
    staying: subprocess.Popen[bytes], start: Start, tmp_path: Path
) -> None:
    slow = start("slow", "wait")
    _began(tmp_path, "slow")
    assert start("quick").wait(20) == 0
    assert slow.poll() is None
    (tmp_path / "go on").touch()
    assert slow.wait(20) == 0


def test_another_one_stays_when_it_was_killed(
    staying: subprocess.Popen[bytes], start: Start, short: Path, tmp_path: Path
) -> None:
    slow = start("slow", "wait")
    child, _ = _began(tmp_path, "slow")
    os.kill(staying.pid, signal.SIGKILL)
    staying.wait()
    assert _socket(short) is not None  # left behind, and nobody listens
    second = start("second")
    assert _began(tmp_path, "second")[1] == second.pid
    assert start("third").wait(20) == 0
    assert _began(tmp_path, "third")[1] == second.pid
    assert slow.poll() is None  # its own child goes on
    assert is_running(child)
    (tmp_path / "go on").touch()
    assert slow.wait(20) == 0


def test_two_that_start_at_once_both_answer(start: Start, tmp_path: Path) -> None:
    processes = [start(name, "wait") for name in ("one", "other")]
    for name in ("one", "other"):
        _began(tmp_path, name)
    (tmp_path / "go on").touch()
    _wait(lambda: sum(process.poll() is None for process in processes) <= 1)
    assert all(process.poll() in (0, None) for process in processes)


def test_it_ends_when_there_are_no_messages(start: Start, short: Path) -> None:
    assert start("first", idle=0.3).wait(20) == 0
    assert _socket(short) is None


def test_it_ends_with_the_node(start: Start, short: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    process = start("first", owner=owner.pid)
    _wait(lambda: _socket(short))
    owner.kill()
    owner.wait()
    assert process.wait(20) == 0
    assert _socket(short) is None


def test_it_ends_by_a_signal_and_leaves_no_socket(staying: subprocess.Popen[bytes], short: Path) -> None:
    staying.terminate()
    assert staying.wait(20) == 0
    assert _socket(short) is None


def test_where_no_folder_is_private_each_message_has_a_process_of_its_own(
    start: Start, short: Path, tmp_path: Path
) -> None:
    folder = short / f"lightning-fed-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o755)
    assert start("first", "seven").wait(20) == 7
    assert start("second").wait(20) == 0
    assert _prepared(tmp_path) == 2


def test_the_program_imports_little() -> None:
    heavy = "[name for name in ('flwr', 'numpy', 'torch', 'pytorch_lightning') if name in sys.modules]"
    program = f"import sys, lightning_fed.flower.staying; print({heavy})"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"
