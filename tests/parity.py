"""One engine against another, worker by worker."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import assert_equal, trainer
from zoo import Points

from lightning_fed.engines import Engine, Sequential, Vectorized
from lightning_fed.population import WorkerPool
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates

RAGGED = {"a": Points(1, 12), "b": Points(2, 7), "c": Points(3, 12), "d": Points(4, 9), "e": Points(5, 3)}


needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="torch.compile needs a C++ compiler"
)
TORCH_2_4 = torch.__version__.startswith("2.4.")
needs_compiled_stacks = pytest.mark.skipif(TORCH_2_4, reason="torch 2.4 traces no context managers of a module's own")


def job_for(module: pl.LightningModule, local: LocalTraining) -> Job:
    parameters = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    return Job(3, 5, 11, GlobalModel(parameters, {n: b.clone() for n, b in module.named_buffers()}), local)


def by_worker(
    engine: Engine, module: pl.LightningModule, workers: Mapping[str, pl.LightningDataModule], local: LocalTraining
) -> dict[str, dict[str, Any]]:
    """Everything that comes back, worker by worker."""
    run = trainer()
    module.to(run.strategy.root_device)
    engine.setup(module, WorkerPool(workers, 100), run)
    job = job_for(module, local)
    results: dict[str, dict[str, Any]] = {}
    with torch.no_grad():
        for updates in engine.run(job, list(workers)):
            if not isinstance(updates, Updates):
                raise updates
            for row, worker in enumerate(updates.workers):
                results[worker] = {
                    "delta": job.model.layout.unflatten(updates.delta[row]),
                    "buffers": {name: b[row] for name, b in updates.buffers.items()},
                    "weight": updates.weight[row].item(),
                    "loss": updates.loss[row].item(),
                    "metrics": {name: v[row].item() for name, v in updates.metrics.items()},
                }
    engine.teardown()
    return results


def assert_same(
    module: pl.LightningModule,
    workers: Mapping[str, pl.LightningDataModule],
    local: LocalTraining = LocalTraining(),
    engine: Engine | None = None,
) -> dict[str, dict[str, Any]]:
    one = by_worker(Sequential(), module, workers, local)
    other = by_worker(engine or Vectorized(), module, workers, local)
    assert set(one) == set(other) == set(workers)
    for worker, expected in one.items():
        assert_equal(other[worker], expected, f"{worker}: ")
    return other
