"""The flat table of settings: whatever a user sets differs in it, for our classes and for a user's own."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, fit
from torch.optim.lr_scheduler import StepLR

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Median, TrimmedMean
from lightning_fed.algorithms import FedProx, FedRep, Scaffold
from lightning_fed.core.rng import GLOBAL_SEED
from lightning_fed.datasets import IID, Dirichlet, PartitionedPopulation, Synthetic, ToyDataModule
from lightning_fed.engines import Sequential
from lightning_fed.optim import StepDecay, Yogi
from lightning_fed.privacy import CentralDP
from lightning_fed.record import settings
from lightning_fed.record.described import described
from lightning_fed.secure import SecureAggregation
from lightning_fed.selection import RandomAvailability
from lightning_fed.transforms import ClipNorm, KBit


def four() -> dict[str, Any]:
    return {name: Rows([1.0, 2.0]) for name in "abcd"}


def table(module: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **trainer: Any) -> dict[str, Any]:
    """The settings of a run, while it runs."""
    fed = FederatedModule(**{"module": Scalar(), **(module or {})})
    source = FederatedDataModule(**{"workers": four(), "cohort_size": 2, **(data or {})})
    found: dict[str, Any] = {}

    fit(fed, source, callbacks=[Look(lambda: found.update(settings(fed, source)))], **trainer)
    return found


class Look(pl.Callback):
    def __init__(self, look: Callable[[], None]) -> None:
        self.look = look

    def on_train_batch_end(self, *_: Any) -> None:
        self.look()


OF_THE_MODULE: dict[str, Any] = {
    "module": Scalar(lr=0.5),
    "algorithm": FedProx(mu=0.1),
    "server_optimizer": lambda p: torch.optim.SGD(p, lr=0.5),
    "server_lr_scheduler": functools.partial(StepLR, step_size=3),
    "local_epochs": 2,
    "local_steps": 3,
    "aggregator": Median(),
    "transforms": [ClipNorm(1.0)],
    "engine": "sequential",
    "on_worker_error": "drop",
    "min_workers": 2,
    "log_workers_up_to": 3,
    "local_lr_schedule": StepDecay(every=2),
    "local_optimizer_state": "kept",
    "local_schedule": "continue",
    "state_memory_mb": 3,
    "privacy": CentralDP(1.0, 1.0, delta=0.1, accountant="rdp"),
    "worker_timeout": 60.0,
    "secure_aggregation": SecureAggregation(clip=1.0, weight_cap=5),
    "broadcast": KBit(8),
}
NOT_OF_THE_MODULE = {"state_dir": "where files lie, and nothing of what is computed"}
OF_THE_DATA: dict[str, Any] = {
    "workers": {name: Rows([1.0]) for name in "abc"},
    "cohort_size": 3,
    "sampler": RoundRobin(),
    "rounds_per_epoch": 3,
    "val": Rows([1.0]),
    "seed": 3,
    "eval_cohort_size": 3,
    "cached_workers": 4,
    "availability": RandomAvailability(absent=0.0, lost=0.0),
}


def test_every_argument_is_in_one_of_the_tables() -> None:
    assert set(inspect.signature(FederatedModule).parameters) == OF_THE_MODULE.keys() | NOT_OF_THE_MODULE.keys()
    assert set(inspect.signature(FederatedDataModule).parameters) == OF_THE_DATA.keys() | {"batch_size"}


def test_the_size_of_batches_tells_runs_apart_where_batches_are_made() -> None:
    x = torch.ones(4, 1)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=3)

    def said(workers: Any, **data: Any) -> dict[str, Any]:
        return before(data={"workers": workers, "cohort_size": None, **data})

    assert said({"bob": x}, batch_size=2)["batch_size"] == 2
    assert said({"bob": loader, "ann": x}, batch_size=2)["batch_size"] == 2
    assert said({"bob": loader}, val=x, batch_size=2)["batch_size"] == 2
    assert "batch_size" not in said({"bob": loader})
    assert said({"bob": loader})["population/worker/batch_size"] == 3
    assert "batch_size" not in said(four())
    population = PartitionedPopulation(ToyDataModule(), IID(2), batch_size=3)
    assert "batch_size" not in said(population)
    assert "batch_size" not in said(Synthetic(workers=3))
    assert said(population, val=x, batch_size=2)["batch_size"] == 2


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return table()


def before(module: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings before a run."""
    fed = FederatedModule(**{"module": Scalar(), **(module or {})})
    return dict(settings(fed, FederatedDataModule(**{"workers": four(), "cohort_size": 2, **(data or {})})))


@pytest.mark.parametrize("name", OF_THE_MODULE)
def test_each_argument_of_the_module_tells_two_runs_apart(name: str) -> None:
    assert before(module={name: OF_THE_MODULE[name]}) != before()


@pytest.mark.parametrize("name", OF_THE_DATA)
def test_each_argument_of_the_data_tells_two_runs_apart(name: str) -> None:
    assert before(data={name: OF_THE_DATA[name]}) != before()


