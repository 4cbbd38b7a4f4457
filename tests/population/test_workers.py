from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
from helpers import EvaluatedRows, Rows
from torch.utils.data import DataLoader, TensorDataset

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


def test_clear_tears_down_every_stage_and_a_worker_can_be_used_again() -> None:
    calls: list[str] = []
    pool = WorkerPool({"bob": Noted("bob", calls, [1.0])}, 5)
    for _ in range(2):
        assert pool["bob"].batches
        assert pool["bob"].evaluation_loader("test") is not None
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
    assert worker.evaluation_loader("val") is worker.evaluation_loader("val")
    assert Worker("alice", Rows([1.0]), None).evaluation_loader("val") is None


def test_several_evaluation_loaders_of_a_worker_are_refused() -> None:
    class Several(Rows):
        def val_dataloader(self) -> Any:
            return [self.train_dataloader()] * 2

    with pytest.raises(TypeError, match=r"worker 'bob': val_dataloader\(\) must return one loader, not several"):
        Worker("bob", Several([1.0]), None).evaluation_loader("val")


def test_what_a_lazy_mapping_builds_must_be_a_datamodule() -> None:
    class Wrong(Lazy):
        def __getitem__(self, name: str) -> Any:
            return [1.0, 2.0]

    with pytest.raises(TypeError, match=r"workers\['3'\] must be a pytorch_lightning.LightningDataModule, not list"):
        WorkerPool(Wrong(), 1)["3"]
