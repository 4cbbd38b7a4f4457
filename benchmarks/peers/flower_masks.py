"""Masks of SecAgg+ by Flower: made from a seed and added to a vector, as its clients do with each of their neighbours.

    python flower_masks.py SIZE REPEATS

Prints one line of JSON: the processor's time in ms, the least of the repeats.
"""

from __future__ import annotations

import json
import sys
import time

from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from numpy import int64, zeros

MODULUS = 2**32
"""The default of its SecAggPlusWorkflow."""


def main() -> None:
    size, repeats = int(sys.argv[1]), int(sys.argv[2])
    vector, times = [zeros(size, int64)], []
    for repeat in range(1 + repeats):
        seed = repeat.to_bytes(32, "little")
        begun = time.process_time()
        vector = parameters_addition(vector, pseudo_rand_gen(seed, MODULUS, [(size,)]))
        times.append(1e3 * (time.process_time() - begun))
    print(json.dumps(min(times[1:])))


if __name__ == "__main__":
    main()