@pytest.mark.parametrize("name", ["server_optimizer", "server_lr_scheduler", "engine", "privacy", "aggregator"])
def test_each_that_a_fit_settles_does_while_it_runs_too(name: str, plain: dict[str, Any]) -> None:
    assert table(module={name: OF_THE_MODULE[name]}) != plain


def test_all_values_are_plain_and_the_same_twice(plain: dict[str, Any]) -> None:
    assert plain == table()
    assert {type(value) for value in plain.values()} <= {bool, int, float, str, type(None)}
    assert json.loads(json.dumps(plain)) == plain


# ---- names and values ------------------------------------------------------------------------------------------------


def test_names_and_values_of_a_usual_run() -> None:
    population = PartitionedPopulation(ToyDataModule(), Dirichlet(workers=2, alpha=0.5, seed=7), batch_size=3)
    found = table(
        {"module": Toy(), "algorithm": FedProx(mu=0.1), "server_optimizer": lambda p: Yogi(p, lr=0.3)},
        {"workers": population, "cohort_size": 1, "seed": 4, "availability": RandomAvailability(lost=0.1)},
    )
    expected = {
        "algorithm": "FedProx(mu=0.1)",
        "algorithm/mu": 0.1,
        "server_optimizer": "Yogi(lr=0.3)",
        "server_optimizer/lr": 0.3,
        "server_lr_scheduler": None,
        "aggregator": "WeightedMean",
        "transforms": "[]",
        "local_epochs": 1,
        "local_steps": None,
        "local_optimizer_state": "fresh",
        "population": 2,
        "workers": 2,
        "cohort_size": 1,
        "sampler": "Uniform",
        "availability": "RandomAvailability(lost=0.1)",
        "availability/lost": 0.1,
        "partition": "Dirichlet(workers=2, alpha=0.5, seed=7)",
        "partition/alpha": 0.5,
        "partition/seed": 7,
        "data/seed": 4,
        "population/batch_size": 3,
        "engine": "vectorized",
        "engine/asked": "Auto",
        "privacy": None,
        "model": "Toy",
        "model/parameters": 3,
        "model/rate": 0.25,
        "trainer/max_epochs": 1,
    }
    assert {name: found[name] for name in expected} == expected


class Toy(pl.LightningModule):
    """A module that saves no hyperparameters."""

    def __init__(self, rate: float = 0.25, secret: Any = None) -> None:
        super().__init__()
        self.rate = rate
        self.net = torch.nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return ((self.net(x) - y) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def test_the_seed_is_that_of_everything_and_none_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(GLOBAL_SEED, raising=False)
    found = table(data={"seed": 5})
    assert (found["seed"], found["data/seed"]) == (None, 5)
    found = table()
    assert (found["seed"], found["data/seed"]) == (None, 0)
    monkeypatch.setenv(GLOBAL_SEED, "9")
    found = table(data={"seed": 5})
    assert (found["seed"], found["data/seed"]) == (9, 5)
    assert table()["data/seed"] == 9
    found = table(
        {"module": Toy()}, {"workers": PartitionedPopulation(ToyDataModule(), IID(2, seed=3)), "cohort_size": 1}
    )
    assert found["partition/seed"] == 3


def test_a_population_that_is_drawn_has_a_seed_too() -> None:
    found = settings(FederatedModule(Scalar()), FederatedDataModule(Synthetic(workers=3, seed=6)))
    assert found["partition/seed"] == found["population/seed"] == 6


def test_before_a_fit_it_says_what_can_be_said_and_calls_nothing_of_the_users() -> None:
    called: list[Any] = []

    def make(parameters: Any) -> Any:
        called.append(parameters)
        return torch.optim.SGD(parameters, lr=1.0)

    fed = FederatedModule(Scalar(), server_optimizer=make, privacy=CentralDP(1.0, 1.0))
    found = settings(fed, None)
    assert "make" in str(found["server_optimizer"])
    assert (found["privacy"], found["privacy/clip"]) == ("CentralDP(clip=1.0, noise_multiplier=1.0)", 1.0)
    assert not called
    partial = FederatedModule(Scalar(), server_optimizer=functools.partial(torch.optim.SGD, lr=0.5))
    assert settings(partial, None)["server_optimizer/lr"] == 0.5


def test_seeded_noise_is_marked() -> None:
    fed = FederatedModule(Scalar(), privacy=CentralDP(1.0, 1.0, insecure_deterministic_noise=True))
    assert "NOT PRIVATE" in str(settings(fed, None)["privacy"])


def test_workers_with_datamodules_of_their_own_are_told_apart_as_far_as_they_are_alike() -> None:
    def said(*sizes: int) -> dict[str, Any]:
        workers = {f"w{i}": Rows([1.0, 2.0], batch_size=size) for i, size in enumerate(sizes)}
        return before(data={"workers": workers, "cohort_size": None})

    assert (said(1, 1)["population/worker/batch_size"], said(2, 2)["population/worker/batch_size"]) == (1, 2)
    assert "population/worker/batch_size" not in said(1, 2)
    promise = CentralDP(1.0, 1.0)
    assert not [name for name in before(module={"privacy": promise}) if name.startswith("population/worker")]


def test_it_loads_no_data() -> None:
    class Source(pl.LightningDataModule):
        def setup(self, stage: str) -> None:
            raise AssertionError("loaded")

    assert described("population", PartitionedPopulation(Source(), IID(2)))["population/partition"] == "IID(workers=2)"


# ---- things of a user's own ------------------------------------------------------------------------------------------


class Public:
    def __init__(self, rate: float, other: int = 1) -> None:
        self.rate = rate
        self.other = other


class Hidden:
    def __init__(self, rate: float) -> None:
        self._rate = rate


class Renamed:
    def __init__(self, rate: float) -> None:
        self._strength = rate


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate: float) -> None:
        self.rate = rate


