"""Numbers of examples: those that a pass gives, the same with every engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, fit
from parity import by_worker
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Engine, Sequential, Vectorized
from lightning_fed.wire import LocalTraining


class Loaded(pl.LightningDataModule):
    """Any loader."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.make = make

    def train_dataloader(self) -> Any:
        return self.make()


class Batched(Dataset[Any]):
    """Items that are whole batches of their own."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


class Stream(IterableDataset[Any]):
    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Uneven(BatchSampler):
    """As many rows less in each batch as it has a number: 3, 2, 1 of 9 rows in batches of 3."""

    def __iter__(self) -> Iterator[list[int]]:
        for number, rows in enumerate(super().__iter__()):
            yield rows[number:]


def batch(n: int) -> list[Tensor]:
    return [torch.arange(float(n))]


def uneven() -> Any:
    return DataLoader(TensorDataset(torch.arange(9.0)), batch_sampler=Uneven(range(9), 3, drop_last=False))


BOTH = [Sequential, Vectorized]


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(
    ("make", "local", "examples"),
    [
        (lambda: DataLoader(Batched(batch(4), batch(2)), batch_size=None), LocalTraining(), 6),
        (lambda: DataLoader(Batched(batch(4), batch(2)), batch_size=None), LocalTraining(epochs=2), 6),
        (lambda: DataLoader(Batched(batch(4), batch(2)), batch_size=None), LocalTraining(steps=3), 6),
        (lambda: DataLoader(Batched(batch(4), batch(2)), batch_size=None), LocalTraining(steps=1), 8),  # as if all of 4
        (uneven, LocalTraining(), 6),
        (uneven, LocalTraining(epochs=3), 6),
        (lambda: DataLoader(TensorDataset(torch.arange(5.0)), batch_size=2, drop_last=True), LocalTraining(), 4),
    ],
    ids=["batches", "two epochs", "one and a half", "half an epoch", "sampler", "three epochs of it", "drop last"],
)
@pytest.mark.usefixtures("double")
def test_examples_are_those_that_a_pass_gives(
    engine: type[Engine], make: Any, local: LocalTraining, examples: int
) -> None:
    assert by_worker(engine(), Scalar(), {"bob": Loaded(make)}, local)["bob"]["weight"] == examples


@pytest.mark.parametrize(("steps", "examples"), [(None, 9), (1, 4), (2, 6), (4, 9), (5, 9)])
def test_a_stream_that_is_cut_counts_as_far_as_it_went(steps: int | None, examples: int) -> None:
    data = Loaded(lambda: DataLoader(Stream(batch(4), batch(2), batch(3)), batch_size=None))
    local = LocalTraining(steps=steps)
    assert by_worker(Sequential(), Scalar(), {"bob": data}, local)["bob"]["weight"] == examples


# ---- sizes that the first dimension does not tell --------------------------------------------------------------------


class TimeFirst(Scalar):
    """Batches ``{"values": [time, n], "lengths": [n]}``."""

    says: Callable[[Any], Any] = staticmethod(lambda batch: None)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = ((self.x - batch["values"]) ** 2).mean() / 2
        self.log("half", loss / 2, batch_size=self.says(batch))
        return loss


class Saying(TimeFirst):
    says = staticmethod(lambda batch: batch["lengths"].shape[0])


class SayingTwo(Saying):
    """Logs about tokens, too."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("tokens", 1.0, batch_size=batch["values"].numel())
        return super().training_step(batch, batch_idx)


def time_first(time: int, n: int, value: float) -> dict[str, Tensor]:
    return {"values": torch.full((time, n), value), "lengths": torch.full((n,), time)}


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.usefixtures("double")
def test_the_size_that_user_code_says_counts(engine: type[Engine]) -> None:
    data = Loaded(lambda: DataLoader(Batched(time_first(5, 3, 2.0), time_first(5, 1, 6.0)), batch_size=None))
    result = by_worker(engine(), Saying(lr=1.0), {"bob": data}, LocalTraining())["bob"]
    assert result["weight"] == 4
    # From 0 the loss is 2²/2 = 2 on three examples, and then from 2 it is 4²/2 = 8 on one.
    assert_equal((result["loss"], result["metrics"]["half"]), ((3 * 2 + 8) / 4, (3 * 1 + 4) / 4))


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("module", [TimeFirst, SayingTwo])
@pytest.mark.usefixtures("double")
def test_a_guess_that_may_be_wrong_is_warned_of_once(engine: type[Engine], module: type[TimeFirst]) -> None:
    def loader() -> Any:
        return DataLoader(Batched(time_first(5, 3, 2.0), time_first(5, 1, 6.0)), batch_size=None)

    workers = {"bob": Loaded(loader), "alice": Loaded(loader)}
    with pytest.warns(UserWarning, match=r"worker 'bob': .* 5 were counted.*self.log\(\.\.\., batch_size=") as record:
        results = by_worker(engine(), module(), workers, LocalTraining())
    assert len([w for w in record if "were counted" in str(w.message)]) == 1
    assert [result["weight"] for result in results.values()] == [10, 10]


