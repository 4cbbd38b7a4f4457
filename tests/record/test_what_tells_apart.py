"""Whatever a user gives tells two runs apart in their settings, and what follows from seeds does not."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import functools
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, fit, trainer
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.parsing import AttributeDict
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.datasets import IID, DigitsDataModule, PartitionedPopulation
from lightning_fed.record import read, settings
from lightning_fed.record.arguments import arguments_of
from lightning_fed.record.checksum import checksum
from lightning_fed.record.described import described
from lightning_fed.record.trainers import of_the_trainer
from lightning_fed.reports.comparison import compare


class Evaluated(pl.LightningModule):
    """A module that saves no hyperparameters."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch
        return ((self.x - values) ** 2).mean() / 2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class Kept(Evaluated):
    """A module that keeps its argument as an attribute."""

    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.thing = thing


class Saved(Evaluated):
    def __init__(self, thing: Any) -> None:
        super().__init__()
        self.save_hyperparameters()


class Partly(Evaluated):
    """A module that saves one of its arguments."""

    def __init__(self, thing: Any, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters("lr")
        self.thing = thing


class Elsewhere:
    """Keeps its argument under another name, in a dict."""

    def __init__(self, value: Any) -> None:
        self._all = {"kept": value}


@dataclasses.dataclass
class Deep:
    value: int
    below: Any = None


class Subclassed(dict[str, int]):
    pass


def deep(value: int) -> Deep:
    return Deep(0, Deep(0, Deep(0, Deep(0, Deep(0, Deep(value))))))


def over(value: float) -> Callable[[float], float]:
    return lambda x: x * value


large = torch.zeros(3_000_000)
MADE: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "tensor": (torch.tensor, [1.0, 2.0], [2.0, 1.0]),
    "half": (lambda v: torch.tensor(v, dtype=torch.bfloat16), [1.0, 2.0], [2.0, 1.0]),
    "array": (np.array, [1, 2], [2, 1]),
    "texts": (lambda v: np.array([v, None], dtype=object), "a", "b"),
    "namespace": (lambda v: argparse.Namespace(a=v), 1, 2),
    "simple namespace": (lambda v: types.SimpleNamespace(a=v), 1, 2),
    "ordered": (lambda v: collections.OrderedDict(a=v), 1, 2),
    "default": (lambda v: collections.defaultdict(int, a=v), 1, 2),
    "subclass": (lambda v: Subclassed(a=v), 1, 2),
    "attributes": (lambda v: AttributeDict(a=v), 1, 2),
    "deque": (lambda v: collections.deque([v]), 1, 2),
    "decimal": (decimal.Decimal, "1", "2"),
    "timedelta": (datetime.timedelta, 1, 2),
    "date": (lambda v: datetime.date(v, 1, 1), 2020, 2021),
    "elsewhere": (Elsewhere, 1, 2),
    "deep": (deep, 1, 2),
    "deep dict": (lambda v: {"a": {"b": {"c": {"d": {"e": v}}}}}, 1, 2),
    "deep list": (lambda v: [[[[[v]]]]], 1, 2),
    "lambda": (lambda v: [lambda x: x, lambda x: x + 1][v], 0, 1),
    "constant": (lambda v: [lambda x: x + 1, lambda x: x + 2][v], 0, 1),
    "closure": (over, 1.0, 2.0),
    "partial": (lambda v: functools.partial(over, value=v), 1.0, 2.0),
    "long": (lambda v: [*range(2000), v], 1, 2),
    "dropout": (nn.Dropout, 0.1, 0.2),
    "sequential": (lambda v: nn.Sequential(nn.Linear(2, 2), nn.Dropout(v)), 0.1, 0.2),
    "activation": (lambda v: nn.Sequential(nn.Linear(2, 2), v()), nn.ReLU, nn.Tanh),
    "smoothing": (lambda v: nn.CrossEntropyLoss(label_smoothing=v), 0.1, 0.2),
    "weights": (lambda v: nn.CrossEntropyLoss(weight=torch.tensor(v)), [1.0, 2.0], [2.0, 1.0]),
    "metric": (lambda v: MulticlassAccuracy(num_classes=3, top_k=v), 1, 2),
}
OF_MODULES = ("dropout", "sequential", "activation", "smoothing", "weights", "metric")