class Property:
    def __init__(self, rate: float) -> None:
        self.__rate = rate

    @property
    def rate(self) -> float:
        return self.__rate


@dataclasses.dataclass
class Data:
    rate: float


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenData:
    rate: float


class Within:
    def __init__(self, rate: float) -> None:
        self._data = Data(rate)


@pytest.mark.parametrize("kind", [Public, Hidden, Renamed, Slotted, Property, Data, FrozenData, Within])
def test_a_foreign_object_is_told_apart_by_its_arguments(kind: Any) -> None:
    one, other, again = described("x", kind(0.5)), described("x", kind(0.25)), described("x", kind(0.5))
    assert one == again != other
    assert 0.5 in one.values()
    assert str(one["x"]).startswith(kind.__name__)


class Silent:
    def __init__(self, rate: float) -> None:
        pass


class Raising:
    def __init__(self, rate: float = 1.0) -> None:
        pass

    @property
    def rate(self) -> float:
        raise RuntimeError("not now")


class Around:
    def __init__(self, inner: Any) -> None:
        self.inner = inner


def test_what_keeps_nothing_is_its_class_and_what_refers_to_itself_ends() -> None:
    assert described("x", Silent(1.0)) == {"x": "Silent"}
    assert described("x", Raising()) == {"x": "Raising"}
    around = Around(None)
    around.inner = around
    assert len(described("x", around)) < 10


@pytest.mark.parametrize(
    "thing",
    [
        object(),
        lambda: 1,
        print,
        Public,
        Public(1.0).__init__,
        functools.partial(print, object()),
        Around(object()),
        Around(lambda: 1),
        Around([object()]),
        (x for x in ()),
        np.ones(3),
        torch.ones(3),
        np.float32(2.0),
        {"a": object()},
        {object()},
        torch.float32,
        Path("a"),
        b"bytes",
        1j,
        range(3),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_no_value_holds_an_address_and_all_are_plain(thing: Any) -> None:
    rows = described("x", thing)
    assert all(isinstance(value, (bool, int, float, str, type(None))) for value in rows.values())
    assert " at 0x" not in str(rows)
    assert "0x7f" not in str(rows)


def test_nested_objects_lists_and_long_texts() -> None:
    rows = described("x", Around([Public(0.5), Public(0.25, other=2)]))
    assert rows["x"] == "Around(inner=[Public(rate=0.5), Public(rate=0.25, other=2)])"
    assert (rows["x/inner/0/rate"], rows["x/inner/1/other"]) == (0.5, 2)
    assert described("x", [1, 2]) == {"x": "[1, 2]"}
    one, other = described("x", ["a"] * 999), described("x", ["a"] * 998 + ["b"])
    assert one != other
    assert len(str(one["x"])) < 250
    assert described("x", {"b": 1, "a": (2,)}) == {"x": "{b: 1, a: [2]}", "x/b": 1, "x/a": "[2]"}


def test_ours() -> None:
    assert described("x", Scaffold())["x"] == "Scaffold"
    assert described("x", TrimmedMean(trim=2))["x"] == "TrimmedMean(trim=2)"
    assert described("x", Sequential(compile=True))["x/compile"] is True
    assert "head" in str(described("x", FedRep(["head"], head_epochs=2))["x"])


def test_the_real_server_optimizer_stands_in_for_what_makes_it(tmp_path: Path) -> None:
    """The command line makes it by a partial function of a class, which says nothing about the run."""

    def made(kind: type, parameters: Any, lr: float) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = kind(parameters, lr=lr)
        return optimizer

    fed = FederatedModule(Scalar(), server_optimizer=functools.partial(made, torch.optim.SGD, lr=0.5))
    data = FederatedDataModule({"bob": Rows([1.0])})
    fit(fed, data, max_steps=1, logger=pl.loggers.CSVLogger(tmp_path, name="", version="run"))
    table = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert (table["server_optimizer"], table["server_optimizer/lr"]) == ("SGD(lr=0.5)", 0.5)
    assert "server_optimizer/0" not in table
