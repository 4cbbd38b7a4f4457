"""A deployment from a config of ``lightning-fed fit``: what the server runs, and what each node hosts.

A config names everything: the server takes the algorithm, the Trainer and the model of it, and each node the module and
those of its workers that it hosts. It is how a config is tried over real processes before anyone writes a Flower App.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lightning_fed._lightning import pl
from lightning_fed.cli.command import FederatedCLI
from lightning_fed.engines import Engine
from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.node import Node
from lightning_fed.server.datamodule import FederatedDataModule


@final
class _Parts(FederatedCLI):
    """Builds the model and the data of a config, and runs nothing.

    Args:
        file: The config, of ``lightning-fed fit``.
    """

    def __init__(self, file: str) -> None:
        super().__init__(args=["fit", "--config", file])

    def instantiate_trainer(self, **_: Any) -> pl.Trainer:
        """Build one that writes nothing."""
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
    cli = _Parts(config["file"])
    data: FederatedDataModule = cli.datamodule
    missing = [name for name in names if name not in data.workers]
    if missing:
        raise ValueError(f"{config['file']} has no worker {missing[0]!r}")
    return Node(cli.model.module, {name: data.workers[name] for name in names}, threads=1)


def names_in(file: Path) -> list[str]:
    """Return the names of the workers of a config, in order.

    Args:
        file: The config.
    """
    return list(_Parts(str(file)).datamodule.names)


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
            super().__init__(args=["fit", "--config", file], save_config_callback=None)

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
    """
    _DeployedCLI(str(config["file"]), workers, engine)


if __name__ == "__main__":
    print(json.dumps(names_in(Path(sys.argv[1]))))
