"""Cost of integer noise: time to draw it, and ε beside that of continuous noise.

    python benchmarks/integer_noise.py [--numbers 1000000] [--repeats 5]

Times are the processor's, of one thread, the least of some repeats, for the numbers of one worker. ε is for δ = 1e-5
and as much noise: Gaussian by privacy loss distributions, which Skellam noise does not have; Gaussian by Rényi
divergences of all orders; and integers by those of whole orders, the only ones for which there is a proof. Neighbours
are a worker's contributions, or zeros in their place.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lightning_fed.privacy import Accountant, Gaussian, Mechanism, Noise, SkellamSum
from lightning_fed.privacy.accounting import Kind
from lightning_fed.privacy.inversion import MOST_STD, skellam_table
from lightning_fed.privacy.stochastic_rounding import rounded_norm, rounded_within
from lightning_fed.privacy.units import step_for

VARIANCES = (1.0, 1e2, 1e4, 1e6, float(MOST_STD**2))


def milliseconds(step: Callable[[], Any], repeats: int) -> float:
    found = math.inf
    for _ in range(repeats):
        started = time.process_time()
        step()
        found = min(found, 1e3 * (time.process_time() - started))
    return found


def times(numbers: int, repeats: int) -> None:
    print(f"| {numbers:,} numbers | ms | table, ms | thresholds |\n|---|---|---|---|")
    noise, poisson = Noise(), np.random.default_rng().poisson
    print(f"| Gaussian, float64 | {milliseconds(lambda: noise.gaussian(numbers, 1.0), repeats):.1f} | | |")
    for variance in VARIANCES:
        table = milliseconds(lambda: skellam_table.__wrapped__(variance), 1)  # noqa: B023
        drawn = milliseconds(lambda: noise.skellam(numbers, variance), repeats)  # noqa: B023
        size = len(skellam_table(variance).rest)
        print(f"| Skellam, variance {variance:.6g} | {drawn:.1f} | {table:.0f} | {size:,} |")
    difference = milliseconds(lambda: poisson(5e3, numbers) - poisson(5e3, numbers), repeats)
    print(f"| NumPy's Poisson twice, variance 10000 (not secret) | {difference:.1f} | | |")
    row = torch.randn(1, numbers, dtype=torch.float64)
    row *= units_of(1.0) / torch.linalg.vector_norm(row)
    bound = rounded_norm(units_of(1.0), numbers)
    rounded = milliseconds(lambda: rounded_within(row, bound, ["worker"], noise.uniform), repeats)
    print(f"| rounding within the bound | {rounded:.1f} | | |")


def units_of(noise_multiplier: float) -> float:
    """As DistributedDP(clip=1.0, survivors=100) has them."""
    return 1.0 / step_for(1.0, noise_multiplier, 100)


def epsilon(kind: Kind, mechanism: Mechanism, rounds: int) -> float:
    accountant = Accountant(kind)
    accountant.charge(mechanism, rounds)
    return accountant.epsilon(1e-5)


def costs() -> None:
    print("| z | rounds | numbers | units | Gaussian, pld | Gaussian, rdp | integers, rdp |")
    print(7 * "|---" + "|")
    for z, rounds in ((1.0, 1), (4.0, 1), (5.0, 100), (1.0, 100)):
        continuous = [epsilon(kind, Gaussian(z), rounds) for kind in ("pld", "rdp")]  # type: ignore[arg-type]
        for size, units in ((10**6, units_of(z)), (25 * 10**6, units_of(z)), (10**6, 2**10), (10**6, 2**7)):
            integers = epsilon("rdp", SkellamSum(z, units, size), rounds)
            values = " | ".join(f"{each:.4f}" for each in (*continuous, integers))
            print(f"| {z:g} | {rounds} | {size:,} | {units:g} | {values} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--numbers", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    times(options.numbers, options.repeats)
    print()
    costs()


if __name__ == "__main__":
    main()