def table(module: pl.LightningModule, workers: Any = None) -> dict[str, Any]:
    data = FederatedDataModule(workers if workers is not None else {"bob": Rows([1.0])})
    return dict(settings(FederatedModule(module), data))


@pytest.mark.parametrize("kind", [Kept, Saved, Partly])
@pytest.mark.parametrize("name", MADE)
@pytest.mark.filterwarnings("ignore:Attribute 'thing' is an instance")
def test_an_argument_of_the_module_does(name: str, kind: Any) -> None:
    make, one, other = MADE[name]
    first = table(kind(make(one)))
    assert first == table(kind(make(one)))
    assert first != table(kind(make(other)))
    assert " at 0x" not in str(first)


class OfThing(Rows):
    def __init__(self, thing: Any) -> None:
        super().__init__([1.0])
        self.thing = thing


@pytest.mark.parametrize("name", MADE)
def test_an_argument_of_the_workers_datamodules_does(name: str) -> None:
    make, one, other = MADE[name]
    assert table(Scalar(), {"bob": OfThing(make(one))}) != table(Scalar(), {"bob": OfThing(make(other))})


def test_initial_weights_and_statistics_do_not() -> None:
    def net(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.LazyLinear(2))
        module(torch.randn(4, 3))
        return module

    assert table(Kept(net(0))) == table(Kept(net(1)))
    assert table(Kept(net(0)).train()) == table(Kept(net(0)).eval())


def test_large_tensors_are_told_apart_by_samples_of_them() -> None:
    assert checksum(large) == checksum(large.clone()) != checksum(large + 1)
    assert checksum(torch.zeros(1_000_000)) != checksum(torch.zeros(1_000_000).index_fill(0, torch.tensor([777]), 1))


def test_sets_have_no_order_and_what_refers_to_itself_ends() -> None:
    assert checksum({"a", "b", "c"}) == checksum({"c", "b", "a"})
    loop: list[Any] = [1]
    loop.append(loop)
    assert checksum(loop) == checksum(loop)


def test_seeds_within_do_not_count() -> None:
    assert checksum({"seed": 1, "rate": 2}) == checksum({"seed": 5, "rate": 2}) != checksum({"seed": 1, "rate": 3})


class Pair:
    def __init__(self, left: object, right: object) -> None:
        self.left, self.right = left, right


