"""Facts about a run that are the same in every round: command, config, versions, data, promise."""

from __future__ import annotations

import hashlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightning_fed._lightning import pl
from lightning_fed.privacy import Privacy, PrivateRun
from lightning_fed.record.checksums import of_contents, of_sizes, sizes_of
from lightning_fed.server.checkpoint.settings import population
from lightning_fed.server.datamodule import FederatedDataModule

HIDDEN = "HIDDEN"
"""The replacement for a word of a command that is about single workers, or is a credential."""
_CONFIG = "config.yaml"
_MOST_SIZES = 10_000
"""The largest population whose sizes are read."""


def now() -> str:
    """Return the time, in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def of_the_program(folder: Path, hidden: Sequence[str] = ()) -> dict[str, Any]:
    """Return the command, the config and the versions of the program that runs.

    Args:
        folder: The folder of the run, in which the command line stores its config.
        hidden: The names of workers that a promise hides; empty: nothing is hidden.
    """
    ours = sys.modules[__name__.partition(".")[0]]  # an import would import higher layers, too
    config = folder / _CONFIG
    try:
        digest = hashlib.sha256(config.read_bytes()).hexdigest()
    except OSError:
        digest = None
    return {
        "command": _command(_without_secrets(_masked(sys.argv, hidden) if hidden else sys.argv)),
        "config": None if digest is None else _CONFIG,
        "config_sha256": digest,
        "commit": _commit(Path.cwd()),
        "versions": {
            "python": platform.python_version(),
            "lightning_fed": vars(ours)["__version__"],
            pl.__name__: vars(pl)["__version__"],
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }


def _without_secrets(words: Sequence[str]) -> list[str]:
    """Hide the credentials in a command, such as Flower's command for a ServerApp.

    >>> _without_secrets(["flwr-serverapp", "--token", "1f2e", "--api-key=x", "--nodes", "2"])
    ['flwr-serverapp', '--token', 'HIDDEN', '--api-key=HIDDEN', '--nodes', '2']
    >>> _without_secrets(["fit", "--model.tokenizer", "bert", "--max_tokens=5", "--data.hf_token", "x"])
    ['fit', '--model.tokenizer', 'bert', '--max_tokens=5', '--data.hf_token', 'HIDDEN']
    """
    said: list[str] = []
    after = False
    for word in words:
        option, equals, _ = word.partition("=")
        is_secret = word.startswith("-") and bool(_SECRET.search(option))
        said.append(HIDDEN if after else f"{option}={HIDDEN}" if is_secret and equals else word)
        after = is_secret and not equals
    return said


_SECRET = re.compile(r"[-_.](token|secret|password|credentials?|api[-_]?key)$", re.IGNORECASE)


def _masked(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Hide the words of a command that are about single workers: those that name one, or are set below ``workers``.

    >>> _masked(["x", "fit", "--data.workers.bob", "BobData", "--size=3", "--only=ann,bob"], ["bob"])
    ['x', 'fit', 'HIDDEN', 'HIDDEN', '--size=3', 'HIDDEN']
    >>> _masked(["x", "--data.workers=Synthetic", "--data.workers.workers=9"], ["0"])
    ['x', 'HIDDEN', 'HIDDEN']
    """
    named = _naming(words, names)
    said: list[str] = []
    below = False
    for word in words:
        is_option = word.startswith("-") and not word[1:2].isdigit()
        below = "workers" in word.partition("=")[0].lstrip("-").split(".") if is_option else below
        said.append(HIDDEN if below or word in named else word)
    return said


def _naming(words: Sequence[str], names: Sequence[str]) -> set[str]:
    """Return the words that contain a name as a separate word."""
    text = "\0".join(words)
    standing = [re.compile(rf"(?<!\w){re.escape(name)}(?!\w)") for name in names if name in text]
    return {word for word in words[1:] if any(name.search(word) for name in standing)}


def _command(words: Sequence[str]) -> str:
    """Return a command as typed in a shell.

    Args:
        words: The arguments of the process; the first is the path of the program.

    >>> _command(["/usr/lib/python3/lightning_fed/__main__.py", "fit", "-c", "toy.yaml"])
    'lightning-fed fit -c toy.yaml'
    >>> _command(["train.py", "--name", "a run"])
    "python train.py --name 'a run'"
    """
    program, arguments = Path(words[0]), list(words[1:])
    if program.name == "lightning-fed" or program.parts[-2:] == ("lightning_fed", "__main__.py"):
        return shlex.join(["lightning-fed", *arguments])
    return shlex.join([*(["python"] if program.suffix == ".py" else []), *words])


@lru_cache(maxsize=8)
def _commit(folder: Path) -> str | None:
    """Return the git commit of a folder; None: without a repository, or without git."""
    command = ["git", "-C", str(folder), "rev-parse", "HEAD"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None if said.returncode == 0 else None


def of_the_data(data: FederatedDataModule, shows: bool) -> dict[str, Any]:
    """Return facts about the workers' data, without a pass over them.

    Args:
        data: The workers' data.
        shows: Whether numbers of single workers may be shown.
    """
    marks = population(data.names)
    facts = {"population": marks["workers"], "cohort_size": data.cohort_size}
    return {**facts, "names_checksum": marks["checksum"], **_of_the_workers(data.workers)} if shows else facts


def _of_the_workers(workers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the distribution and checksums of the workers' data, without building a worker."""
    unknown: dict[str, Any] = {"sizes": None, "sizes_checksum": None, "contents_checksum": None}
    if len(workers) > _MOST_SIZES:
        return unknown
    try:
        sizes, contents = sizes_of(workers), of_contents(workers)
    except Exception:  # an error is reported when the worker trains
        return unknown
    if sizes is None:
        return {**unknown, "contents_checksum": contents}
    spread = {"total": sum(sizes), "min": min(sizes), "median": float(np.median(sizes)), "max": max(sizes)}
    return {"sizes": spread, "sizes_checksum": of_sizes(sizes), "contents_checksum": contents}


def of_the_promise(privacy: Privacy | None, run: PrivateRun | None, folder: Path) -> dict[str, Any]:
    """Return facts about the promise, with the place of its ledger.

    Args:
        privacy: The promise, if there is one.
        run: Its account.
        folder: The folder of the run; a run resumed elsewhere has its ledger in the folder of its start.
    """
    if privacy is None or run is None:
        return {"promise": None, "ledger": None}
    sampling = run.setting.sampling
    promise = {
        "name": type(privacy).__name__,
        "unit": privacy.unit,
        "audience": privacy.audience,
        "mechanism": str(run.mechanism),
        "relation": run.relation,
        "sampling": "everyone" if sampling is None else sampling.__name__,
        "bound": privacy.bound(),
        "moving": run.moving,
        "noise_multiplier": run.noise_multiplier,
        "delta": run.delta,
        "budget": run.budget,
        "accountant": run.accountant.kind,
        "insecure": run.insecure,
        "release_metrics": privacy.release_metrics,
        "epsilon": None,
    }
    path = None if run.ledger.path is None else run.ledger.path.absolute()
    ledger = None if path is None else path.name if path.parent == folder.absolute() else str(path)
    return {"promise": promise, "ledger": ledger}
