"""The command ``lightning-fed node``: a node on this machine, which takes part in runs with its code and data."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from lightning_fed.cli.commands import PROGRAM, refuse
from lightning_fed.cli.one_line_parser import OneLineParser
from lightning_fed.core.extras import import_extra
from lightning_fed.flower.on_this_machine import INSTALL
from lightning_fed.flower.supernode import SUPERNODE, SuperNode, environment, write_programs
from lightning_fed.node.settings import IDLE_TIMEOUT, Settings

_COMMAND = f"{PROGRAM} node"
_OLDEST, _FIRST_UNTRIED = (1, 42), (1, 44)
_CHECK_SECONDS = 300


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed node``.

    Raises:
        SystemExit: With the status 2 if something is wrong with them or with this machine, before anything runs.
    """
    parser = _parser()
    words = parser.parse_args(list(arguments))
    _check_superlink(words.superlink)
    config = dict(_pair(word) for word in words.config)
    if words.idle_timeout <= 0:
        refuse(f"--idle-timeout is {words.idle_timeout:g}; give seconds above 0", _COMMAND)
    if words.port is not None and not 0 < words.port < 65536:
        refuse(f"--port is {words.port}; give a number from 1 to 65535", _COMMAND)
    _check_secrets(words.insecure, words.root_certificates, words.key)
    for option, file in (("--root-certificates", words.root_certificates), ("--key", words.key)):
        _check_file(option, file)
    for option, file in (
        ("--policy", words.policy),
        ("--identity", words.identity),
        ("--identities", words.identities),
    ):
        _check_file(option, file)
    if (words.identity is None) != (words.identities is None):
        refuse("--identity and --identities go together: a node's own key, and those of all workers", _COMMAND)
    check_flower(_COMMAND)
    if words.key is not None:
        _check_key(words.key)
    home = (words.home or Path.home() / ".lightning_fed" / (words.key.stem if words.key else "node")).absolute()
    settings = Settings(
        build=words.build,
        home=home,
        config=config,
        policy=_absolute(words.policy),
        identity=_absolute(words.identity),
        identities=_absolute(words.identities),
        idle_timeout=words.idle_timeout,
        owner=os.getpid(),
    )
    with _alone(home):
        surroundings = environment(settings, write_programs(home / "bin"), os.environ)
        building = [sys.executable, "-m", "lightning_fed.node.building", words.build]
        checks = {
            "the relay does not start": _started(["flwr-clientapp", "--check"], surroundings),
            f"--build {words.build} cannot be used": _started(building, surroundings),
        }
        for what, process in checks.items():
            _check_ended(process, what)
        if words.insecure:
            _say("--insecure: nothing is encrypted, and the SuperLink cannot tell this node from any other")
        _say(f"runs {words.build} for {words.superlink}; its home is {home}")
        raise SystemExit(SuperNode(lambda: _supernode(words), surroundings, _say).run())


def _absolute(file: Path | None) -> str | None:
    return None if file is None else str(file.absolute())


def _supernode(words: argparse.Namespace) -> list[str]:
    """The command line for the next start, with another port each time, as one that was free may be taken."""
    secrets = ["--root-certificates", str(words.root_certificates), "--auth-supernode-private-key", str(words.key)]
    secured = ["--insecure"] if words.insecure else secrets
    port = _free_port() if words.port is None else words.port
    return [SUPERNODE, "--superlink", words.superlink, *secured, "--host", "127.0.0.1", "--port", str(port)]


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog=_COMMAND,
        usage=f"{_COMMAND} --superlink HOST:PORT --build MODULE:FUNCTION ...",
        description="Let this machine take part in runs. It runs no code that a server sends.",
        epilog=f"`{PROGRAM} certificates` makes certificates and keys.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--superlink", required=True, metavar="HOST:PORT", help="the server's address")
    add("--root-certificates", type=Path, metavar="FILE", help="vouches for the server")
    add("--key", type=Path, metavar="FILE", help="this node's private key")
    add("--build", required=True, metavar="MODULE:FUNCTION", help="the function that makes the node")
    add("--home", type=Path, metavar="DIR", help="logs and state; else in ~/.lightning_fed")
    add("--policy", type=Path, metavar="FILE", help="YAML: what this node lets a run ask of it")
    add("--identity", type=Path, metavar="FILE", help="its private key for secure aggregation")
    add("--identities", type=Path, metavar="FILE", help="YAML: the public keys of all workers' nodes")
    add("--config", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="for the build function")
    add(
        "--idle-timeout",
        type=float,
        default=IDLE_TIMEOUT,
        metavar="S",
        help="unload data when idle for S (%(default)g)",
    )
    add("--port", type=int, metavar="P", help="of this machine, for Flower's own use (a free one)")
    add("--insecure", action="store_true", help="no TLS and no key: for trials")
    return parser


