"""The command ``lightning-fed try-deployment``: a config over real processes of this machine, as over many machines."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lightning_fed.cli.certificates import certificates, key_pair, write
from lightning_fed.cli.commands import PROGRAM, refuse
from lightning_fed.cli.config_names import name_of
from lightning_fed.cli.node import check_flower
from lightning_fed.cli.one_line_parser import OneLineParser
from lightning_fed.flower.on_this_machine import EndedError, OnThisMachine

_COMMAND = f"{PROGRAM} try-deployment"
_MOST_NODES = 3
_ROUNDS = 3

_APP = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "tried"
version = "1.0.0"
description = "A config of lightning_fed, tried over processes of one machine"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "lightning-fed"

[tool.flwr.app.components]
serverapp = "tried.server_app:app"
clientapp = "tried.client_app:app"

[tool.flwr.app.config]
file = ""
names = ""
timeout = 600.0
""",
    "tried/__init__.py": "",
    "tried/server_app.py": """\
from lightning_fed.cli.deployed import fit
from lightning_fed.flower import server_app

app = server_app(fit)
""",
    "tried/client_app.py": """\
from lightning_fed.flower import client_app

app = client_app("lightning_fed.cli.deployed:node")
""",
}


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: What follows ``lightning-fed try-deployment``.

    Raises:
        SystemExit: With the status 2 if something is wrong with them or with this machine, before anything runs; with
            1 if the run fails.
    """
    parser = OneLineParser(
        prog=_COMMAND,
        usage=f"{_COMMAND} -c CONFIG [--rounds N] [--nodes N] [options of `{PROGRAM} fit`]",
        description="Run a config of `lightning-fed fit` over a SuperLink and nodes, each in processes of its own on "
        "this machine, with TLS and keys: a rehearsal of a deployment.",
        epilog="All other options are those of `lightning-fed fit`, such as --model.local_steps 3.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("-c", "--config", required=True, metavar="FILE", help="the config, or the name of one that comes with this")
    add("--rounds", type=int, default=_ROUNDS, metavar="N", help="how many; 0: as the config says (%(default)s)")
    add("--nodes", type=int, metavar="N", help=f"how many nodes host the workers (at most {_MOST_NODES})")
    add("--keep", type=Path, metavar="DIR", help="keep keys, logs and the nodes' homes there")
    words, of_fit = parser.parse_known_args(list(arguments))
    if words.rounds < 0:
        refuse(f"--rounds is {words.rounds}; give a number of rounds, or 0 for as many as the config says", _COMMAND)
    if words.nodes is not None and words.nodes < 1:
        refuse(f"--nodes is {words.nodes}; give at least 1", _COMMAND)
    check_flower(_COMMAND)
    if words.keep is not None and words.keep.exists() and any(words.keep.iterdir()):
        refuse(f"--keep {words.keep} is not empty; give a folder that is new", _COMMAND)
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="lightning_fed-") as temporary:
        folder = Path(temporary) if words.keep is None else words.keep.absolute()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            status = _run(words.config, words.rounds, words.nodes, of_fit, folder)
        except EndedError as error:
            _say(str(error))
            status = 1
        except KeyboardInterrupt:
            _say("interrupted; all processes have ended")
            status = 130
    raise SystemExit(status)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _run(config: str, rounds: int, nodes: int | None, of_fit: Sequence[str], folder: Path) -> int:
    began = time.monotonic()
    file = folder / f"{name_of([config])}.yaml"
    limit = ["--trainer.max_steps", str(rounds), "--trainer.max_epochs", "-1"] if rounds else []
    file.write_text(_asked("fit", "-c", config, *of_fit, *limit, "--print_config"))
    names: list[str] = json.loads(_lines(["-m", "lightning_fed.cli.deployed", str(file)])[-1])
    count = min(nodes or _MOST_NODES, len(names))
    shares = {f"node-{number + 1}": names[number::count] for number in range(count)}
    write({**certificates(["127.0.0.1"], 2), **{k: v for n in shares for k, v in key_pair(n).items()}}, folder, True)
    _say(f"made a certificate and keys for {count} nodes")
    for path, content in _APP.items():
        (folder / "app" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "app" / path).write_text(content)
    hosts = {
        name: ["--build", "lightning_fed.cli.deployed:node", "--config", f"file={file}", f"workers={json.dumps(share)}"]
        for name, share in shares.items()
    }
    with OnThisMachine(folder, hosts, Path.cwd()) as federation:
        federation.start_superlink()
        _say(f"the SuperLink listens on 127.0.0.1:{federation.port}, with TLS")
        federation.start_nodes()
        for name, share in shares.items():
            _say(f"{name} hosts {_listed(share)}")
        _say(f"the run begins after {time.monotonic() - began:.0f} s; each round of it takes some seconds of waiting")
        listed = ",".join(names)
        status = federation.run(folder / "app", {"file": str(file), "names": listed}, _show)
        if status:
            _say(f"flwr run has ended with the status {status}")
    _say(f"ended after {time.monotonic() - began:.0f} s, and so have all processes")
    return status


def _asked(*words: str) -> str:
    """Ask another command, which says itself what is wrong."""
    return "\n".join(_lines(["-m", "lightning_fed", *words]))


def _lines(words: Sequence[str]) -> list[str]:
    done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.splitlines()


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more"


_FLOWERS = re.compile(r"\x1b\[\d+m(INFO|DEBUG)\b|^\s*(INFO|DEBUG)\s*:")


def _show(line: str) -> None:
    """Print a line of the run, without what Flower says about itself."""
    if line.strip() and not _FLOWERS.search(line):
        print(line, flush=True)


def _say(sentence: str) -> None:
    print(f"{_COMMAND}: {sentence}", file=sys.stderr, flush=True)
