"""What is printed says what a thing is, in words, and never where it lies in memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit
from test_wrong_inputs import TABLE

from lightning_fed import FederatedDataModule, FederatedModule, Population
from lightning_fed.algorithms import Algorithm, FedAvg, FedProx
from lightning_fed.callbacks import RoundProgress
from lightning_fed.core.shown import Shown
from lightning_fed.datasets import FCUBE, IID, DigitsDataModule, PartitionedPopulation, ToyDataModule
from lightning_fed.engines import Isolated, Sequential
from lightning_fed.privacy import CentralDP
from lightning_fed.selection import MinSeparation, Poisson
from lightning_fed.server.loaders import Cohort
from lightning_fed.wire import WorkerError
from lightning_fed.wire.contents import Leaves, Row
from lightning_fed.wire.report import Replies, RoundReport

ADDRESS = re.compile(r"0x[0-9a-f]{4,}")


@pytest.mark.parametrize("make", TABLE, ids=lambda make: make.__name__)
def test_no_public_object_shows_an_address(make: Callable[..., Any]) -> None:
    made = make(**TABLE[make])
    assert not ADDRESS.search(repr(made))
    assert not ADDRESS.search(str(made))


def test_nothing_that_a_run_leaves_shows_an_address() -> None:
    class Evaluated(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx))

    workers = {"bob": EvaluatedRows([1.0]), "alice": EvaluatedRows([2.0])}
    fed, data = FederatedModule(Evaluated()), FederatedDataModule(workers)
    bar = RoundProgress()
    fit(fed, data, callbacks=[bar], enable_progress_bar=True, max_steps=1)
    things = [fed, data, bar, data.pool, data.names, data.pool["bob"], data.pool["bob"].batches, data.position]
    things += [fed.last_report, fed.last_evaluation, fed.history, fed.cohort_progress, fed.engine, fed.aggregator]
    things += [
        data.train_dataloader(),
        data.val_dataloader(),
        next(iter(data.train_dataloader())),
        fed._outbox.own,
        fed._outbox.own.folder,
    ]
    for thing in things:
        assert not ADDRESS.search(repr(thing)), type(thing)


class OwnAlgorithm(Algorithm):
    """Algorithm of a user's own."""

    def __init__(self, strength: float = 1.0, schedule: Any = None, name: str = "x") -> None:
        self.strength = strength
        self._schedule = schedule

    def aggregator(self) -> Any:
        return FedAvg().aggregator()


@pytest.mark.parametrize(
    ("thing", "expected"),
    [
        (FedAvg(), "FedAvg()"),
        (FedProx(mu=0.1), "FedProx(mu=0.1)"),
        (Sequential(), "Sequential()"),
        (Sequential(compile=True), "Sequential(compile=True)"),
        (Isolated(processes=2, channels_last=True), "Isolated(processes=2, channels_last=True)"),
        (Poisson(), "Poisson()"),
        (MinSeparation(rounds=3), "MinSeparation(rounds=3)"),
        (RoundProgress(refresh_rate=2), "RoundProgress(refresh_rate=2)"),
        (ToyDataModule(rows=[0, 1]), "ToyDataModule(rows=[0, 1], batch_size=2)"),
        (OwnAlgorithm(), "OwnAlgorithm()"),
        (OwnAlgorithm(strength=0.5, schedule=lambda x: x), "OwnAlgorithm(strength=0.5, schedule=<lambda>)"),
        (OwnAlgorithm(schedule=torch.zeros(2, 3)), "OwnAlgorithm(schedule=Tensor[2, 3])"),
        (OwnAlgorithm(schedule=torch.optim.SGD), "OwnAlgorithm(schedule=SGD)"),
    ],
)
def test_a_thing_is_shown_as_one_makes_it(thing: Any, expected: str) -> None:
    assert re.sub(r"=[\w.]*lambda[\w.]*", "=<lambda>", repr(thing)) == expected


def test_a_thing_that_holds_itself_is_shown_too() -> None:
    class Circle(Shown):
        def __init__(self, part: Any = None) -> None:
            self.part = part

    circle = Circle()
    circle.part = circle
    assert repr(circle).endswith("Circle(part=...)")


