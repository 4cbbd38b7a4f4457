from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, trainer
from torch.utils.data import DataLoader, Subset, TensorDataset

from lightning_fed._lightning import CombinedLoader
from lightning_fed.core.rng import isolated, seed_generators
from lightning_fed.datasets import IID, PartitionedPopulation
from lightning_fed.population import EvaluationKind, Population, Worker, WorkerPool


class Noted(EvaluatedRows):
    """Writes down what is called on it."""

    def __init__(self, name: str, calls: list[str], values: list[float]) -> None:
        super().__init__(values)
        self.note = lambda what: calls.append(f"{name}.{what}")

    def prepare_data(self) -> None:
        self.note("prepare_data")

    def setup(self, stage: str) -> None:
        self.note(f"setup({stage})")

    def teardown(self, stage: str) -> None:
        self.note(f"teardown({stage})")

    def train_dataloader(self) -> Any:
        self.note("train_dataloader")
        return super().train_dataloader()


class Lazy(Mapping[str, pl.LightningDataModule]):
    """A million workers, each built when asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getitem__(self, name: str) -> pl.LightningDataModule:
        self.calls.append(f"{name}.built")
        return Noted(name, self.calls, [1.0, 2.0])

    def __iter__(self) -> Iterator[str]:
        return (str(i) for i in range(1_000_000))

    def __len__(self) -> int:
        return 1_000_000


def test_a_worker_is_built_and_set_up_when_first_asked_for_and_once() -> None:
    lazy = Lazy()
    pool = WorkerPool(lazy, 3)
    assert lazy.calls == []
    for _ in range(2):
        assert pool["7"].batches.num_examples == 2
    assert lazy.calls == ["7.built", "7.prepare_data", "7.setup(fit)", "7.train_dataloader"]


def test_the_least_recently_used_worker_is_torn_down_beyond_the_capacity() -> None:
    lazy = Lazy()
    pool = WorkerPool(lazy, 2)
    for name in ("1", "2", "1", "3"):
        assert pool[name].batches
    assert [call for call in lazy.calls if "teardown" in call] == ["2.teardown(fit)"]
    lazy.calls.clear()
    assert pool["1"].batches
    assert lazy.calls == []
    assert pool["2"].batches
    assert lazy.calls == ["2.built", "3.teardown(fit)", "2.prepare_data", "2.setup(fit)", "2.train_dataloader"]


def test_a_worker_that_was_never_set_up_needs_no_teardown() -> None:
    lazy = Lazy()
    pool = WorkerPool(lazy, 1)
    pool["1"], pool["2"]
    pool.clear()
    assert lazy.calls == ["1.built", "2.built"]


class Clinging(Noted):
    """Cannot be torn down."""

    def teardown(self, stage: str) -> None:
        super().teardown(stage)
        raise SystemExit("still in use")


def test_a_worker_that_cannot_be_torn_down_is_named_and_costs_no_other() -> None:
    calls: list[str] = []
    pool = WorkerPool({name: Clinging(name, calls, [1.0]) for name in ("ann", "bob", "cyd")}, 2)
    assert pool["ann"].batches
    assert pool["bob"].batches
    with pytest.warns(UserWarning, match=r"teardown\(\) of worker 'ann' failed: its code raised SystemExit: still"):
        assert pool["cyd"].batches
    with pytest.warns(UserWarning, match=r"teardown\(\) of worker '(bob|cyd)'"):
        pool.clear()
    assert [call for call in calls if "teardown" in call] == [f"{name}.teardown(fit)" for name in ("ann", "bob", "cyd")]


def test_clear_tears_down_every_stage_and_a_worker_can_be_used_again() -> None:
    calls: list[str] = []
    pool = WorkerPool({"bob": Noted("bob", calls, [1.0])}, 5)
    for _ in range(2):
        assert pool["bob"].batches
        assert len(pool["bob"].evaluation_loaders("test")) == 1
        pool.clear()
    once = ["bob.prepare_data", "bob.setup(fit)", "bob.train_dataloader", "bob.setup(test)"]
    assert calls == [*once, "bob.teardown(fit)", "bob.teardown(test)"] * 2


def test_the_datamodule_sees_the_trainer() -> None:
    data = Rows([1.0])
    pool = WorkerPool({"bob": data}, 1)
    pool.trainer = trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    assert pool["bob"].datamodule.trainer is trainer


def test_sizes_come_from_the_population_if_it_knows_them() -> None:
    class Known(Population):
        def __getitem__(self, name: str) -> pl.LightningDataModule:
            raise AssertionError("built")

        def name(self, position: int) -> str:
            return "bob"

        def __len__(self) -> int:
            return 1

        def num_examples(self, name: str) -> int:
            return 42

        def has_loader(self, kind: EvaluationKind) -> bool:
            return False

    assert WorkerPool(Known(), 1).num_examples("bob") == 42
    assert WorkerPool({"bob": Rows([1.0, 2.0, 3.0])}, 1).num_examples("bob") == 3


def test_a_transfer_hook_is_seen_on_the_class_and_on_the_datamodule_itself() -> None:
    class Moving(Rows):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            return batch

    patched = Rows([1.0])
    patched.on_after_batch_transfer = lambda batch, dataloader_idx: batch  # type: ignore[method-assign]
    plainly = [Worker("bob", data, None).transfers_plainly for data in (Rows([1.0]), Moving([1.0]), patched)]
    assert plainly == [True, False, False]


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_worker_without_examples_is_told_so(shuffle: bool) -> None:
    worker = Worker("bob", Rows([], batch_size=2, shuffle=shuffle), None)
    with pytest.raises(ValueError, match="no training examples; give it data or leave it out of `workers`"):
        _ = worker.batches


def test_a_drop_last_that_leaves_nothing_is_told_so() -> None:
    class Dropping(Rows):
        def train_dataloader(self) -> Any:
            return DataLoader(TensorDataset(self.values), batch_size=4, drop_last=True)

    with pytest.raises(ValueError, match="gives no batch from 3 examples; give it a smaller batch_size or drop_last"):
        _ = Worker("bob", Dropping([1.0, 2.0, 3.0]), None).batches


def test_another_value_error_of_the_loader_is_left_as_it_is() -> None:
    class Broken(Rows):
        def train_dataloader(self) -> Any:
            raise ValueError("no such file")

    with pytest.raises(ValueError, match=r"^no such file$"):
        _ = Worker("bob", Broken([1.0]), None).batches


def test_evaluation_loaders_are_the_workers_own_or_none() -> None:
    worker = Worker("bob", EvaluatedRows([1.0]), None)
    (loader,) = worker.evaluation_loaders("val")
    assert worker.evaluation_loaders("val")[0] is loader
    assert len(Worker("alice", Rows([1.0]), None).evaluation_loaders("val")) == 0


def test_what_a_lazy_mapping_builds_must_be_data_of_a_worker() -> None:
    class Wrong(Lazy):
        def __getitem__(self, name: str) -> Any:
            return 1.0

    with pytest.raises(TypeError, match=r"workers\['3'\] must be a LightningDataModule, a DataLoader.*, not float"):
        WorkerPool(Wrong(), 1)["3"]


# ---- what a datamodule draws -----------------------------------------------------------------------------------------


class Drawing(EvaluatedRows):
    """Draws from every generator whenever it is called."""

    def __init__(self) -> None:
        super().__init__([1.0, 2.0])
        self.drawn: dict[str, tuple[float, ...]] = {}

    def draw(self, what: str) -> None:
        self.drawn[what] = (random.random(), np.random.rand(), torch.rand(()).item())

    def prepare_data(self) -> None:
        self.draw("prepare_data")

    def setup(self, stage: str) -> None:
        self.draw(f"setup({stage})")

    def train_dataloader(self) -> Any:
        self.draw("train")
        return super().train_dataloader()

    def val_dataloader(self) -> Any:
        self.draw("val")
        return DataLoader(TensorDataset(self.values))


def states() -> list[Any]:
    legacy: Any = np.random.get_state()
    return [random.getstate(), legacy[1].tolist(), *legacy[2:], torch.get_rng_state().tolist()]


def drawn(seed: int, name: str, history: int, evaluated_first: bool = False) -> dict[str, tuple[float, ...]]:
    """What a worker draws after some other draws; the generators are as they were before."""
    seed_generators(history)
    np.random.randn()  # NumPy draws two and keeps the other one
    before = states()
    data = Drawing()
    worker = WorkerPool({name: data}, 1, seed)[name]
    if evaluated_first:
        assert len(worker.evaluation_loaders("val")) == 1
    assert worker.batches.num_examples == 2
    assert len(worker.evaluation_loaders("val")) == 1
    assert states() == before
    return data.drawn


def test_what_a_datamodule_draws_is_a_function_of_the_seed_and_the_worker() -> None:
    first = drawn(3, "bob", history=0)
    assert first == drawn(3, "bob", history=1)
    assert first["train"] != drawn(4, "bob", history=0)["train"]
    assert first["train"] != drawn(3, "alice", history=0)["train"]
    with isolated():
        numbers, seen = np.random.get_state()[1].tolist(), WorkerPool({"bob": (data := Drawing())}, 1, 3)["bob"].batches  # type: ignore[index,union-attr]
        assert seen.num_examples == 2
        assert np.random.get_state()[1].tolist() == numbers  # type: ignore[index,union-attr]
    assert data.drawn["setup(fit)"] == first["setup(fit)"]


def test_a_split_is_the_same_by_whichever_loader_it_is_first_needed() -> None:
    assert len(set(drawn(0, "bob", history=0).values())) == 1
    both = [drawn(0, "bob", history=0, evaluated_first=first) for first in (False, True)]
    assert {draws["setup(fit)"] for draws in both} == {draws["val"] for draws in both}


def test_a_datamodule_that_is_built_when_asked_for_draws_from_generators_of_its_own() -> None:
    class Built(Lazy):
        def __getitem__(self, name: str) -> pl.LightningDataModule:
            return Rows(torch.rand(2))

    def values(history: int) -> list[float]:
        torch.manual_seed(history)
        data: Any = WorkerPool(Built(), 1, 0)["7"].datamodule
        return data.values.tolist()  # type: ignore[no-any-return]

    assert values(0) == values(1)


def test_a_worker_that_an_engine_makes_ready_draws_the_same() -> None:
    class Built(Lazy):
        def __getitem__(self, name: str) -> pl.LightningDataModule:
            data = Drawing()
            data.draw("built")
            return data

    for population in (lambda: Built(), lambda: {"7": Drawing()}):
        torch.manual_seed(1)
        plain: Any = WorkerPool(population(), 1, 0)["7"]
        assert plain.batches.num_examples == 2
        torch.manual_seed(2)
        ready: Any = WorkerPool(population(), 1, 0).ready("7")
        assert ready.datamodule.drawn == plain.datamodule.drawn != {}
    before = states()
    assert len(ready.evaluation_loaders("val")) == 1
    assert states() == before


def test_for_a_population_that_draws_nothing_generators_are_left_alone() -> None:
    population = PartitionedPopulation(TensorDataset(torch.arange(6.0), torch.zeros(6)), IID(2), batch_size=2)
    assert list(population) == ["worker_0", "worker_1"]
    before = states()
    worker = WorkerPool(population, 1, 0).ready("worker_1")
    assert worker.batches.num_examples == 3
    assert states() == before


def test_a_worker_that_is_made_ready_is_the_most_recently_used() -> None:
    pool = WorkerPool({name: Rows([1.0]) for name in "abc"}, 2)
    first = pool.ready("a")
    pool.ready("b")
    assert pool.ready("a") is first
    pool.ready("c")
    assert pool["a"] is first


def test_loaders_are_asked_for_anew_as_the_trainer_says() -> None:
    calls: list[str] = []
    run: Any = SimpleNamespace(
        overfit_batches=0.0, reload_dataloaders_every_n_epochs=2, current_epoch=0, state=SimpleNamespace(fn="fit")
    )
    worker = Worker("bob", Noted("bob", calls, [1.0]), run)
    asked = []
    for run.current_epoch in range(5):
        assert worker.batches
        assert worker.batches
        asked.append(calls.count("bob.train_dataloader"))
        assert worker.evaluation_loaders("test")[0] is worker.evaluation_loaders("test")[0]
    assert asked == [1, 1, 2, 2, 3]
    assert (calls.count("bob.setup(fit)"), calls.count("bob.prepare_data")) == (1, 1)


def test_what_is_drawn_for_a_loader_that_is_asked_for_anew_depends_on_the_epoch_alone() -> None:
    run: Any = SimpleNamespace(
        overfit_batches=0.0, reload_dataloaders_every_n_epochs=1, current_epoch=0, state=SimpleNamespace(fn="fit")
    )
    data = Drawing()
    worker = Worker("bob", data, run)
    assert worker.batches
    first = data.drawn["train"]
    run.current_epoch = 3
    assert worker.batches
    late, resumed = data.drawn["train"], Drawing()
    assert Worker("bob", resumed, run).batches.num_examples == 2
    assert resumed.drawn["train"] == late != first
    assert resumed.drawn["setup(fit)"] == data.drawn["setup(fit)"]


def test_a_dataset_may_grow_between_rounds() -> None:
    data = TensorDataset(torch.arange(4.0))

    class Growing(Rows):
        def train_dataloader(self) -> Any:
            return DataLoader(data, batch_size=2)

    worker = Worker("bob", Growing([]), None)
    assert (worker.batches.num_examples, worker.batches.num_batches) == (4, 2)
    assert worker.batches is worker.batches
    data.tensors = (torch.arange(7.0),)
    assert (worker.batches.num_examples, worker.batches.num_batches) == (7, 4)
    assert [batch[0].tolist() for batch, _ in worker.batches] == [[0, 1], [2, 3], [4, 5], [6]]


def test_rows_that_are_written_to_are_seen_by_whoever_has_copied_them() -> None:
    worker = Worker("bob", data := Rows([1.0, 2.0]), None)
    first = worker.batches
    assert worker.batches is first
    data.values[0] = 7.0
    assert worker.batches is not first
    assert worker.batches is worker.batches


def test_tensors_of_inference_mode_are_taken_as_the_loader_gives_them() -> None:
    class Inferred(Rows):
        def train_dataloader(self) -> Any:
            with torch.inference_mode():
                return DataLoader(TensorDataset(torch.arange(3.0)), batch_size=2)

    worker = Worker("bob", Inferred([]), None)
    for _ in range(2):
        assert [batch[0].tolist() for batch, _ in worker.batches] == [[0, 1], [2]]


def test_a_subset_may_change_between_rounds() -> None:
    values = torch.arange(6.0)
    subset: Any = Subset(Subset(TensorDataset(values), [0, 1, 2, 3, 4]), indices := [0, 2, 4])

    class Part(Rows):
        def train_dataloader(self) -> Any:
            return DataLoader(subset, batch_size=2)

    def rows() -> list[Any]:
        return [batch[0].tolist() for batch, _ in worker.batches]

    worker = Worker("bob", Part([]), None)
    assert rows() == [[0, 2], [4]]
    assert worker.batches is worker.batches
    values[2] = 9
    assert rows() == [[0, 9], [4]]
    indices.append(3)
    assert rows() == [[0, 9], [4, 3]]
    subset.indices = [1]
    assert rows() == [[1]]
    subset.dataset.indices = [0, 5, 2, 3, 4]
    assert rows() == [[5]]


# ---- evaluation loaders in all forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "batches"),
    [
        (lambda one: None, None),
        (lambda one: [], None),
        (lambda one: one, 1),
        (lambda one: [one], 1),
        (lambda one: (one,), 1),
        (lambda one: {"only": one}, 1),
        (lambda one: CombinedLoader([one], "sequential"), 1),
    ],
    ids=["None", "empty list", "one", "list", "tuple", "dict", "combined"],
)
def test_a_worker_without_evaluation_data_or_with_one_loader_in_any_form(form: Any, batches: int | None) -> None:
    class Given(Rows):
        def val_dataloader(self) -> Any:
            return form(self.train_dataloader())

    loaders = Worker("bob", Given([1.0]), None).evaluation_loaders("val")
    assert [len([b for (b,) in loader]) for loader in loaders] == ([] if batches is None else [batches])


# ---- processes that start afresh -------------------------------------------------------------------------------------


class Spawning(Rows):
    def collate(self, rows: Any) -> Any:
        return rows

    def train_dataloader(self) -> Any:
        return DataLoader(
            TensorDataset(self.values), collate_fn=self.collate, num_workers=1, multiprocessing_context="spawn"
        )


def test_a_process_that_starts_afresh_gets_the_datamodule_without_the_server() -> None:
    run = trainer()
    run.callbacks.append(lambda: None)  # type: ignore[attr-defined]  # as the server, it cannot be pickled
    inherits, afresh = Rows([1.0]), Spawning([1.0])
    for data in (inherits, afresh):
        assert Worker("bob", data, run).batches
    assert inherits.trainer is run
    assert afresh.trainer.current_epoch == 0
    assert afresh.trainer.callbacks is run.callbacks  # type: ignore[attr-defined]
    sent = pickle.loads(pickle.dumps(afresh.collate)).__self__
    assert vars(sent.trainer)["max_epochs"] == 1
    assert not hasattr(sent.trainer, "callbacks")