# ---- one item at a time ----------------------------------------------------------------------------------------------


class Nodes(Scalar):
    """One graph at a time; says how many nodes it has, or nothing."""

    says: Callable[[Any], Any] = staticmethod(lambda graph: len(graph["values"]))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = ((self.x - batch["values"]) ** 2).mean() / 2
        self.log("half", loss / 2, batch_size=self.says(batch))
        return loss


class Graphs(Nodes):
    says = staticmethod(lambda graph: 1)


class Unsaid(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return ((self.x - batch["values"]) ** 2).mean() / 2


def graph(nodes: int, value: float, edges: int | None = None) -> dict[str, Tensor]:
    return {"values": torch.full((nodes,), value), "edges": torch.zeros(nodes if edges is None else edges, 2)}


def graphs(*items: Any) -> Loaded:
    return Loaded(lambda: DataLoader(Batched(*items), batch_size=1, collate_fn=lambda items: items[0]))


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize(("module", "examples", "half"), [(Nodes, 10, (7 * 1 + 3 * 4) / 10), (Graphs, 2, (1 + 4) / 2)])
@pytest.mark.usefixtures("double")
def test_an_item_alone_counts_as_many_as_user_code_says(
    engine: type[Engine], module: type[Nodes], examples: int, half: float
) -> None:
    data = graphs(graph(7, 2.0), graph(3, 6.0))
    result = by_worker(engine(), module(), {"bob": data}, LocalTraining())["bob"]
    assert result["weight"] == examples
    assert_equal(result["metrics"]["half"], half)  # from 0 the loss is 2, and then from 2 it is 8


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.parametrize("edges", [None, 9])
@pytest.mark.usefixtures("double")
def test_an_item_alone_of_which_nothing_is_said_is_warned_of(engine: type[Engine], edges: int | None) -> None:
    with pytest.warns(UserWarning, match=r"worker 'bob': .* 7 were counted.*self.log\(\.\.\., batch_size="):
        results = by_worker(engine(), Unsaid(), {"bob": graphs(graph(7, 2.0, edges))}, LocalTraining())
    assert results["bob"]["weight"] == 7


@pytest.mark.parametrize("engine", BOTH)
@pytest.mark.usefixtures("double")
def test_an_item_alone_that_is_a_batch_of_one_counts_one(engine: type[Engine]) -> None:
    results = by_worker(engine(), Unsaid(), {"bob": graphs(graph(1, 2.0), graph(1, 2.0))}, LocalTraining())
    assert results["bob"]["weight"] == 2


# ---- workers without anything to say ---------------------------------------------------------------------------------


class Skipping(Scalar):
    """Has nothing to learn from values above 50."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("seen", batch[0].mean())
        return super().training_step(batch, batch_idx) if bool((batch[0] <= 50).all()) else None


@pytest.mark.filterwarnings("ignore:`training_step` returned")
def test_a_worker_that_skips_every_step_counts_nothing() -> None:
    fed = FederatedModule(Skipping())
    run = fit(fed, FederatedDataModule({"bob": Rows([2.0]), "alice": Rows([6.0]), "idle": Rows([100.0] * 6)}))
    assert fed.module.x.item() == 4
    assert {name: record.examples for name, record in fed.last_report.workers.items()} == {
        "bob": 1,
        "alice": 1,
        "idle": 0,
    }
    values = {name: value.item() for name, value in run.callback_metrics.items() if not name.startswith("workers/")}
    assert values == {"loss": (2 + 18) / 2, "seen": 4}


@pytest.mark.filterwarnings("ignore:`training_step` returned")
def test_a_cohort_in_which_nobody_learnt_changes_nothing() -> None:
    fed = FederatedModule(Skipping(x=3.0), server_optimizer=lambda p: torch.optim.Adam(p, lr=1.0, weight_decay=1.0))
    run = fit(fed, FederatedDataModule({"bob": Rows([60.0]), "alice": Rows([70.0])}), max_epochs=3)
    assert (fed.module.x.item(), run.global_step, dict(run.callback_metrics)) == (3, 3, {})


# ---- nothing that a datamodule draws depends on the engine -----------------------------------------------------------


class Split(Rows):
    """Holds out a part of its rows, drawn in ``setup``."""

    def setup(self, stage: str) -> None:
        self.kept = self.values[torch.randperm(len(self.values))[:3]]

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.kept), batch_size=2, shuffle=True)


@pytest.mark.parametrize("cached", [1, 10])
@pytest.mark.usefixtures("double")
def test_a_split_in_setup_is_the_same_with_every_engine_and_cache(cached: int) -> None:
    ends = []
    for history, engine in enumerate((Sequential(), Vectorized(), Sequential())):
        torch.manual_seed(history)
        workers = {name: Split(torch.arange(8.0)) for name in "abcde"}
        fed = FederatedModule(Scalar(lr=0.5), engine=engine)
        fit(fed, FederatedDataModule(workers, cohort_size=3, cached_workers=cached if history < 2 else 5), max_epochs=3)
        ends.append(fed.module.x.item())
    assert_equal(ends[:2], ends[1:])
