"""What compression costs in accuracy, on handwritten digits at a hundred uneven workers."""

from __future__ import annotations

import pytest
from helpers import trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.datasets import DigitsDataModule, Dirichlet, PartitionedPopulation
from lightning_fed.models import MLPClassifier
from lightning_fed.transforms import EDEN, Compressed

pytest.importorskip("sklearn")


def run(*last: Compressed) -> tuple[float, int]:
    """The accuracy after 100 rounds, and the bytes of an update."""
    pl.seed_everything(0, verbose=False)
    workers = PartitionedPopulation(DigitsDataModule(), Dirichlet(workers=100, alpha=0.3, min_size=2), batch_size=10)
    data = FederatedDataModule(workers, cohort_size=10, val=DigitsDataModule(), seed=0)
    fed = FederatedModule(MLPClassifier(hidden=(1024,)), transforms=last)
    run = trainer(max_steps=100, max_epochs=-1, limit_val_batches=0)
    run.fit(fed, data)
    assert fed.leaves is not None
    bytes_ = sum(row.bytes for row in fed.leaves.up if row.kind == "delta")
    return float(run.test(fed, data, verbose=False)[0]["test_acc"]), bytes_


@pytest.mark.slow
def test_one_bit_costs_less_than_a_point() -> None:
    (accuracy, bytes_), (compressed, fewer) = run(), run(Compressed(EDEN(bits=1)))
    assert fewer * 31 <= bytes_
    assert accuracy > 0.9
    assert compressed >= accuracy - 0.01