def test_a_federated_module_shows_how_and_the_users_module() -> None:
    class Net(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

    fed = FederatedModule(Net(), FedProx(mu=0.1), privacy=CentralDP(clip=1.0, noise_multiplier=2.0))
    assert repr(fed).splitlines() == [
        "FederatedModule(",
        "  algorithm=FedProx(mu=0.1), engine=Auto(), privacy=CentralDP(clip=1.0, noise_multiplier=2.0)",
        "  (module): Net(",
        "    (layer): Linear(in_features=2, out_features=1, bias=True)",
        "  )",
        ")",
    ]


def test_a_federated_data_module_shows_who_and_how_many() -> None:
    data = FederatedDataModule({"bob": Rows([1.0]), "alice": Rows([2.0])}, cohort_size=1, seed=3)
    assert repr(data) == str(data)
    assert repr(data) == "FederatedDataModule(2 workers: bob, alice, cohort_size=1, sampler=Uniform(), seed=3)"
    many = FederatedDataModule({f"w{i}": Rows([1.0]) for i in range(1000)}, val=ToyDataModule(), seed=0)
    said = "1000 workers: w0, w1, w2, w3, w4, ..., cohort_size=1000, sampler=None, seed=0, val=ToyDataModule"
    assert repr(many).startswith(f"FederatedDataModule({said}")


def test_a_promise_that_hides_workers_hides_their_names() -> None:
    fed = FederatedModule(Scalar(), privacy=CentralDP(clip=1.0, noise_multiplier=9.0, delta=1e-3, accountant="rdp"))
    data = FederatedDataModule({f"secret{i}": Rows([1.0]) for i in range(9)}, cohort_size=3, seed=0)
    fit(fed, data)
    assert repr(data) == "FederatedDataModule(9 workers, cohort_size=3, sampler=Poisson(), seed=0)"
    assert repr(fed.last_report) == "RoundReport: nothing is reported"


class Files(Population):
    """A million workers, of which only a few are looked at."""

    def __init__(self) -> None:
        self.asked = 0

    def __len__(self) -> int:
        return 1_000_000

    def name(self, position: int) -> str:
        return f"worker_{position}"

    def __getitem__(self, name: str) -> Any:
        raise AssertionError("no worker is built to show the population")

    def num_examples(self, name: str) -> int:
        self.asked += 1
        return 5 + int(name.removeprefix("worker_")) // 10_000

    def has_loader(self, kind: Any) -> bool:
        return False


def test_a_population_shows_its_sizes_and_builds_nothing() -> None:
    files = Files()
    said = "1000000 workers with 5 to 104 examples each (median 54.5), of 100 that were asked"
    assert repr(files) == f"Files({said})"
    assert files.asked <= 100
    assert repr(FederatedDataModule(files, cohort_size=3, seed=0)).startswith(f"FederatedDataModule(Files({said}), coh")

    class Broken(Files):
        def num_examples(self, name: str) -> int:
            raise OSError("no such disk")

    assert repr(Broken()) == "Broken(1000000 workers)"


def test_a_partition_is_not_drawn_to_be_shown() -> None:
    population = PartitionedPopulation(ToyDataModule(), IID(workers=3), val_fraction=0.5)
    how = "ToyDataModule(batch_size=4), IID(workers=3, seed=0)"
    assert repr(population) == f"PartitionedPopulation({how}, not dealt out yet)"
    assert len(population) == 3
    assert [population.num_examples(name) for name in population] == [1, 1, 1]
    assert repr(population) == f"PartitionedPopulation(3 workers with 1 example each; {how})"
    drawn = FCUBE(seed=1)
    assert repr(drawn) == "FCUBE(seed=1)"
    assert len(drawn) == 4
    assert repr(drawn) == "FCUBE(seed=1): 4 workers with 1000 examples each"
    assert repr(DigitsDataModule(test_fraction=0.5)) == "DigitsDataModule(test_fraction=0.5)"


def test_a_cohort_of_many_is_cut_short() -> None:
    assert repr(Cohort(3, 0, ("bob", "alice"))) == "Cohort(number=3, seed=0, workers=('bob', 'alice'))"
    assert len(repr(Cohort(3, 0, tuple(f"w{i}" for i in range(10_000))))) < 400


def report(count: int, **options: Any) -> RoundReport:
    names = tuple(f"w<{i}>" for i in range(count))
    losses = torch.arange(count, dtype=torch.float64)
    replies = Replies(names, torch.full((count,), 2.0, dtype=torch.float64), losses, {"acc": losses / 100})
    return RoundReport([replies], **options)


def test_a_report_is_a_table() -> None:
    failed = WorkerError("eve", 3, "no disk")
    shown = repr(report(3, failures=[failed], dropped=("ann",), bytes_down=1200, bytes_up=3_000_000))
    assert shown.splitlines() == [
        "RoundReport: 3 workers, 6 examples, loss 1, 1 failed, 1 dropped, 1.2 kB down, 3 MB up",
        "  worker  examples  loss   acc",
        "  w<0>           2     0     0",
        "  w<1>           2     1  0.01",
        "  w<2>           2     2  0.02",
    ]
    many = repr(report(1000)).splitlines()
    assert len(many) == 1 + 1 + 20 + 1
    assert many[2].split() == ["w<980>", "2", "980", "9.8"], "those with the largest losses, in order"
    assert many[-1] == "  and 980 more, with smaller losses or none"
    holed = report(30)
    holed.replies[0].loss[3:13] = math.nan
    assert [line.split()[0] for line in repr(holed).splitlines()[2:-1]] == [
        f"w<{i}>" for i in (0, 1, 2, *range(13, 30))
    ]
    html = report(3)._repr_html_()
    assert html.count("<tr>") == 4
    assert "w&lt;1&gt;" in html
    assert "w<1>" not in html
    assert repr(RoundReport()) == "RoundReport: nothing is reported"


def test_what_leaves_a_worker_reads_as_a_table() -> None:
    row = Row("delta", "weight", "float32", (2, 3), 24, "it is aggregated")
    leaves = Leaves(0, "<ann>", up=(row,), down=(), stays=(Row("stays", "rows", "", (), 0, "the data"),))
    assert repr(leaves).splitlines() == [
        "Leaves: <ann>, round 0: 24 bytes have left it, it was sent 0",
        "  name       way    dtype  shape  bytes",
        "  weight  leaves  float32    2×3     24",
        "  rows     stays                      0",
    ]
    html = leaves._repr_html_()
    assert "<td>weight</td><td>leaves</td>" in html
    assert "<ann>" not in html
