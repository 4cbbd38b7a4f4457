"""Loaders of an evaluation in every form that a Trainer takes, the workers' own and central, as in a plain Trainer."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, trainer
from processes import run_in_processes
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, TensorDataset
from torchmetrics import MaxMetric, MeanSquaredError, MetricCollection

from lightning_fed import FederatedDataModule, FederatedModule

pytestmark = pytest.mark.usefixtures("double")


def loader(*values: float, size: int = 2) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.tensor(values)), batch_size=size)


class Stream(IterableDataset[Any]):
    def __init__(self, values: Any) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        return ((torch.tensor(float(value)),) for value in self.values)


class Given(Rows):
    """Evaluates on what a function gives."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__([1.0])
        self.make = make

    def val_dataloader(self) -> Any:
        return self.make()

    def test_dataloader(self) -> Any:
        return self.make()

    def predict_dataloader(self) -> Any:
        return self.make()


class Logging(Scalar):
    """Logs every kind of value about several loaders, or about one whose batches are made of several."""

    def __init__(self) -> None:
        super().__init__()
        self.mse = torch.nn.ModuleList([MeanSquaredError() for _ in range(3)])
        self.largest = torch.nn.ModuleList([MaxMetric() for _ in range(3)])
        self.both = MetricCollection({"a": MeanSquaredError(), "b": MeanSquaredError(squared=False)})

    def forward(self, batch: Any) -> Any:
        return torch.cat([part for (part,) in batch.values()] if isinstance(batch, dict) else batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if isinstance(batch, dict):
            batch = {name: part for name, part in batch.items() if part is not None}
        x = self(batch) + self.x
        self.log("mean", x.mean(), batch_size=len(x))
        self.log("forked", x.mean(), on_step=True, on_epoch=True, batch_size=len(x))
        self.log("sum", x.sum(), reduce_fx="sum")
        self.log(f"own_{dataloader_idx}", x.max(), reduce_fx="max", add_dataloader_idx=False)
        for metrics in (self.mse, self.largest):
            metrics[dataloader_idx].update(*((x, x * 0) if metrics is self.mse else (x,)))
            self.log(f"{type(metrics[0]).__name__}", metrics[dataloader_idx])
        if dataloader_idx == 1:
            self.both.update(x, x * 0)
            self.log_dict(self.both)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self(batch), batch_idx, dataloader_idx


class Seen(pl.Callback):
    """Keeps the places of the arguments that a Trainer gives to hooks about batches."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *indices: int) -> None:
        self.seen.append(("start", *indices))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *indices: int) -> None:
        self.seen.append(("end", *indices))


FORMS: dict[str, Callable[[], Any]] = {
    "one": lambda: loader(1.0, 2.0, 6.0),
    "list of one": lambda: [loader(1.0, 2.0, 6.0)],
    "list": lambda: [loader(1.0, 2.0, 6.0), loader(3.0)],
    "tuple": lambda: (loader(1.0, 2.0, 6.0), loader(3.0)),
    "dict": lambda: {"a": loader(1.0, 2.0, 6.0), "b": loader(3.0, 4.0, 5.0, 6.0, 7.0)},
    "nested": lambda: {"a": [loader(1.0), loader(2.0, 3.0)], "b": loader(3.0, size=1)},
    "sequential": lambda: CombinedLoader([loader(1.0, 2.0, 6.0), loader(3.0)], "sequential"),
    "max_size": lambda: CombinedLoader({"a": loader(1.0, 2.0, 6.0), "b": loader(3.0)}, "max_size"),
    "min_size": lambda: CombinedLoader({"a": loader(1.0, 2.0, 6.0), "b": loader(3.0)}, "min_size"),
    "max_size_cycle": lambda: CombinedLoader({"a": loader(1.0, 2.0, 6.0), "b": loader(3.0)}, "max_size_cycle"),
    "iterable dataset": lambda: DataLoader(Stream([1, 2, 6]), batch_size=2),
    "iterable datasets": lambda: [DataLoader(Stream([1, 2, 6]), batch_size=2), DataLoader(Stream([3]), batch_size=2)],
    "no loader at all": lambda: [],
}


def evaluated(module: pl.LightningModule, data: pl.LightningDataModule, stage: str, **options: Any) -> Any:
    seen = Seen()
    return getattr(trainer(callbacks=[seen], **options), stage)(module, data, verbose=False), seen.seen


@pytest.mark.parametrize("where", ["of the worker", "central"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
def test_one_worker_is_evaluated_as_by_a_plain_trainer(where: str, form: str, stage: str) -> None:
    plain = evaluated(Logging(), Given(FORMS[form]), stage)
    central = {"val": Given(FORMS[form])} if where == "central" else {}
    data = FederatedDataModule({"bob": Given(FORMS[form])}, **central)
    for _ in range(2):  # nothing is left for the next time
        ours = evaluated(FederatedModule(Logging()), data, stage)
        assert_equal(ours[0], plain[0])
        assert ours[1] == plain[1]


@pytest.mark.parametrize("form", ["one", "list", "dict", "nested", "sequential", "iterable datasets"])
@pytest.mark.parametrize("where", ["of the worker", "central"])
def test_predictions_are_those_of_a_plain_trainer(form: str, where: str) -> None:
    plain: Any = trainer().predict(Logging(), Given(FORMS[form]))
    central = {"val": Given(FORMS[form])} if where == "central" else {}
    assert_equal(
        trainer().predict(FederatedModule(Logging()), FederatedDataModule({"bob": Given(FORMS[form])}, **central)),
        plain,
    )


class Drawn(DummyLogger):
    """Keeps what it is given about steps."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, float]] = []

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        if "epoch" not in metrics:
            self.steps.append(metrics)


@pytest.mark.parametrize("where", ["of the worker", "central"])
@pytest.mark.parametrize("form", ["one", "list", "dict"])
@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("adds", [{}, {"add_dataloader_idx": True}, {"add_dataloader_idx": False}])
def test_the_values_of_a_step_have_the_names_that_a_plain_trainer_gives_them(
    stage: str, form: str, where: str, adds: dict[str, bool]
) -> None:
    class Steps(Logging):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            value = self(batch).mean()
            self.log(f"step_{dataloader_idx}", value, on_step=True, on_epoch=False, **adds)
            self.log_dict({f"both_{dataloader_idx}": value}, on_step=True, on_epoch=True, batch_size=1, **adds)

        test_step = validation_step

    def steps(module: pl.LightningModule, data: pl.LightningDataModule) -> Any:
        drawn = Drawn()
        getattr(trainer(logger=drawn), stage)(module, data, verbose=False)
        return drawn.steps

    plain = steps(Steps(), Given(FORMS[form]))
    assert len(plain) > 1
    central = {"val": Given(FORMS[form])} if where == "central" else {}
    assert_equal(steps(FederatedModule(Steps()), FederatedDataModule({"bob": Given(FORMS[form])}, **central)), plain)


def test_the_loaders_of_several_workers_are_pooled_one_by_one() -> None:
    """Rows 1, 2, 6 and 5 of all first loaders: 3.5 in the mean; 3 and 7 of all second ones: 5."""
    data = {
        "ann": Given(lambda: [loader(1.0, 2.0, 6.0), loader(3.0)]),
        "bob": Given(lambda: []),
        "cyd": Given(lambda: None),
        "dan": Given(lambda: [loader(5.0), loader(7.0)]),
        "eve": Rows([1.0]),
    }
    fed = FederatedModule(Logging())
    first, second = trainer().validate(fed, FederatedDataModule(data), verbose=False)
    assert (first["mean/dataloader_idx_0"], second["mean/dataloader_idx_1"]) == (3.5, 5.0)
    assert (first["forked_epoch/dataloader_idx_0"], second["forked_epoch/dataloader_idx_1"]) == (3.5, 5.0)
    assert (first["own_0"], second["own_1"]) == (6.0, 7.0)
    assert first["MeanSquaredError/dataloader_idx_0"] == pytest.approx((1 + 4 + 36 + 25) / 4)
    assert (second["MaxMetric/dataloader_idx_1"], second["a/dataloader_idx_1"]) == (7.0, pytest.approx((9 + 49) / 2))
    assert {name.rpartition("_")[2] for name in first if "idx" in name} == {"0"}
    own = fed.last_evaluation.workers
    assert set(own) == {"ann", "dan"}
    assert (own["ann"]["mean/dataloader_idx_0"], own["ann"]["MaxMetric/dataloader_idx_1"]) == (3.0, 3.0)
    assert (own["dan"]["mean/dataloader_idx_0"], own["dan"]["b/dataloader_idx_1"]) == (5.0, pytest.approx(7.0))


def test_callbacks_see_the_loader_and_batches_are_counted_within_it() -> None:
    data = FederatedDataModule({name: Given(lambda: [loader(1.0, 2.0, 3.0), loader(3.0)]) for name in ("ann", "bob")})
    seen = Seen()
    trainer(callbacks=[seen]).validate(FederatedModule(Logging()), data, verbose=False)
    indices = [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (1, 1)]
    assert [places[1:] for places in seen.seen if places[0] == "start"] == indices
    assert [places[1:3] for places in seen.seen if places[0] == "end"] == indices


@pytest.mark.parametrize("devices", [1, 2])
def test_a_worker_with_another_number_of_loaders_is_named(devices: int) -> None:
    def work() -> None:
        data = {"ann": Given(lambda: [loader(1.0), loader(2.0)]), "bob": Given(lambda: loader(1.0))}
        run = trainer(devices=devices, strategy="ddp") if devices > 1 else trainer()
        run.validate(FederatedModule(Logging()), FederatedDataModule(data), verbose=False)

    says = (
        "worker 'bob' failed in round 0: its val_dataloader raised ValueError: it gives 1 of them and worker 'ann' "
        "gives 2; let all workers give as many, or none"
    )
    if devices == 1:
        with pytest.raises(RuntimeError, match=says):
            work()
    else:
        assert [says in str(ended.error) for ended in run_in_processes(work)] == [True, True]


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_worker_that_fails_at_its_second_loader_counts_in_none(stage: str) -> None:
    class Broken(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield (torch.tensor(50.0),)
            raise OSError("disk gone")

    def results(**bad: Any) -> Any:
        data = {
            "ann": Given(lambda: [loader(1.0, 2.0), loader(3.0)]),
            **bad,
            "dan": Given(lambda: [loader(5.0), loader(7.0)]),
        }
        fed = FederatedModule(Logging(), on_worker_error="drop")
        return getattr(trainer(), stage)(fed, FederatedDataModule(data), verbose=False), fed.last_evaluation

    expected, without = results()
    with pytest.warns(UserWarning, match=r"worker 'bob' failed in round 0: its (val|test)_dataloader raised OSError"):
        actual, report = results(bob=Given(lambda: [loader(90.0), DataLoader(Broken(), batch_size=1)]))
    assert_equal(actual, expected)
    assert report.workers == without.workers
    assert [failure.worker for failure in report.failures] == ["bob"]


@pytest.mark.parametrize(
    ("log", "says"),
    [
        (
            lambda self, x: self.log("same", x, add_dataloader_idx=False),
            "called about several loaders; give each a name",
        ),
        (lambda self, x: self.log("same", self.metric), "about another loader, .*; use an object for each loader"),
    ],
)
def test_what_would_mix_the_loaders_is_refused(log: Any, says: str) -> None:
    class Mixing(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.metric = MaxMetric()

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.metric.update(batch[0])
            log(self, batch[0].sum())

    data = FederatedDataModule({"bob": Given(lambda: [loader(1.0), loader(3.0)])})
    with pytest.raises(RuntimeError, match=says):
        trainer().validate(FederatedModule(Mixing()), data, verbose=False)


def several(name: str, factor: float) -> Given:
    values = [factor * value for value in (1.0, 2.0, 6.0, 4.0, 5.0)]
    return Given(lambda: {"a": loader(*values), "b": DataLoader(Stream(values[: 2 + len(name)]), batch_size=2)})


@pytest.mark.parametrize("central", [False, True])
def test_two_processes_log_about_several_loaders_what_one_logs(central: bool) -> None:
    def evaluate(devices: int) -> Any:
        workers = {name: several(name, factor) for factor, name in enumerate(("ann", "bob", "c", "dd"), 1)}
        data = FederatedDataModule(workers, **({"val": several("val", 7.0)} if central else {}))
        run = trainer(devices=devices, strategy="ddp") if devices > 1 else trainer()
        (first, second) = run.validate(FederatedModule(Logging()), data, verbose=False)
        return {**first, **second}

    one = evaluate(1)
    both = run_in_processes(lambda: evaluate(2))
    assert [ended.error for ended in both] == [None, None]
    for ended in both:
        assert_equal(ended.result, one)


def test_an_endless_loader_is_ended_by_a_number() -> None:
    data = Given(lambda: DataLoader(Stream(count(1)), batch_size=1))
    for plain in (True, False):
        module: Any = Logging() if plain else FederatedModule(Logging())
        (result,) = trainer(limit_val_batches=3).validate(
            module, data if plain else FederatedDataModule({"bob": data}), verbose=False
        )
        assert result["sum"] == 6.0


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
def test_a_sampler_of_an_evaluation_hears_of_the_epoch() -> None:
    class Sampler(RandomSampler):
        epochs: list[int] = []  # noqa: RUF012

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

        def __iter__(self) -> Any:
            return iter(range(len(self.data_source)))

    def make() -> Any:
        values = TensorDataset(torch.ones(2))
        return DataLoader(values, sampler=Sampler(values))

    seen = {}
    for name in ("plain", "worker", "central"):
        Sampler.epochs.clear()
        data: Any = Given(make)
        if name != "plain":
            data = FederatedDataModule(
                {"bob": Given(make) if name == "worker" else Rows([1.0])}, val=data if name == "central" else None
            )
        module = Logging() if name == "plain" else FederatedModule(Logging())
        trainer(max_epochs=3, num_sanity_val_steps=0).fit(module, data)
        seen[name] = list(Sampler.epochs)
    assert seen["plain"] == seen["worker"] == seen["central"] == [0, 1, 2]


@pytest.mark.parametrize("where", ["of the worker", "central"])
def test_loaders_are_asked_for_again_as_a_plain_trainer_does(where: str) -> None:
    class Curriculum(Given):
        def __init__(self) -> None:
            super().__init__(lambda: loader(*range(1, self.trainer.current_epoch + 2)))  # type: ignore[union-attr]

    class Idle(Logging):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.x * 0

    class Remember(pl.Callback):
        def __init__(self) -> None:
            self.sums: list[float] = []

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.sums.append(float(trainer.callback_metrics["sum"]))

    def sums(module: pl.LightningModule, data: pl.LightningDataModule) -> list[float]:
        remember = Remember()
        options = {"max_epochs": 3, "reload_dataloaders_every_n_epochs": 1, "num_sanity_val_steps": 0}
        trainer(**options, callbacks=[remember]).fit(module, data)
        return remember.sums

    plain = sums(Idle(), Curriculum())
    workers = {"bob": Curriculum() if where == "of the worker" else Rows([1.0])}
    data = FederatedDataModule(workers, val=Curriculum() if where == "central" else None)
    assert sums(FederatedModule(Idle()), data) == plain == [1.0, 3.0, 6.0]


@pytest.mark.parametrize("where", ["of the worker", "central"])
def test_processes_that_load_are_ended(where: str) -> None:
    def make() -> Any:
        values = TensorDataset(torch.ones(4))
        return [DataLoader(values, num_workers=1, persistent_workers=True), DataLoader(values, num_workers=1)]

    data = FederatedDataModule({"bob": Given(make)}, val=Given(make) if where == "central" else None)
    before = set(multiprocessing.active_children())  # of an engine that tests share
    trainer().validate(FederatedModule(Logging()), data, verbose=False)
    assert set(multiprocessing.active_children()) == before
