"""In single precision, as users have it, the engines give the same but for its rounding."""

from __future__ import annotations

import pytest
import torch
from test_parity import RAGGED, by_worker
from zoo import NETS, Zoo

from lightning_fed.core.types import LocalTraining
from lightning_fed.engines import Sequential, Vectorized


@pytest.mark.parametrize("net", NETS)
def test_updates_are_float32_and_close(net: str) -> None:
    """Sums of up to 12 numbers round by 1e-6; the largest difference seen is 7e-7, with norms over three numbers."""
    torch.manual_seed(0)
    module = Zoo(NETS[net]())
    workers = {n: w for n, w in RAGGED.items() if n != "d"} if net == "batch norm" else RAGGED
    local = LocalTraining(epochs=2)
    one, other = (by_worker(engine, module, workers, local) for engine in (Sequential(), Vectorized()))
    for worker, expected in one.items():
        for part in ("delta", "buffers"):
            assert {t.dtype for t in expected[part].values()} <= {torch.float32, torch.int64}
            torch.testing.assert_close(other[worker][part], expected[part], rtol=1e-5, atol=1e-5)