def _check_superlink(address: str) -> None:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:/\s]+):(\d{1,5})", address)
    if not found or not 0 < int(found.group(2)) < 65536:
        refuse(f"--superlink {address} is no address; give HOST:PORT, such as fed.example.org:9092", _COMMAND)


def _pair(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not (key and equals):
        refuse(f"--config {word} is no KEY=VALUE", _COMMAND)
    return key, value


def _check_secrets(insecure: bool, certificates: Path | None, key: Path | None) -> None:
    given = {"--root-certificates": certificates, "--key": key}
    if insecure:
        for option in (option for option, file in given.items() if file is not None):
            refuse(f"--insecure uses no {option}; leave one of them out", _COMMAND)
    elif missing := [option for option, file in given.items() if file is None]:
        refuse(
            f"{' and '.join(missing)} must be given (`{PROGRAM} certificates` makes them), or --insecure for a trial",
            _COMMAND,
        )


def _check_file(option: str, file: Path | None) -> None:
    if file is None:
        return
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        refuse(f"{option} {file}: {error.strerror}", _COMMAND)


def check_flower(command: str) -> None:
    """Refuse a machine without a Flower that is known to work.

    Args:
        command: The command that needs it.

    Raises:
        SystemExit: With the status 2.
    """
    if sys.version_info < (3, 11):
        refuse(f"it needs Python 3.11 or newer, as Flower does; this is {sys.version.split()[0]}", command)
    try:
        version = metadata.version("flwr")
    except metadata.PackageNotFoundError:
        refuse(f"it needs flwr: {INSTALL}", command)
    if not _OLDEST <= tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < _FIRST_UNTRIED:
        low, high = (".".join(map(str, each)) for each in (_OLDEST, _FIRST_UNTRIED))
        refuse(f"flwr {version} is installed, and it needs flwr>={low},<{high}: {INSTALL}", command)


def _check_key(key: Path) -> None:
    serialization = import_extra("cryptography.hazmat.primitives.serialization", "a node", "flower")
    ec = import_extra("cryptography.hazmat.primitives.asymmetric.ec", "a node", "flower")
    try:
        is_ours = isinstance(serialization.load_ssh_private_key(key.read_bytes(), None), ec.EllipticCurvePrivateKey)
    except TypeError:
        refuse(f"--key {key} has a passphrase, and there is nobody to type it: make one without", _COMMAND)
    except Exception:  # of several modules, and none says more
        is_ours = False
    if not is_ours:
        made = f'ssh-keygen -t ecdsa -b 384 -N "" -f {shlex.quote(str(key))}'
        refuse(f"--key {key} is no private key of a NIST curve in OpenSSH's format, as `{made}` makes one", _COMMAND)
    if key.stat().st_mode & 0o077:
        _say(f"others can read {key}: chmod 600 {shlex.quote(str(key))}")


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Lock the folder of the node: two nodes of one home would overwrite each other's state."""
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (home / "lock").open("w")
    except OSError as error:
        refuse(f"--home {home} cannot be used: {error.strerror}", _COMMAND)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            refuse(f"another node runs with the home {home}; give this one another --home", _COMMAND)
        yield


def _started(program: list[str], surroundings: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(program, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _check_ended(process: subprocess.Popen[str], what: str) -> None:
    """Wait until a program has ended, and refuse with its last line if it has failed."""
    try:
        _, errors = process.communicate(timeout=_CHECK_SECONDS)
    except subprocess.TimeoutExpired as error:
        process.kill()
        refuse(f"{what}: {error}", _COMMAND)
    if process.returncode:
        said = errors.strip().splitlines() or [f"it ends with the status {process.returncode}"]
        refuse(f"{what}: {said[-1].removeprefix('error: ')}", _COMMAND)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _say(sentence: str) -> None:
    print(f"{_COMMAND}: {sentence}", file=sys.stderr, flush=True)
