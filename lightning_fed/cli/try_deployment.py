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
timeout = 600.0
""",
    "tried/__init__.py": "",
    "tried/server_app.py": """\
from lightning_fed.cli.deployed import fit
from lightning_fed.flower import server_app
from tried.names import NAMES

app = server_app(fit, names=NAMES)
""",
    "tried/client_app.py": """\
from lightning_fed.flower import client_app

app = client_app("lightning_fed.cli.deployed:node")
""",
}


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed try-deployment``.

    Raises:
        SystemExit: With the status 2 if something is wrong with them or with this machine, before anything runs; with
            1 if the run fails.
    """
    parser = OneLineParser(
        prog=_COMMAND,
        usage=f"{_COMMAND} -c CONFIG [--rounds N] [--nodes N] [...]",
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
    if words.keep is not None:
        _make_new(words.keep)
    signal.signal(signal.SIGTERM, _interrupt)
    with tempfile.TemporaryDirectory(prefix="lightning_fed-") as temporary:
        folder = Path(temporary) if words.keep is None else words.keep.absolute()
        try:
            failure = _run(words.config, words.rounds, words.nodes, of_fit, folder)
            status = 1 if failure else 0
            if failure:
                _say(f"the run has failed: {failure.removeprefix(_FLOWERS_WORDS)}{_hint(words.keep)}")
        except EndedError as error:
            _say(f"{error}{_hint(words.keep)}")
            status = 1
        except KeyboardInterrupt:
            _say("interrupted; all processes have ended")
            status = 130
    raise SystemExit(status)


def _make_new(folder: Path) -> None:
    """Make the folder to keep, or refuse one that has something in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_empty = not any(folder.iterdir())
    except OSError as error:
        refuse(f"--keep {folder} cannot be made: {error.strerror}", _COMMAND)
    if not is_empty:
        refuse(f"--keep {folder} is not empty; give a folder that is new", _COMMAND)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _run(config: str, rounds: int, nodes: int | None, of_fit: Sequence[str], folder: Path) -> str:
    began = time.monotonic()
    limit = ["--trainer.max_steps", str(rounds), "--trainer.max_epochs", "-1"] if rounds else []
    write(certificates(["127.0.0.1"], 2), folder, True)
    with OnThisMachine(folder, Path.cwd()) as federation:
        federation.start_superlink()  # it takes as long as reading the config
        file = folder / f"{name_of([config])}.yaml"
        names = _written(["fit", "-c", config, *of_fit, *limit], file)
        count = min(nodes or _MOST_NODES, len(names))
        shares = {f"node-{number + 1}": names[number::count] for number in range(count)}
        write({path: content for name in shares for path, content in key_pair(name).items()}, folder, True)
        for path, text in {**_APP, "tried/names.py": f"NAMES = {names!a}\n"}.items():
            (folder / "app" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "app" / path).write_text(text)
        federation.wait_for_superlink()
        _say(f"the SuperLink listens on 127.0.0.1:{federation.port}, with TLS; {_number_of(count)} with keys start")
        federation.start_nodes({name: _words(file, share) for name, share in shares.items()})
        for name, share in shares.items():
            _say(f"{name} hosts {_listed(share)}")
        _say(f"the run begins after {time.monotonic() - began:.0f} s; each round of it takes some seconds of waiting")
        failure = federation.run(folder / "app", {"file": str(file)}, _show)
    _say(f"ended after {time.monotonic() - began:.0f} s, and so have all processes")
    return failure


def _words(file: Path, share: Sequence[str]) -> list[str]:
    """Return what a node is given that hosts some workers of a config."""
    return ["--build", "lightning_fed.cli.deployed:node", "--config", f"file={file}", f"workers={json.dumps(share)}"]


def _written(words: Sequence[str], file: Path) -> list[str]:
    """Run the command for a fit to write its config, and return the workers' names. Errors come from that command."""
    command = [sys.executable, "-m", "lightning_fed.cli.deployed", str(file), *words]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


def _number_of(nodes: int) -> str:
    return "1 node" if nodes == 1 else f"{nodes} nodes"


def _hint(keep: Path | None) -> str:
    return "; --keep DIR keeps the logs of all processes" if keep is None else f"; all logs are in {keep}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:4])} and {len(names) - 4} more"


_FLOWERS_WORDS = "ServerApp failed with exception: "
_FLOWERS = re.compile(
    r"\x1b\[\d+m(INFO|DEBUG)\b|^\s*(INFO|DEBUG)\s*:|Using SuperLink: |Successfully (started run|installed) "
    r"|GPU available: "  # the nodes train
)


def _show(line: str) -> None:
    """Print a line of the run, unless Flower writes it about itself."""
    if line.strip() and not _FLOWERS.search(line):
        print(line, flush=True)


def _say(sentence: str) -> None:
    print(f"{_COMMAND}: {sentence}", file=sys.stderr, flush=True)
