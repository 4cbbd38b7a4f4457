"""A large frozen part, such as the model under adapters: it does not travel, and is not copied for each worker."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from helpers import fit
from menagerie import CLASSES, Examples, Member
from spy import Spy, length, tensor_bytes
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.wire import decode_job
from lightning_fed.worker import module_tensors

WIDTH = 512


class Adapted(Member):
    """A frozen body of 266,752 numbers, and an adapter of 1,539."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH, bias=False))
        self.body.requires_grad_(False)
        self.head = nn.Linear(WIDTH, CLASSES)


def workers(n: int = 4) -> FederatedDataModule:
    return FederatedDataModule({f"w{i}": Examples(i, 8) for i in range(n)})


def test_only_what_is_trained_travels(engine: str) -> None:
    spy, adapter = Spy(), 4 * (WIDTH * CLASSES + CLASSES)
    fed = FederatedModule(Adapted(), aggregator=spy, engine=engine)
    fit(fed, workers(), max_epochs=2)
    jobs, updates = spy.jobs(1), spy.updates(1)
    assert all(adapter <= tensor_bytes(job) < adapter + 64 for job in jobs.values())
    assert fed.last_report.bytes_down == length(jobs) < 4 * (adapter + 4096)
    assert fed.last_report.bytes_up == length(updates) < 4 * (adapter + 4096)
    assert list(decode_job(jobs["w0"]).model.parameters) == ["head.weight", "head.bias"]


def test_it_is_not_stacked() -> None:
    """A stacked tensor has no address to user code, and a copy of it another one."""
    addresses: list[int] = []

    class Looking(Adapted):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            addresses.append(self.body[2].weight.data_ptr())
            return super().training_step(batch, batch_idx)

    fit(FederatedModule(Looking(), engine="vectorized"), workers(), max_epochs=2)
    assert len(addresses) == 4  # two steps a round, of all workers at once
    assert len(set(addresses)) == 1


def test_it_is_looked_through_once_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """That it has not moved is found by reading all of it, which takes as long as a forward pass of a few examples."""
    read: list[int] = []
    mark = module_tensors.mark
    monkeypatch.setattr(module_tensors, "mark", lambda tensor: read.append(tensor.numel()) or mark(tensor))
    fed = FederatedModule(Adapted(), engine="sequential")

    class Counts(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            read.clear()

    run = fit(fed, workers(5), max_epochs=2, callbacks=[Counts()])
    assert run.global_step == 2
    assert sum(read) == 5 * sum(p.numel() for p in fed.module.parameters() if not p.requires_grad)
