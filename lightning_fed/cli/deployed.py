"""A deployment from a config of ``lightning-fed fit``: the server's part, and each node's part.

The server uses the config's algorithm, Trainer and model, and each node the module and its own workers. So a config can
be tried over real processes before a Flower App is written.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

from lightning_fed._lightning import LightningArgumentParser, pl
from lightning_fed.cli.command import FederatedCLI
from lightning_fed.cli.commands import PROGRAM, refuse
from lightning_fed.cli.failures import one_sentence
from lightning_fed.core.warnings_only import warnings_only
from lightning_fed.engines import Engine
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.node import Node
from lightning_fed.server.datamodule import FederatedDataModule


@final
class _Parts(FederatedCLI):
    """Builds the model and the data of a config, and runs nothing.

    Args:
        words: The words that follow ``lightning-fed``; the first is ``fit``.
        file: The file into which the config is written that they make, with all defaults.
    """

    def __init__(self, words: Sequence[str], file: Path | None = None) -> None:
        self._file = file
        super().__init__(args=list(words), parser_kwargs={"prog": PROGRAM})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and write what was parsed."""
        super().parse_arguments(parser, args)
        if self._file is None:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a word that Lightning uses, too
            written = self._parser("fit").dump(self.config["fit"], skip_none=False)
        self._file.write_text(written, encoding="utf-8")

    def instantiate_trainer(self, **_: Any) -> pl.Trainer:
        """Build a Trainer that writes nothing, and logs nothing about devices."""
        with warnings_only():
            return pl.Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing."""


def node(config: Mapping[str, str]) -> Node:
    """Build the node of some workers of a config; a build function for ``lightning-fed node``.

    Args:
        config: ``"file"``: the config; ``"workers"``: the names of those that the node hosts, as JSON.

    Raises:
        ValueError: If the config has no such worker.
    """
    names = json.loads(config["workers"])
    cli = _Parts(["fit", "--config", config["file"]])
    data: FederatedDataModule = cli.datamodule
    missing = [name for name in names if name not in data.workers]
    if missing:
        raise ValueError(f"{config['file']} has no worker {missing[0]!r}")
    return Node(cli.model.module, {name: data.workers[name] for name in names}, threads=1)


def write_config(words: Sequence[str], file: Path) -> list[str]:
    """Write the config that a command makes, and return the names of its workers, in order.

    Args:
        words: The words that follow ``lightning-fed``; the first is ``fit``.
        file: Where to write.

    Raises:
        SystemExit: With status 2, after one sentence on standard error, if the command is wrong.
    """
    data: FederatedDataModule = _Parts(words, file).datamodule
    if data.availability is not None:
        kind = type(data.availability).__name__
        refuse(
            f"data.availability={kind} simulates workers that are away, and real nodes are away by themselves; leave "
            "it out: --data.availability null",
            f"{PROGRAM} fit",
        )
    return list(data.names)


@final
class _DeployedCLI(FederatedCLI):
    """Runs a config with the workers of nodes in place of its own.

    Args:
        file: The config.
        workers: The workers that the nodes announce.
        engine: The engine that trains them.
    """

    def __init__(self, file: str, workers: RemotePopulation, engine: Engine) -> None:
        self._workers_there = workers
        self._engine_there = engine
        with warnings.catch_warnings():
            # It warns that an engine cannot be written into a config, which is no news: this config is never written.
            warnings.filterwarnings("ignore", r"\s*Unable to serialize instance")
            super().__init__(args=["fit", "--config", file], save_config_callback=None, parser_kwargs={"prog": PROGRAM})

    def before_instantiate_classes(self) -> None:
        """Put the nodes' workers into the config."""
        part = self.config["fit"]
        part["data"]["workers"] = self._workers_there
        part["model"]["engine"] = self._engine_there


def fit(workers: RemotePopulation, engine: Engine, config: Mapping[str, Any]) -> None:
    """Run a config on the nodes; the ``main`` of a ServerApp.

    Args:
        workers: The workers that the nodes announce.
        engine: The engine that trains them.
        config: ``"file"``: the config.

    Raises:
        RuntimeError: If the config is refused; a SystemExit, as on a command line, would lose its reason in Flower.
    """
    try:
        _DeployedCLI(str(config["file"]), workers, engine)
    except SystemExit as end:
        reason = end.__context__
        raise RuntimeError(str(end) if reason is None else one_sentence(reason)) from None


if __name__ == "__main__":
    print(json.dumps(write_config(sys.argv[2:], Path(sys.argv[1]))))
