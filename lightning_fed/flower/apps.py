"""The ServerApp of a Flower App whose ``main`` is a stock Trainer's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from lightning_fed.engines.remote import RemotePopulation
from lightning_fed.flower.engine import Flower, workers

_log = logging.getLogger(__name__)


def server_app(
    main: Callable[[RemotePopulation, Flower, Mapping[str, Any]], None],
    *,
    nodes: int | None = None,
    names: Sequence[str] | None = None,
    timeout: float = 600.0,
    wait: float = 120.0,
    most_examples: int | None = None,
) -> ServerApp:
    """Return a ServerApp that waits for the nodes and then calls ``main``.

    Args:
        main: Called with the workers, the engine, and the run's configuration (``flwr run --run-config``).
        nodes: The number of nodes to wait for; the key ``nodes`` of the configuration overrides it.
        names: The names of all workers, in order; the key ``names``, separated by commas, overrides it.
        timeout: The longest time of a node for one message, in seconds; the key ``timeout`` overrides it.
        wait: The longest time to wait for the nodes, in seconds; the key ``wait`` overrides it.
        most_examples: The largest number of examples that a worker may report.

    Example::

        def main(workers, engine, config):
            trainer = pl.Trainer(max_epochs=config["rounds"], default_root_dir=config["out"])
            trainer.fit(FederatedModule(module(), engine=engine), FederatedDataModule(workers))

        app = server_app(main)  # an assignment: `flwr run` looks for one
    """
    app = ServerApp()

    def run(grid: Grid, context: Context) -> None:
        config = dict(context.run_config)
        listed = str(config.get("names", ""))
        population = workers(
            grid,
            int(config["nodes"]) if config.get("nodes") else nodes,
            [name.strip() for name in listed.split(",")] if listed else names,
            float(config.get("wait", wait)),
            most_examples,
        )
        _log.info("%d workers on %d nodes", len(population), len(population.versions))
        main(population, Flower(grid, float(config.get("timeout", timeout))), config)

    app.main()(run)
    return app
