"""``flower-supernode`` in a loop: started again whenever it ends, until the node is stopped. Imports no flwr."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from lightning_fed.core.process_groups import send
from lightning_fed.node.settings import Settings

SUPERNODE = "flower-supernode"
_CLIENTAPP = "flwr-clientapp"
_OTHERS = ("flwr-agentapp", "flwr-connector", "flwr-model", "flwr-serverapp", "flwr-simulation")
"""Other processes that Flower's SuperExec starts when a server asks for it; all of them run code of the App bundle."""

_AGAIN = 15.0
"""How long to wait before the next start, in seconds."""
_TOO_OFTEN = 8
"""After how many starts in a row that came to nothing the reasons are listed: by then a SuperLink has forgotten a node
that was killed (60 s)."""
_NOT_LET_IN = 305
_SETTINGS_ARE_WRONG = range(300, 700)
_WRONG_WORDS = 2
_GRACE = 10.0
"""How long a SuperNode may take to sign off, in seconds."""


def write_programs(folder: Path) -> Path:
    """Write the programs that replace Flower's own.

    Args:
        folder: The folder of the programs, the first on the node's ``PATH``.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    python = shlex.quote(sys.executable)
    _write(folder / _CLIENTAPP, f'exec {python} -m lightning_fed.flower.staying "$@"')
    for name in _OTHERS:
        _write(folder / name, f"echo 'error: this node runs no {name}: it would run code of the server' >&2; exit 1")
    return folder


def _write(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(stat.S_IRWXU)


def environment(settings: Settings, programs: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a SuperNode and of the processes that it starts.

    Args:
        settings: The node's settings.
        programs: The folder of :func:`write_programs`.
        inherited: The environment of this process.
    """
    path = [str(programs), sysconfig.get_path("scripts"), str(Path(sys.executable).parent), inherited.get("PATH", "")]
    modules = [os.getcwd(), inherited.get("PYTHONPATH", "")]
    return {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
        **inherited,
        **settings.environment(),
        "FLWR_HOME": str(settings.home / "flwr"),
        "PATH": os.pathsep.join(part for part in path if part),
        "PYTHONPATH": os.pathsep.join(part for part in modules if part),
    }


_CLOCKS = "whether this machine's clock is right, within 5 s ahead of the SuperLink's and 5 minutes behind it"
_CLOCKS_ARE_WRONG = "this machine's clock were more than 5 s ahead of the SuperLink's, or 5 minutes behind it"


@dataclass
class _Said:
    """Output of a SuperNode: its exit code, and whether it signed on or refused the SuperLink's certificate."""

    code: int | None = None
    signed_on: bool = False
    distrusts: bool = False


@final
class SuperNode:
    """Keeps a SuperNode running.

    Args:
        command: Makes the command line for the next start.
        environment: Its environment.
        say: Prints a sentence.
        again: The time to wait before the next start, in seconds.
    """

    def __init__(
        self,
        command: Callable[[], list[str]],
        environment: Mapping[str, str],
        say: Callable[[str], None],
        again: float = _AGAIN,
    ) -> None:
        self._command = command
        self._environment = dict(environment)
        self._say = say
        self._again = again
        self._ends = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._groups: list[int] = []

    def run(self) -> int:
        """Run the SuperNode until SIGTERM or SIGINT comes, or it reports wrong settings.

        Returns:
            The exit status: 0 after a signal.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        in_vain = 0
        try:
            while not self._ends.is_set():
                began = time.monotonic()
                status, said = self._run_once()
                code = said.code
                if self._ends.is_set():
                    break
                if status == _WRONG_WORDS or (code in _SETTINGS_ARE_WRONG and code != _NOT_LET_IN):
                    self._say(f"{SUPERNODE} does not start with these settings, for the reason above; the node ends")
                    return 1
                in_vain = in_vain + 1 if time.monotonic() - began < 4 * self._again else 1
                self._say_why(status, said, in_vain)
                self._ends.wait(self._again)
        finally:
            self._end_all()
        self._say("the node has ended")
        return 0

    def _say_why(self, status: int, said: _Said, in_vain: int) -> None:
        wait, is_not_let_in = f"every {self._again:g} s", said.code == _NOT_LET_IN
        if in_vain == 1 and said.distrusts:
            self._say(
                "the SuperLink is not let in: its certificate is not signed by the --root-certificates, does not name "
                f"the address of --superlink, or does not hold now by this machine's clock; it is tried again {wait}"
            )
        elif in_vain == 1 and is_not_let_in:
            self._say(
                "the SuperLink does not let this node in. If the node was killed, the SuperLink takes it for present "
                f"for another minute; else see whether its key is registered, and {_CLOCKS}; it is tried again {wait}"
            )
        elif in_vain == 1 and status == 0 and not said.signed_on:  # Flower says nothing then
            self._say(f"the SuperLink does not let this node in, as if {_CLOCKS_ARE_WRONG}; it is tried again {wait}")
        elif in_vain == 1:
            self._say(f"{SUPERNODE} has ended (status {status}); it is started again {wait}")
        elif in_vain == _TOO_OFTEN and is_not_let_in:
            self._say(
                f"not let in {in_vain} times. Is its public key registered (flwr supernode register)? Does another "
                "process run with the same key? Is ca.crt the one that signed the SuperLink's certificate? Is "
                "this machine's clock right, within 5 s ahead of the SuperLink's and 5 minutes behind it? It is tried "
                f"again {wait}"
            )
        elif in_vain == _TOO_OFTEN:
            self._say(f"{SUPERNODE} has ended {in_vain} times in a row; it is started again {wait}")

    def _run_once(self) -> tuple[int, _Said]:
        """Run the SuperNode until it ends; return its exit status and its output, as the status omits most errors."""
        process = self._process = subprocess.Popen(
            self._command(),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the terminal is this process's to pass on
            preexec_fn=_end_with_this_process,
        )
        self._groups.append(process.pid)
        said = _Said()
        printing = threading.Thread(target=_pass_on, args=(process.stdout, said), daemon=True)
        printing.start()
        if self._ends.is_set():  # the signal came before there was a process to pass it to
            process.terminate()
        status = self._wait(process)
        printing.join(1.0)  # what it has started may hold the pipe open
        return status, said

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        deadline: float | None = None
        while True:
            try:
                return process.wait(0.5)
            except subprocess.TimeoutExpired:
                if self._ends.is_set():
                    deadline = deadline or time.monotonic() + _GRACE
                    if time.monotonic() > deadline:
                        process.kill()

    def _end(self, number: int, frame: Any) -> None:
        self._ends.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _end_all(self) -> None:
        """End the processes that SuperNodes have left behind: the SuperExec, and the resident process."""
        for number, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 1.0)):
            self._groups = [group for group in self._groups if send(group, number)]
            deadline = time.monotonic() + seconds
            while self._groups and time.monotonic() < deadline:
                time.sleep(0.05)
                self._groups = [group for group in self._groups if send(group, 0)]


def _pass_on(lines: Any, said: _Said) -> None:
    for line in lines:
        if found := re.search(rb"Exit Code: (\d+)", line):
            said.code = int(found.group(1))
        said.signed_on |= b"SuperNode ID" in line
        said.distrusts |= b"CERTIFICATE_VERIFY_FAILED" in line
        sys.stderr.buffer.write(line)
        sys.stderr.flush()


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_this_process() -> None:
    """Make Linux end the SuperNode if this process is killed: a second one could not sign on beside it."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
