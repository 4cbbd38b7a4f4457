"""The folder of one command's runs over seeds: its place, and its content."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from lightning_fed.cli.config_files import config_paths
from lightning_fed.cli.config_names import NAME, name_of
from lightning_fed.core.configs import flat

_NOTE = "repeat.json"
_EARLIER = "earlier"
_OWN = ("save_dir", "name", "version")
"""Arguments of Lightning's loggers that have a folder for each run: ``save_dir/name/version``."""
_FALL_BACK = {"class_path": "CSVLogger", "init_args": {"save_dir": "logs", "name": NAME}}


@final
@dataclass(frozen=True)
class SeedRuns:
    """The runs of one command with several seeds.

    Args:
        folder: Their folder.
        loggers: The loggers of the command, as a config has them.
        digest: A digest of the config without seeds and places: of equal ones the results are.
    """

    folder: Path
    loggers: Sequence[Mapping[str, Any]]
    digest: str

    @classmethod
    def of(cls, words: Sequence[str], config: Mapping[str, Any], folder: Path | None = None) -> SeedRuns:
        """Find the folder of a command, or the name of a new one.

        Args:
            words: The command: ``fit`` and its options.
            config: Its whole config.
            folder: The folder that is asked for; None: ``save_dir/config/algorithm``, with a number if another config
                lies there.

        Raises:
            ValueError: If the folder that is asked for has runs of another config.
        """
        digest = hashlib.sha256(json.dumps(flat(config), sort_keys=True).encode()).hexdigest()
        loggers = _loggers(config)
        if folder is None:
            arguments: Mapping[str, Any] = next((logger["init_args"] for logger in loggers if _has_folder(logger)), {})
            name = arguments.get("name")
            stem = name_of([path for *_, path in config_paths(words)]) if name in (None, NAME) else str(name)
            place = os.path.expandvars(arguments.get("save_dir") or "logs")
            first = Path(place).expanduser() / stem / _algorithm(config)
            number = 1
            folder = first
            while _digest_in(folder) not in (None, digest):
                number += 1
                folder = first.with_name(f"{first.name}_{number}")
        elif _digest_in(folder) not in (None, digest):
            raise ValueError(f"--folder {folder} is not empty, and has no runs of this config; give another folder")
        return cls(folder, loggers, digest)

    def note(self, command: str) -> None:
        """Record the command in the folder.

        Args:
            command: The command.

        Raises:
            OSError: If it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"command": command, "config_sha256": self.digest}
        (self.folder / _NOTE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def run(self, seed: int) -> Path:
        """Return the folder of a seed's run."""
        return self.folder / f"seed={seed}"

    def output(self, seed: int) -> Path:
        """Return the file for the output of a seed's run."""
        return self.folder / f"seed={seed}.log"

    def options(self, seed: int) -> list[str]:
        """Return the options that put a seed's run into its folder.

        Loggers that have a folder for each run get that of the seed; another one, such as that of Weights & Biases,
        gets a name, if it has none.

        Args:
            seed: The seed.
        """
        own = dict(zip(_OWN, (str(self.folder.parent), self.folder.name, self.run(seed).name), strict=True))
        if len(self.loggers) == 1 and self.loggers[0] is not _FALL_BACK:
            return [word for name, value in own.items() for word in (f"--trainer.logger.init_args.{name}", value)]
        loggers = []
        for logger in self.loggers:
            arguments = dict(logger.get("init_args") or {})
            if _has_folder(logger):
                arguments |= own
            elif "name" in arguments and arguments["name"] is None:
                arguments["name"] = "/".join((self.folder.parent.name, self.folder.name, own["version"]))
            loggers.append({**logger, "init_args": arguments})
        return ["--trainer.logger", json.dumps(loggers)]

    def outcome(self, seed: int) -> str:
        """Return the end of a seed's run, by its record; empty without a record."""
        try:
            return str(json.loads((self.run(seed) / "run.json").read_text(encoding="utf-8"))["outcome"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def results(self, seed: int) -> str:
        """Return the values of a run's last evaluation, as its record has them; empty if there is none."""
        try:
            last = (self.run(seed) / "evaluations.jsonl").read_text(encoding="utf-8").splitlines()[-1]
            metrics = json.loads(last)["metrics"]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return ""
        return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float))

    def put_aside(self, seed: int) -> None:
        """Move the files of an earlier run of a seed into a folder beside it; two runs then never mix."""
        for path in (self.run(seed), self.output(seed)):
            if path.exists():
                number = 1
                while (to := self.folder / _EARLIER / f"{path.stem}_{number}{path.suffix}").exists():
                    number += 1
                to.parent.mkdir(exist_ok=True)
                path.rename(to)


def _loggers(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The loggers of a config, the first of which has a folder for each run: there a record and checkpoints lie."""
    given = (config.get("trainer") or {}).get("logger")
    loggers = [given] if isinstance(given, Mapping) else given if isinstance(given, list) else []
    return sorted(loggers if any(map(_has_folder, loggers)) else [_FALL_BACK, *loggers], key=_has_folder, reverse=True)


def _has_folder(logger: Mapping[str, Any]) -> bool:
    arguments = logger.get("init_args") or {}
    # Of Weights & Biases the version is an id of its service, and its folder has another name.
    return logger is _FALL_BACK or (all(name in arguments for name in _OWN) and "id" not in arguments)


def _algorithm(config: Mapping[str, Any]) -> str:
    """The algorithm as a name of a folder: ``FedProx-mu=0.1``."""
    algorithm = (config.get("model") or {}).get("algorithm")
    if not isinstance(algorithm, Mapping):
        return "FedAvg"
    arguments = algorithm.get("init_args") or {}
    plain = [f"{name}={value}" for name, value in arguments.items() if isinstance(value, (str, int, float))]
    name = "-".join([str(algorithm.get("class_path")).rpartition(".")[2], *plain])
    return re.sub(r"[^\w.=,+-]", "_", name)[:100]


def _digest_in(folder: Path) -> str | None:
    """The digest of the config whose runs lie in a folder; empty if other things do; None if it is free."""
    try:
        return str(json.loads((folder / _NOTE).read_text(encoding="utf-8"))["config_sha256"])
    except FileNotFoundError:
        return "" if folder.exists() and any(folder.iterdir()) else None
    except (OSError, ValueError, KeyError, TypeError):
        return ""
