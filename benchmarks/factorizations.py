"""Noise of DP-FTRL's running sums by tree and by matrix factorisation, for the same privacy.

    python benchmarks/factorizations.py [--rounds 1000] [--separation 100]

Prints, for each way to correlate noise, how far one worker moves all that is released, and the noise's standard
deviation in a running sum, over rounds (rms) and in the worst round, if the whole run is to be as private as one
Gaussian release with noise multiplier 1. In units of the clipping bound; no noise is drawn, and nothing is timed.
"""

from __future__ import annotations

import argparse
import math

from lightning_fed.privacy import BandedToeplitz, BufferedToeplitz, Factorization, prefix_errors
from lightning_fed.privacy.correlated import tree_sensitivity_squared
from lightning_fed.privacy.factorization import sensitivity


def tree(rounds: int, separation: int) -> tuple[float, float, float]:
    """Trees of as many rounds as lie between a worker's, one after another: the noise of their last sums adds up."""
    trees = math.ceil(rounds / separation)
    moved = math.sqrt(trees * tree_sensitivity_squared(separation))
    variances = [
        (step - 1) // separation * separation.bit_count() + ((step - 1) % separation + 1).bit_count()
        for step in range(1, rounds + 1)
    ]
    return moved, moved * math.sqrt(sum(variances) / rounds), moved * math.sqrt(max(variances))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--separation", type=int, default=100, help="rounds from a worker's taking part to its next")
    options = parser.parse_args()
    rounds, separation = options.rounds, options.separation
    ways: list[tuple[str, Factorization]] = [("independent noise", BandedToeplitz(1))]
    ways += [(f"banded, {bands} bands", BandedToeplitz(bands)) for bands in (8, 32, separation)]
    ways += [(f"buffered, {buffers} buffers", BufferedToeplitz(buffers)) for buffers in (1, 2, 3)]
    print(f"{rounds} rounds, a worker at most every {separation}")
    print(f"{'':24}{'sensitivity':>12}{'rms':>10}{'worst':>10}")
    print("{:24}{:12.4f}{:10.3f}{:10.3f}".format("tree", *tree(rounds, separation)))
    for name, factorization in ways:
        c = factorization.coefficients(rounds, separation)
        print(f"{name:24}{sensitivity(c, separation):12.4f}{'{:10.3f}{:10.3f}'.format(*prefix_errors(c, separation))}")


if __name__ == "__main__":
    main()
