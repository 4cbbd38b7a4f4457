"""The round by Flower's simulation: workers train in Ray's processes, one for each core."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

os.environ.update(FLWR_TELEMETRY_ENABLED="0", RAY_USAGE_STATS_ENABLED="0")

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from stopwatch import WARMUP, Stopwatch
from task import BATCH, KINDS, LR, POINTS, POPULATION, network, points
from torch import nn


def client_app(kind: str) -> ClientApp:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)  # each of Ray's processes has one core
        net = network(kind)
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(net.parameters(), lr=LR)
        order = torch.randperm(POINTS)
        x, y = (rows[order].split(BATCH) for rows in points(kind, int(context.node_config["partition-id"])))
        for inputs, labels in zip(x, y, strict=True):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(inputs), labels)
            loss.backward()
            optimizer.step()
        metrics = MetricRecord({"train_loss": float(loss.detach()), "num-examples": POINTS})
        content = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
        return Message(content=content, reply_to=message)

    return app


def server_app(kind: str, rounds: int, stopwatch: Stopwatch) -> ServerApp:
    app = ServerApp()

    def after_round(number: int, arrays: ArrayRecord) -> None:
        if number > 0:  # it is called before the first round as well
            stopwatch.round_ended()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy = FedAvg(
            fraction_train=KINDS[kind].cohort / POPULATION, fraction_evaluate=0.0, min_available_nodes=POPULATION
        )
        arrays: Any = ArrayRecord(network(kind).state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=WARMUP + rounds, evaluate_fn=after_round)
        stopwatch.stop()

    return app


def main() -> None:
    kind, rounds = sys.argv[1], int(sys.argv[2])
    with tempfile.TemporaryDirectory() as home:
        os.environ["FLWR_HOME"] = home  # else it writes to the user's
        run_simulation(
            server_app(kind, rounds, Stopwatch()),
            client_app(kind),
            num_supernodes=POPULATION,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )


if __name__ == "__main__":
    main()
