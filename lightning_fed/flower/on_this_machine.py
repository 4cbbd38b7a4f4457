"""A SuperLink and nodes in processes of this machine, with TLS and keys as on many machines. Imports no flwr."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, final

from lightning_fed.core.process_groups import groups_below, send

INSTALL = 'pip install "lightning_fed[flower]", in an environment of its own'
_START_SECONDS = 60.0
_KNOWN = b"already in use"
"""Message of Flower about a key that is registered already."""
_NODES_SECONDS, _SUPERLINK_SECONDS = 12.0, 4.0
"""How long processes may take to end by themselves."""
_LAST_SECONDS = 1.0
"""How long those may take that are killed."""
CONNECTION = "here"
"""The name of the SuperLink in Flower's configuration."""


class EndedError(RuntimeError):
    """A process of the federation has ended too early, or there is no program for it; the message names it."""


@final
class OnThisMachine:
    """Runs a SuperLink and nodes until it is closed; a context manager.

    Args:
        folder: The folder for keys, logs, the database and the nodes' homes. It must hold ``ca.crt``, ``server.pem``
            and ``server.key``.
        working: The working directory of the SuperLink, which is that of the runs.
    """

    def __init__(self, folder: Path, working: Path) -> None:
        self.folder = folder
        self._working = working
        self.port = free_port()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        scripts = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        modules = [str(working), os.environ.get("PYTHONPATH", "")]
        self.environment = {
            "OMP_NUM_THREADS": "1",
            **os.environ,
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
            "PYTHONUNBUFFERED": "1",
            "PATH": os.pathsep.join(part for part in scripts if part),
            "PYTHONPATH": os.pathsep.join(part for part in modules if part),
        }

    def __enter__(self) -> OnThisMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_superlink(self) -> None:
        """Start the SuperLink, without waiting until it listens."""
        at = self.folder
        (at / "flwr").mkdir(parents=True, exist_ok=True)
        (at / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{at}/ca.crt"\n'
        )
        tls = ["--ssl-ca-certfile", f"{at}/ca.crt", "--ssl-certfile", f"{at}/server.pem"]
        words = ["--host", "127.0.0.1", "--port", str(self.port), *tls, "--ssl-keyfile", f"{at}/server.key"]
        words += ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        self._launch("superlink", ["flower-superlink", *words, "--database", f"{at}/state.db"], self._working)

    def wait_for_superlink(self) -> None:
        """Wait until the SuperLink listens.

        Raises:
            EndedError: If the SuperLink has ended.
        """
        self._wait("superlink", self._listens)

    def start_nodes(self, nodes: Mapping[str, Sequence[str]]) -> None:
        """Register nodes and start them, and wait until they have signed on.

        Args:
            nodes: For each node the name of its key, and its arguments to ``lightning-fed node`` except those about
                the SuperLink. The folder must hold a key pair for each.

        Raises:
            EndedError: If a node does not sign on.
        """
        registering = {
            name: self._flwr("supernode", "register", f"{self.folder}/{name}.pub", CONNECTION, "--name", name)
            for name in nodes
        }
        self._processes.update({f"registration of {name}": process for name, process in registering.items()})
        for name, process in registering.items():
            said, _ = process.communicate(timeout=_START_SECONDS)
            # In a folder of before the database is that of before, too
            if process.returncode and _KNOWN not in said:
                raise EndedError(f"the key of {name} could not be registered: {said.decode(errors='replace')[-500:]}")
        for name, words in nodes.items():
            of_superlink = ["--superlink", f"127.0.0.1:{self.port}", "--root-certificates", f"{self.folder}/ca.crt"]
            own = ["--key", f"{self.folder}/{name}", "--home", f"{self.folder}/home-{name}"]
            command = [sys.executable, "-m", "lightning_fed", "node", *of_superlink, *own, *words]
            self._launch(name, command, self._working)
        for name in nodes:
            self._wait(name, lambda name=name: "SuperNode ID" in self.log(name).read_text(errors="replace"))  # type: ignore[misc]

    def run(self, app: Path, config: Mapping[str, str | int], show: Callable[[str], None]) -> str:
        """Run a Flower App to its end.

        Args:
            app: Its folder.
            config: Changes of its configuration: numbers, and texts without quotes in them.
            show: Called with each line that the run prints.

        Returns:
            The reason of the failure; empty if there is none. ``flwr run`` itself ends with 0 in both cases.
        """
        changes = " ".join(
            f"{key}={value}" if isinstance(value, int) else f"{key}='{value}'" for key, value in config.items()
        )
        process = self._flwr("run", str(app), CONNECTION, "--stream", *(["--run-config", changes] if config else []))
        self._processes["flwr run"] = process
        assert process.stdout is not None
        for line in process.stdout:
            show(line.decode(errors="replace").rstrip("\n"))
        return f"flwr run has ended with the status {process.returncode}" if process.wait() else self._why_failed()

    def _why_failed(self) -> str:
        """Return why the newest run of the SuperLink has failed; empty if it has not."""
        end = time.monotonic() + _START_SECONDS
        while True:
            said, _ = self._flwr("list", CONNECTION, "--format", "json").communicate()
            text = said.decode(errors="replace")
            newest = json.loads(text[text.index("{") : text.rindex("}") + 1])["runs"][0]
            status = str(newest["status"])
            if status.startswith("finished"):  # the last lines of its log come before that
                return "" if status == "finished:completed" else str(newest.get("status-details") or status)
            if time.monotonic() > end:
                return f"its status is {status}"
            time.sleep(0.2)

    def log(self, name: str) -> Path:
        """Return the file to which a process prints.

        Args:
            name: ``"superlink"``, or a node's name.
        """
        return self.folder / f"{name}.log"

    def close(self) -> None:
        """End all processes, by force if needed: the SuperLink last, as nodes must sign off."""
        with _undisturbed():
            others = [name for name in self._processes if name != "superlink"]
            for names, seconds in ((others, _NODES_SECONDS), (["superlink"], _SUPERLINK_SECONDS)):
                self._end([self._processes[name] for name in names if name in self._processes], seconds)
            self._processes.clear()

    @staticmethod
    def _end(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
        # A SuperLink's SuperExec has a group of its own. The id of one that has ended may be another's by now, so only
        # its own group is asked for.
        running = [process.pid for process in processes if process.poll() is None]
        groups = list({*groups_below(running), *(process.pid for process in processes)})
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        end = time.monotonic() + seconds
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0.0))
        groups = [group for group in groups if send(group, signal.SIGKILL)]
        for process in processes:
            process.wait()
        end = time.monotonic() + _LAST_SECONDS
        while any(send(group, 0) for group in groups) and time.monotonic() < end:
            time.sleep(0.02)

    def _flwr(self, *words: str) -> subprocess.Popen[bytes]:
        return self._popen(["flwr", *words], self.folder, subprocess.PIPE)

    def _launch(self, name: str, command: Sequence[str], working: Path) -> None:
        with self.log(name).open("ab") as log:
            self._processes[name] = self._popen(command, working, log)

    def _popen(self, command: Sequence[str], working: Path, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command,
                env=self.environment,
                cwd=working,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C of the terminal is this process's to pass on
            )
        except FileNotFoundError:
            if shutil.which(command[0], path=self.environment["PATH"]) is not None:
                raise
            raise EndedError(f"there is no program {command[0]!r}, which comes with flwr: {INSTALL}") from None

    def _wait(self, name: str, is_ready: Callable[[], bool]) -> None:
        end = time.monotonic() + _START_SECONDS
        while not is_ready():
            if self._processes[name].poll() is not None or time.monotonic() > end:
                said = self.log(name).read_text(errors="replace").strip().splitlines()[-3:]
                raise EndedError(f"{name} has not started; {self.log(name)} ends with: {' | '.join(said)}")
            time.sleep(0.1)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
            return True
        return False


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Context in which a second Ctrl-C does not interrupt what the first one has begun."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
