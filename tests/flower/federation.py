"""A federation of processes on this machine: a SuperLink and nodes, with TLS and keys, for tests and measurements."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BIN = Path(sys.executable).parent
CONNECTION = "test"


def free_port() -> int:
    """Return a port that nobody listened on a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class Federation:
    """A SuperLink and its nodes, each in processes of its own; a context manager that ends them all.

    Args:
        folder: Where keys, logs, homes and the database are kept.
        nodes: The nodes' names. None is started yet.
        build: The function that makes every node, for :meth:`start_node`.
        separate: Run the SuperExec as a service of its own (``--isolation process``): then a run survives a restart of
            the SuperLink.
        environment: More variables for all processes.
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[str] = ("alice", "bob"),
        build: str = "fake_nodes:build",
        separate: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.nodes = tuple(nodes)
        self.build = build
        self.separate = separate
        self.port = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ended: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "FLWR_HOME": str(folder / "flwr"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, (HERE, ROOT))),
            **(environment or {}),
        }
        (folder / "flwr").mkdir(parents=True)
        (folder / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\n'
            f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{folder}/ca.crt"\n'
        )
        self.command("certificates", "--out", str(folder), "--address", "127.0.0.1", "--nodes", *nodes)
        (folder / "secret").write_text(secrets.token_hex(32))

    def __enter__(self) -> Federation:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, nodes: Sequence[str] | None = None) -> Federation:
        """Start the SuperLink, register all nodes, start those named (all of them), and wait until they are there."""
        self.start_superlink()
        for name in self.nodes:
            self.register(name)
        for name in self.nodes if nodes is None else nodes:
            self.start_node(name)
        for name in self.nodes if nodes is None else nodes:
            self.wait_for_log(name, "SuperNode ID")
        return self

    def start_superlink(self) -> None:
        """Start the SuperLink, and its SuperExec if that is a service of its own. The database is that of before."""
        at = self.folder
        tls = ("--ssl-ca-certfile", f"{at}/ca.crt", "--ssl-certfile", f"{at}/server.pem", "--ssl-keyfile")
        words = ["--host", "127.0.0.1", "--port", str(self.port), *tls, f"{at}/server.key", "--enable-supernode-auth"]
        words += ["--disable-runtime-dependency-installation", "--database", f"{at}/state.db"]
        secret = ["--superexec-auth-secret-file", f"{at}/secret"]
        if self.separate:
            words += ["--isolation", "process", *secret]
        self.launch("superlink", str(BIN / "flower-superlink"), *words)
        self._wait_for_port()
        if self.separate and "superexec" not in self.processes:
            address = ["--root-certificates", f"{at}/ca.crt", "--runtime-api-address", f"127.0.0.1:{self.port}"]
            self.launch("superexec", str(BIN / "flower-superexec"), *address, *secret)

    def register(self, name: str) -> None:
        """Let the SuperLink know a node's public key."""
        self.flwr("supernode", "register", str(self.folder / f"{name}.pub"), CONNECTION, "--name", name)

    def start_node(self, name: str, *more: str, build: str | None = None, key: str | None = None) -> None:
        """Start a node by the command that a site uses.

        Args:
            name: The node's name.
            more: More words of the command.
            build: The function that makes it, if it is another one.
            key: The file of its key in the folder, if it is another one.
        """
        words = ["--superlink", f"127.0.0.1:{self.port}", "--root-certificates", f"{self.folder}/ca.crt"]
        words += ["--key", f"{self.folder}/{key or name}", "--build", build or self.build]
        words += ["--home", str(self.home(name)), *more]
        self.launch(name, sys.executable, "-m", "lightning_fed", "node", *words, cwd=self.folder)

    def home(self, name: str) -> Path:
        """Return the folder of a node's own."""
        return self.folder / f"home-{name}"

    def launch(self, name: str, *command: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a process in a group of its own, with its log in ``NAME.log``."""
        if name in self.processes:
            self._ended.append(self.processes.pop(name))
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self.environment, cwd=cwd or self.folder, start_new_session=True
            )
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        """Return all that a process and its earlier ones have printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def wait_for_log(self, name: str, text: str, seconds: float = 60, count: int = 1) -> None:
        """Wait until a process has printed a text so many times."""
        end = time.monotonic() + seconds
        while self.log(name).count(text) < count:
            if time.monotonic() > end or self.processes[name].poll() is not None:
                raise TimeoutError(f"{name} has not printed {text!r}:\n{self.log(name)[-4000:]}")
            time.sleep(0.05)

    def command(self, *words: str) -> str:
        """Run a command of ``lightning-fed`` and return what it prints."""
        return self._run([sys.executable, "-m", "lightning_fed", *words])

    def flwr(self, *words: str, seconds: float = 120) -> str:
        """Run a command of Flower's and return what it prints."""
        return self._run([str(BIN / "flwr"), *words], seconds)

    def _run(self, command: list[str], seconds: float = 120) -> str:
        done = subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, timeout=seconds
        )
        if done.returncode:
            raise RuntimeError(f"{command} ends with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr

    def run(self, app: Path, /, seconds: float = 600, **config: Any) -> str:
        """Run a Flower App to its end and return what its ServerApp prints.

        Args:
            app: Its folder.
            seconds: How long at most.
            config: Changes of its ``[tool.flwr.app.config]``; an underscore stands for a dash.
        """
        return self.flwr("run", str(app), CONNECTION, "--stream", *_run_config(config), seconds=seconds)

    def begin(self, app: Path, /, **config: Any) -> int:
        """Start a Flower App and return the id of its run."""
        said = self.flwr("run", str(app), CONNECTION, "--format", "json", *_run_config(config))
        return int(json.loads(said[said.index("{") : said.rindex("}") + 1])["run-id"])

    def wait_for_run(self, run: int, seconds: float = 600) -> str:
        """Wait until a run is over and return its status, such as ``finished:completed``."""
        end = time.monotonic() + seconds
        while True:
            said = self.flwr("list", CONNECTION, "--format", "json")
            runs = json.loads(said[said.index("{") : said.rindex("}") + 1])["runs"]
            status = next(str(each["status"]) for each in runs if int(each["run-id"]) == run)
            if status.startswith("finished"):
                return status
            if time.monotonic() > end:
                raise TimeoutError(f"run {run} is {status}")
            time.sleep(0.5)

    def kill(self, name: str, number: int = signal.SIGKILL, group: bool = True) -> None:
        """Send a signal to a process (and to its group) and wait until it has ended."""
        process = self.processes.pop(name)
        self._ended.append(process)
        (os.killpg if group else os.kill)(process.pid, number)
        process.wait(30)

    def children(self, name: str, program: str) -> list[int]:
        """Return the ids of the processes that a node has started, by themselves or through others, and that name a
        program in their command lines."""
        node = self.processes[name].pid
        return [pid for pid, words in _processes() if program in words and _belongs(pid, node)]

    def close(self) -> None:
        """End all processes: in turn, so that nodes can sign off, and by force where that does not help."""
        order = [*(name for name in self.processes if name not in ("superlink", "superexec")), "superexec", "superlink"]
        for name in (name for name in order if name in self.processes):
            process = self.processes.pop(name)
            self._ended.append(process)
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        for process in self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait_for_port(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.05)
        raise TimeoutError(f"the SuperLink does not listen:\n{self.log('superlink')}")


def _run_config(config: Mapping[str, Any]) -> list[str]:
    if not config:
        return []
    # Flower reads TOML in quotes of its own, within which no quote of the same kind may stand
    words = [f"{key.replace('_', '-')}={_toml(value)}" for key, value in config.items()]
    return ["--run-config", " ".join(words)]


def _toml(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else json.dumps(value)


def _processes() -> list[tuple[int, str]]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append((int(path.parent.name), path.read_bytes().replace(b"\0", b" ").decode(errors="replace")))
    return found


def _belongs(pid: int, owner: int) -> bool:
    """Whether a process was started, through others, by a node's main process: its environment says so."""
    with contextlib.suppress(OSError):
        return f"LIGHTNING_FED_NODE_PID={owner}\0".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    return False
