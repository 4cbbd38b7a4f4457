"""In single precision, as users have it, the engines give the same but for its rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity import RAGGED, by_worker, needs_compiled_stacks, needs_compiler
from zoo import NETS, Points, Zoo

from lightning_fed.engines import Engine, Sequential, Vectorized
from lightning_fed.wire import LocalTraining


def assert_close(one: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> None:
    """Sums of up to 12 numbers round by up to 1e-6; a norm over three numbers divides that by their spread."""
    for worker, expected in one.items():
        for part in ("delta", "buffers"):
            assert {t.dtype for t in expected[part].values()} <= {torch.float32, torch.int64}
            torch.testing.assert_close(other[worker][part], expected[part], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_updates_are_float32_and_close(net: str) -> None:
    torch.manual_seed(0)
    module = Zoo(NETS[net]())
    workers = {n: w for n, w in RAGGED.items() if n != "d"} if net == "batch norm" else RAGGED
    local = LocalTraining(epochs=2)
    assert_close(*(by_worker(engine, module, workers, local) for engine in (Sequential(), Vectorized())))


@needs_compiler
@pytest.mark.parametrize(
    "engine",
    [Sequential(compile=True), pytest.param(Vectorized(compile=True), marks=needs_compiled_stacks)],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from torch.compile
def test_compiled_too(engine: Engine) -> None:
    torch.manual_seed(0)
    workers = {name: Points(i, 8) for i, name in enumerate("abcd")}
    module = Zoo(NETS["mlp"]())
    assert_close(*(by_worker(e, module, workers, LocalTraining(epochs=2)) for e in (Sequential(), engine)))
