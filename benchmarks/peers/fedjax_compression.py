"""Compression of one vector by google/fedjax: quantized and back, as its aggregators do for a client, without bytes.

    python fedjax_compression.py VECTOR.npy REPEATS

Prints one line of JSON: for each of its quantizers the processor's time in ms, least of the repeats, and the error.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

jax.tree_map = jax.tree_util.tree_map  # a name that JAX has dropped since fedjax's last release

from fedjax.aggregators import compression, walsh_hadamard  # noqa: E402


def rotated(quantize: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def run(vector: Any, key: Any) -> Any:
        there, shapes = walsh_hadamard.structured_rotation_pytree([vector], key)
        return walsh_hadamard.inverse_structured_rotation_pytree(quantize(there, key), key, shapes)[0]

    return run


def uniform(levels: int) -> Callable[[Any, Any], Any]:
    return lambda tree, key: compression.uniform_stochastic_quantize_pytree(tree, levels, key)


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "DRIVE": rotated(lambda tree, key: compression.drive_pytree(tree)),
    "rotated, 4 levels": rotated(uniform(4)),
    "rotated, 16 levels": rotated(uniform(16)),
    "uniform, 256 levels": lambda vector, key: uniform(256)([vector], key)[0],
    "TernGrad": lambda vector, key: compression.terngrad_quantize_pytree([vector], key)[0],
}


def main() -> None:
    vector, repeats = jax.numpy.asarray(np.load(sys.argv[1])), int(sys.argv[2])
    found = {}
    for name, way in WAYS.items():
        times = []
        for repeat in range(1 + repeats):
            key = jax.random.PRNGKey(repeat)
            begun = time.process_time()
            back = jax.block_until_ready(way(vector, key))
            times.append(1e3 * (time.process_time() - begun))
        error = float(((back - vector) ** 2).sum() / (vector**2).sum())
        found[name] = {"ms": min(times[1:]), "error": error}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
