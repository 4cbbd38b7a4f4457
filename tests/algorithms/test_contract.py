"""Every algorithm keeps the contract of ``lightning_fed.testing``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lightning_fed.algorithms import (
    Algorithm,
    Cyclic,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    FedNova,
    FedPer,
    FedProx,
    FedRep,
    QFedAvg,
    Scaffold,
)
from lightning_fed.testing import ALGORITHM_CHECKS

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "FedAvg": FedAvg,
    "Cyclic": Cyclic,
    "FedProx": lambda: FedProx(0.1),
    "FedNova": lambda: FedNova(momentum=0.5),
    "FedNova, proximal": lambda: FedNova(momentum=0.5, mu=0.1, lr=0.1),
    "Scaffold": Scaffold,
    "FedDyn": lambda: FedDyn(alpha=0.05),
    "QFedAvg": lambda: QFedAvg(q=1.0, lr=0.1),
    "QFedAvg, plain sums": lambda: QFedAvg(q=1.0, lr=0.1, weighted=False),
    "Ditto": lambda: Ditto(lam=0.1),
    "FedPer": lambda: FedPer(["head.*"]),
    "FedPer, first layers": lambda: FedPer(["body.*"]),
    "FedBN": FedBN,
    "FedBN, named": lambda: FedBN(["norm.*"]),
    "FedRep": lambda: FedRep(["head.*"], head_epochs=2),
}


@pytest.mark.parametrize("check", ALGORITHM_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(
    "algorithm",
    [
        pytest.param(make, id=name, marks=pytest.mark.slow if "," in name else ())  # another setting of one above it
        for name, make in ALGORITHMS.items()
    ],
)
def test_contract(algorithm: Callable[[], Algorithm], check: Callable[[Any], None]) -> None:
    check(algorithm)
