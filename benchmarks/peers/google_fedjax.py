"""The round by google/fedjax, compiled; ``linear`` and ``mlp`` only."""

from __future__ import annotations

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from stopwatch import WARMUP, Stopwatch
from task import BATCH, KINDS, LR, POINTS, POPULATION

jax.tree_map = jax.tree_util.tree_map  # a name that JAX has dropped since fedjax's last release

import fedjax  # noqa: E402
from fedjax.algorithms.fed_avg import federated_averaging  # noqa: E402

SIZES = {"linear": [60, 10], "mlp": [784, 200, 200, 10]}


def network(kind: str) -> Any:
    keys = jax.random.split(jax.random.PRNGKey(0), len(SIZES[kind]))
    layers = zip(keys, SIZES[kind], SIZES[kind][1:], strict=False)
    return [{"w": 0.05 * jax.random.normal(key, (a, b)), "b": jnp.zeros(b)} for key, a, b in layers]


def loss(parameters: Any, batch: Any, rng: Any) -> Any:
    x = batch["x"]
    for layer in parameters[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    log_p = jax.nn.log_softmax(x @ parameters[-1]["w"] + parameters[-1]["b"])
    return -log_p[jnp.arange(len(batch["y"])), batch["y"]].mean()


def main() -> None:
    kind, rounds = sys.argv[1], int(sys.argv[2])
    stopwatch = Stopwatch()
    rng = np.random.default_rng(0)
    clients = {
        str(worker).encode(): {
            "x": rng.normal(size=(POINTS, SIZES[kind][0])).astype(np.float32),
            "y": rng.integers(10, size=POINTS, dtype=np.int32),
        }
        for worker in range(POPULATION)
    }
    algorithm = federated_averaging(
        jax.grad(loss),
        client_optimizer=fedjax.optimizers.sgd(LR),
        server_optimizer=fedjax.optimizers.sgd(1.0),
        client_batch_hparams=fedjax.ShuffleRepeatBatchHParams(batch_size=BATCH, num_epochs=1),
    )
    sampler = fedjax.client_samplers.UniformGetClientSampler(
        fedjax.InMemoryFederatedData(clients), KINDS[kind].cohort, seed=0
    )
    state = algorithm.init(network(kind))
    for number in range(WARMUP + rounds):
        sampler.set_round_num(number)
        state, _ = algorithm.apply(state, sampler.sample())
        jax.block_until_ready(state.params)  # JAX computes behind the program's back
        stopwatch.round_ended()
    stopwatch.stop()


if __name__ == "__main__":
    main()
