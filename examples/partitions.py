"""Draw who holds how many of which digits, for the usual ways to deal them out to 20 workers.

The pictures of docs/data.md: python examples/partitions.py --out docs/partitions
"""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_fed.datasets import (
    IID,
    DigitsDataModule,
    Dirichlet,
    DirichletSizes,
    LabelsPerWorker,
    LongTail,
    PartitionedPopulation,
    Shards,
)

PARTITIONS = {
    "iid": IID(workers=20),
    "dirichlet-1": Dirichlet(workers=20, alpha=1.0),
    "dirichlet-0.1": Dirichlet(workers=20, alpha=0.1),
    "dirichlet-capped": Dirichlet(workers=20, alpha=0.1, capped=True),
    "shards": Shards(workers=20),
    "labels-per-worker": LabelsPerWorker(workers=20, labels=2),
    "dirichlet-sizes": DirichletSizes(workers=20, alpha=1.0),
    "long-tail": IID(workers=20),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("partitions"), help="the folder for the pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, partition in PARTITIONS.items():
        digits = DigitsDataModule()
        source = LongTail(digits, decay=0.7) if name == "long-tail" else digits
        population = PartitionedPopulation(source, partition)
        population.plot().savefig(out / f"{name}.png", dpi=80)
        sizes = population.partition.sizes()
        print(f"{name:17} {sizes.min():4} to {sizes.max():4} examples  {out / name}.png")


if __name__ == "__main__":
    main()