def test_what_is_met_again_is_not_gone_through_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects of a program refer to each other: there are 2^15 ways through this one, which has 15 parts."""
    calls: list[object] = []

    def counted(thing: object, **options: Any) -> dict[str, Any]:
        calls.append(thing)
        return arguments_of(thing, **options)

    thing: object = "end"
    for _ in range(15):
        thing = Pair(thing, thing)
    monkeypatch.setattr("lightning_fed.record.checksum.arguments_of", counted)
    checksum(thing)
    assert len(calls) == 15


def test_it_is_the_same_in_every_process() -> None:
    thing = [{"b", "a", "c"}, {"k": 1.5}, torch.ones(3), np.arange(3), nn.Sequential(nn.Dropout(0.5)), len, object()]
    assert checksum(thing) == "09f6b9cf"  # hashes of texts are others in each process


def loader(batch_size: int) -> Any:
    return DataLoader(TensorDataset(torch.ones(8, 1)), batch_size=batch_size)


def test_loaders_of_workers_do_and_so_do_datamodules_that_are_not_alike() -> None:
    assert table(Scalar(), {"bob": loader(2)}) != table(Scalar(), {"bob": loader(4)})
    one, other = {"a": Rows([1.0], 1), "b": Rows([1.0], 2)}, {"a": Rows([1.0], 1), "b": Rows([1.0], 3)}
    assert table(Scalar(), one) == table(Scalar(), dict(one))
    assert table(Scalar(), one) != table(Scalar(), other)
    assert table(Scalar(), {"a": loader(1), "b": loader(2)}) != table(Scalar(), {"a": loader(1), "b": loader(3)})


def running(fed: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """The settings while a run runs."""
    found: dict[str, Any] = {}

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            found.update(settings(module, trainer.datamodule))

    options["callbacks"] = [*options.get("callbacks", []), Look()]
    data = FederatedDataModule({"bob": Rows([1.0])}, val=Valued([1.0]))
    fit(FederatedModule(Evaluated(), **(fed or {})), data, **{"num_sanity_val_steps": 0, "max_epochs": 1, **options})
    return found


def patient(rounds: int) -> pl.Callback:
    callback: pl.Callback = EarlyStopping("val_loss", patience=rounds)
    return callback


def falling(rate: float) -> Any:
    return lambda optimizer: LambdaLR(optimizer, lambda epoch: rate**epoch)


class Valued(Rows):
    def val_dataloader(self) -> Any:
        return self.train_dataloader()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"min_epochs": 1}, {}),
        ({"max_time": "00:01:00:00"}, {"max_time": "00:02:00:00"}),
        ({"limit_val_batches": 1}, {"limit_val_batches": 0}),
        ({"limit_test_batches": 2}, {}),
        ({"check_val_every_n_epoch": 2}, {}),
        ({"callbacks": [patient(1)]}, {"callbacks": [patient(2)]}),
        ({"fed": {"server_lr_scheduler": falling(0.5)}}, {"fed": {"server_lr_scheduler": falling(0.9)}}),
    ],
    ids=lambda options: ",".join(options),
)
def test_options_of_the_trainer_and_its_callbacks_do(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert running(**one) != running(**other)


def test_where_a_run_is_kept_and_shown_does_not(tmp_path: Path) -> None:
    assert running(default_root_dir=tmp_path, log_every_n_steps=7) == running(log_every_n_steps=1)


class Digits(pl.LightningModule):
    def __init__(self, net: nn.Module, weights: torch.Tensor | None = None) -> None:
        super().__init__()
        self.net, self.loss = net, nn.CrossEntropyLoss(weight=weights)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return self.loss(self.net(x.flatten(1)), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_comparison_has_one_row_for_seeds_and_one_for_each_setting(tmp_path: Path) -> None:
    def run(name: str, seed: int, dropout: float) -> None:
        pl.seed_everything(seed, verbose=False)
        net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 10))
        population = PartitionedPopulation(DigitsDataModule(), IID(20, seed=seed), batch_size=10)
        data = FederatedDataModule(population, cohort_size=2, rounds_per_epoch=1, val=DigitsDataModule())
        fed = FederatedModule(Digits(net, torch.ones(10)))
        stops = EarlyStopping("val_loss", patience=3)
        fit(fed, data, max_epochs=2, callbacks=[stops], logger=CSVLogger(tmp_path, name=name, version=f"s{seed}"))

    for seed in (0, 1):
        run("a", seed, 0.1)
        run("b", seed, 0.9)
    one = compare(tmp_path / "a", metric="val_loss")
    assert [row.metric.n for row in one.rows] == [2]
    both = compare([tmp_path / "a", tmp_path / "b"], metric="val_loss")
    assert [(list(row.differs), row.metric.n) for row in both.rows] == [(["model/net"], 2)] * 2
    table = read(tmp_path / "a" / "s0").settings
    assert table["trainer/callbacks/EarlyStopping/patience"] == 3


class Study:
    """One try of many, which a study hands out under a number."""

    def __init__(self, number: int) -> None:
        self.number = number


class Prunes(pl.Callback):
    def __init__(self, trial: Study, monitor: str) -> None:
        self._trial, self.monitor = trial, monitor


def test_the_number_of_a_studys_trial_tells_no_runs_apart() -> None:
    one, other = (of_the_trainer(trainer(callbacks=[Prunes(Study(n), "val_loss")]), hides=False) for n in (0, 1))
    assert one == other
    assert one["trainer/callbacks/Prunes"] == "Prunes(monitor='val_loss')"


def test_a_checksum_is_no_column_where_something_else_tells_as_much(tmp_path: Path) -> None:
    for name, rate in (("a", 0.1), ("b", 0.2)):
        module = Partly(thing=rate, lr=rate)
        data = FederatedDataModule({"bob": Rows([1.0])}, val=Valued([1.0]))
        fit(FederatedModule(module), data, max_epochs=2, logger=CSVLogger(tmp_path, name="", version=name))
    found = compare(tmp_path, metric="val_loss")
    assert [list(row.differs) for row in found.rows] == [["model/lr"]] * 2


def test_what_is_plain_needs_no_checksum() -> None:
    assert described("x", nn.Dropout(0.5)) == {"x": "Dropout", "x/p": 0.5, "x/inplace": False}
    assert "#" not in str(described("x", nn.Linear(2, 3)))
    assert described("x", over) == {"x": "over"}
