"""One bad worker of five: it is named, and the others are what they are without it.

Every fault with every engine, raised and dropped: in this process by `make test`, and all of it, with compiled steps
and with processes for workers, by `make faults`.
"""

from __future__ import annotations

import os
import random
import re
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from faults import FAULTS, Fault, Good
from helpers import assert_equal, trainer
from parity import needs_compiled_stacks, needs_compiler
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.engines import Auto, Engine, Isolated, Sequential, Vectorized

pytestmark = [
    pytest.mark.usefixtures("double", "nothing_of_the_process_has_changed"),
    pytest.mark.filterwarnings("ignore:`training_step` returned"),
]

HERE: dict[str, Callable[[], Engine]] = {"sequential": Sequential, "vectorized": Vectorized, "auto": Auto}
COMPILED: dict[str, Callable[[], Engine]] = {
    "sequential, compiled": lambda: Sequential(compile=True),
    "vectorized, compiled": lambda: Vectorized(compile=True),
}
BIT_FOR_BIT = ("sequential", "isolated")

_IN_THIS_PROCESS = [name for name, fault in FAULTS.items() if not fault.ends_process]
_STACKED = [name for name in _IN_THIS_PROCESS if FAULTS[name].stacks]
MATRIX = [(engine, name) for engine in HERE for name in (_STACKED if engine == "vectorized" else _IN_THIS_PROCESS)]
COMPILED_MATRIX = [
    pytest.param(engine, name, marks=needs_compiled_stacks if engine.startswith("vec") else ())
    for engine in COMPILED
    for name in (_STACKED if engine.startswith("vec") else _IN_THIS_PROCESS)
]
SOME = ["setup exits", "disk gone", "out of range", "NaN", "StopIteration", "step is interrupted", "everything at once"]


def settings() -> dict[str, Any]:
    """What a worker must not change for others; torch's generator apart, from which the Trainer draws."""
    return {
        "gradients": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "folder": os.getcwd(),
        "filters": list(warnings.filters),
        "python": random.getstate(),
        "numpy": str(np.random.get_state()),
    }


@pytest.fixture
def nothing_of_the_process_has_changed() -> Iterator[None]:
    before = settings()
    yield
    assert settings() == before


def workers(bad: Good | None) -> dict[str, pl.LightningDataModule]:
    """Four good ones, and a bad one in their midst."""
    every = {"ann": Good(1), "bob": Good(2), "evil": bad, "cyd": Good(3), "dee": Good(4)}
    return {name: datamodule for name, datamodule in every.items() if datamodule is not None}


def run(engine: Engine, fault: Fault, bad: Good | None, on_worker_error: Any) -> FederatedModule:
    federated = FederatedModule(fault.module(), engine=engine, on_worker_error=on_worker_error)
    trainer(max_steps=2, max_epochs=-1).fit(federated, FederatedDataModule(workers(bad), seed=3))
    return federated


def weights(federated: FederatedModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in federated.module.state_dict().items()}


@lru_cache
def without(name: str) -> dict[str, Tensor]:
    """The model after two rounds without the fault."""
    fault = FAULTS[name]
    return weights(run(Sequential(), fault, None if fault.twin is None else fault.twin(), "raise"))


def hold_raised(engine: Engine, name: str) -> None:
    fault = FAULTS[name]
    module = fault.module()
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    federated = FederatedModule(module, engine=engine)
    with pytest.raises(WorkerError) as caught:
        trainer(max_steps=2, max_epochs=-1).fit(federated, FederatedDataModule(workers(fault.data()), seed=3))
    assert (caught.value.worker, caught.value.round) == ("evil", 0)
    assert str(caught.value).startswith("worker 'evil' failed in round 0: ")
    assert re.search(fault.says or "", str(caught.value))
    assert_equal(dict(module.state_dict()), before)


def hold_dropped(engine: Engine, kind: str, name: str) -> None:
    fault = FAULTS[name]
    federated = run(engine, fault, fault.data(), "drop")
    failures = federated.last_report.failures
    if fault.says is None:
        assert failures == []
    else:
        assert [failure.worker for failure in failures] == ["evil"]
        assert re.search(fault.says.replace("round 0", "round 1"), str(failures[0]))
        assert list(federated.last_report.workers) == ["ann", "bob", "cyd", "dee"]
    if kind in BIT_FOR_BIT:
        torch.testing.assert_close(weights(federated), without(name), rtol=0, atol=0)
    else:
        assert_equal(weights(federated), without(name))


def hold(engine: Engine, kind: str, name: str) -> None:
    if FAULTS[name].says is not None:
        hold_raised(engine, name)
    with warnings.catch_warnings():
        if FAULTS[name].says is None:
            warnings.filterwarnings("ignore", "the code of worker 'evil' changes a setting")
        hold_dropped(engine, kind, name)


@pytest.mark.parametrize(("kind", "name"), MATRIX)
def test_it_is_named_or_dropped(kind: str, name: str) -> None:
    hold(HERE[kind](), kind, name)


@pytest.mark.parametrize("name", SOME)
def test_it_is_named_or_dropped_in_a_process_of_its_own(isolated: Isolated, name: str) -> None:
    hold(isolated, "isolated", name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named_or_dropped_in_a_process_of_its_own(isolated: Isolated, name: str) -> None:
    hold(isolated, "isolated", name)


@pytest.mark.slow
@needs_compiler
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from torch's compiler
@pytest.mark.parametrize(("kind", "name"), COMPILED_MATRIX)
def test_it_is_named_or_dropped_compiled(kind: str, name: str) -> None:
    hold(COMPILED[kind](), kind, name)


@pytest.mark.parametrize("kind", HERE)
def test_settings_of_the_process_that_a_worker_changes_are_said_once(kind: str) -> None:
    fault = FAULTS["everything at once"]
    with pytest.warns(UserWarning, match="the code of worker 'evil' changes a setting") as said:
        run(HERE[kind](), fault, fault.data(), "raise")
    texts = [str(warning.message) for warning in said if "changes a setting" in str(warning.message)]
    named = sorted(re.search(r"process \(([\w.]+)\)", text)[1] for text in texts)  # type: ignore[index]
    expected = {"os.chdir", "torch.set_default_dtype", "torch.set_num_threads", "warnings.filters"}
    if kind == "sequential":  # the others draw all batches beforehand, when gradients are off
        expected.add("torch.set_grad_enabled")
    assert named == sorted(expected)
    drawn = []
    for data in (fault.data(), Good(9)):
        torch.manual_seed(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run(HERE[kind](), fault, data, "raise")
        drawn.append(torch.get_rng_state())
    assert torch.equal(*drawn)
