"""A SuperLink and nodes in processes of this machine, with TLS and keys as on many machines. Imports no flwr."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, final

_START_SECONDS = 60.0
_END_SECONDS = 15.0
_KNOWN = b"already in use"
"""What Flower says of a key that is registered already."""
CONNECTION = "here"
"""The name of the SuperLink in Flower's configuration."""


class EndedError(RuntimeError):
    """A process of the federation has ended that must not; says which, and where its log is."""


@final
class OnThisMachine:
    """Runs a SuperLink and nodes until it is closed; a context manager.

    Args:
        folder: Where keys, logs, the database and the nodes' homes are. ``ca.crt``, ``server.pem``, ``server.key`` and
            a key pair for each node are there already.
        nodes: For each node its name, which is that of its key, and the words that follow ``lightning-fed node`` beside
            those that are about the SuperLink.
        working: The working directory of the SuperLink, which is that of the runs.
    """

    def __init__(self, folder: Path, nodes: Mapping[str, Sequence[str]], working: Path) -> None:
        self.folder = folder
        self.nodes = dict(nodes)
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
        """Start the SuperLink, and wait until it listens.

        Raises:
            EndedError: If it does not.
        """
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
        self._wait("superlink", self._listens)

    def start_nodes(self) -> None:
        """Register the nodes and start them, and wait until they have signed on.

        Raises:
            EndedError: If one does not.
        """
        registering = {
            name: self._flwr("supernode", "register", f"{self.folder}/{name}.pub", CONNECTION, "--name", name)
            for name in self.nodes
        }
        for name, process in registering.items():
            said, _ = process.communicate(timeout=_START_SECONDS)
            # In a folder of before the database is that of before, too
            if process.returncode and _KNOWN not in said:
                raise EndedError(f"the key of {name} could not be registered: {said.decode(errors='replace')[-500:]}")
        for name, words in self.nodes.items():
            of_superlink = ["--superlink", f"127.0.0.1:{self.port}", "--root-certificates", f"{self.folder}/ca.crt"]
            own = ["--key", f"{self.folder}/{name}", "--home", f"{self.folder}/home-{name}"]
            command = [sys.executable, "-m", "lightning_fed", "node", *of_superlink, *own, *words]
            self._launch(name, command, self._working)
        for name in self.nodes:
            self._wait(name, lambda name=name: "SuperNode ID" in self.log(name).read_text(errors="replace"))  # type: ignore[misc]

    def run(self, app: Path, config: Mapping[str, str | int], show: Callable[[str], None]) -> int:
        """Run a Flower App to its end.

        Args:
            app: Its folder.
            config: Changes of its configuration: numbers, and texts without quotes in them.
            show: Called with each line that the run prints.

        Returns:
            0 if the run has completed; ``flwr run`` ends with 0 also where the ServerApp has failed.
        """
        changes = " ".join(
            f"{key}={value}" if isinstance(value, int) else f"{key}='{value}'" for key, value in config.items()
        )
        process = self._flwr("run", str(app), CONNECTION, "--stream", *(["--run-config", changes] if config else []))
        self._processes["flwr run"] = process
        assert process.stdout is not None
        number = None
        for each in process.stdout:
            line = each.decode(errors="replace").rstrip("\n")
            started = re.search(r"started run (\d+)", line)
            number = started.group(1) if started and number is None else number
            show(line)
        return process.wait() or (0 if self._status(number) == "finished:completed" else 1)

    def _status(self, number: str | None) -> str | None:
        """Return the status of a run, in Flower's words; None: there is none such."""
        listing = self._flwr("list", CONNECTION, "--format", "json")
        said = listing.communicate(timeout=_START_SECONDS)[0].decode(errors="replace")
        try:
            runs = json.loads(said[said.index("{") : said.rindex("}") + 1])["runs"]
            return next((str(run["status"]) for run in runs if str(run["run-id"]) == number), None)
        except (ValueError, KeyError, TypeError):
            return None

    def log(self, name: str) -> Path:
        """Return the file to which a process prints.

        Args:
            name: ``"superlink"``, or a node's name.
        """
        return self.folder / f"{name}.log"

    def close(self) -> None:
        """End all processes: the nodes first, so that they can sign off, and by force where that does not help."""
        for name in sorted(self._processes, key=lambda name: name == "superlink"):
            process = self._processes[name]
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        end = time.monotonic() + _END_SECONDS
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0.0))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def _flwr(self, *words: str) -> subprocess.Popen[bytes]:
        return self._popen(["flwr", *words], self.folder, subprocess.PIPE)

    def _launch(self, name: str, command: Sequence[str], working: Path) -> None:
        with self.log(name).open("ab") as log:
            self._processes[name] = self._popen(command, working, log)

    def _popen(self, command: Sequence[str], working: Path, output: int | IO[bytes]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=self.environment,
            cwd=working,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C of the terminal is this process's to pass on
        )

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


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
