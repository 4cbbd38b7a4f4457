"""The memory of a GPU: what it costs that there is not enough, and that no round leaves any behind."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import assert_equal, fit
from menagerie import Examples, Member, member

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Engine, Sequential, Vectorized

MUCH = 2**50  # bytes, of which no GPU has as many


class Greedy(Member):
    """Wants more memory than there is for a batch of five, whatever it holds."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if len(batch[0]) == 5:
            torch.empty(MUCH, dtype=torch.uint8, device=self.device)
        return super().training_step(batch, batch_idx)


def data(greedy: bool) -> FederatedDataModule:
    workers = {name: Examples(i, 8) for i, name in enumerate(("ann", "bob", "cyd"))}
    return FederatedDataModule(workers | ({"greedy": Examples(9, 5, batch_size=5)} if greedy else {}))


def greedy() -> Greedy:
    module = Greedy()
    module.load_state_dict(member("adam").state_dict())
    return module


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", ["sequential", "vectorized", "auto"])
def test_a_worker_that_runs_out_of_it_is_dropped(engine: str) -> None:
    module, expected = greedy(), greedy()
    fed = FederatedModule(module, engine=engine, on_worker_error="drop")
    fit(fed, data(greedy=True), max_steps=3, max_epochs=-1, accelerator="gpu")
    (failure,) = fed.last_report.failures
    assert failure.worker == "greedy"
    assert "out of memory" in failure.reason
    fit(FederatedModule(expected), data(greedy=False), max_steps=3, max_epochs=-1, accelerator="gpu")
    assert_equal(dict(module.state_dict()), dict(expected.state_dict()))


@pytest.mark.parametrize("engine", ["sequential", "vectorized", "auto"])
def test_a_worker_that_runs_out_of_it_is_named(engine: str) -> None:
    with pytest.raises(Exception, match=r"worker 'greedy'.*round 0.*out of memory"):
        fit(FederatedModule(greedy(), engine=engine), data(greedy=True), accelerator="gpu")


class Watched(pl.Callback):
    """The bytes that are in use after each round."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def on_train_batch_end(self, *_: Any) -> None:
        torch.cuda.synchronize()
        self.bytes.append(torch.cuda.memory_allocated())


@pytest.mark.parametrize("engine", [Sequential(), Vectorized(), Vectorized(compile=True)], ids=repr)
@pytest.mark.parametrize("name", ["torchmetrics", "dropout", "adam"])
def test_it_stays_level_over_rounds(name: str, engine: Engine) -> None:
    watched = Watched()
    workers = {f"w{i}": Examples(i, 8) for i in range(10)}
    fed = FederatedModule(member(name), engine=engine)
    run = FederatedDataModule(workers, cohort_size=4)
    fit(fed, run, max_steps=150, max_epochs=-1, accelerator="gpu", callbacks=[watched])
    assert len(watched.bytes) == 150
    assert max(watched.bytes[100:]) <= max(watched.bytes[:50])
