"""A step that fails for some workers of a stack: the others take it, and what they become is what they are alone."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import assert_equal, trainer
from parity import job_for, needs_compiled_stacks, needs_compiler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.engines import Engine, Sequential, Vectorized
from lightning_fed.engines.vectorized.blame import failing_rows
from lightning_fed.population import WorkerPool
from lightning_fed.wire import LocalTraining, WorkerError

pytestmark = pytest.mark.usefixtures("double")


# ---- the search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{0}, {7}, {31}, {0, 31}, {3, 4, 5}, set(range(32)), set(range(0, 32, 2))])
@pytest.mark.parametrize("suspects", [(), (3,), (31, 0), tuple(range(32))])
def test_those_that_fail_are_found_and_the_others_are_tried_last(bad: set[int], suspects: tuple[int, ...]) -> None:
    tried: list[list[int]] = []

    def attempt(rows: Any) -> Exception | None:
        tried.append(list(rows))
        found = [row for row in rows if row in bad]
        return ValueError(found[0]) if found else None

    failing = failing_rows(attempt, range(32), suspects)
    assert set(failing) == bad
    assert all(error.args == (row,) for row, error in failing.items())
    if len(bad) < 32:
        assert tried[-1] == [row for row in range(32) if row not in bad]
    if len(bad) == 1:
        assert len(tried) <= 7 + len(suspects)  # five halvings, the row itself, the others


def test_what_fails_only_together_is_nobodys() -> None:
    assert failing_rows(lambda rows: ValueError() if len(rows) == 4 else None, range(4), ()) == {}


# ---- a stack ---------------------------------------------------------------------------------------------------------


class Classifier(pl.LightningModule):
    """Counts its steps: a repeated step must not count twice."""

    steps = 0

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(dropout), nn.Linear(4, 2))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        Classifier.steps += 1
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Labelled(pl.LightningDataModule):
    """Six examples in batches of two; the label at one place is out of range."""

    def __init__(self, seed: int, wrong: int | None = None, n: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(0, 2, (n,), generator=generator)
        if wrong is not None:
            labels[wrong] = 99
        self.rows = TensorDataset(torch.randn(n, 3, generator=generator, dtype=torch.float64), labels)

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=2)


def trained(engine: Engine, module: pl.LightningModule, workers: dict[str, Any], rounds: int = 1) -> dict[str, Any]:
    """What comes back in the last round, worker by worker: numbers, or the words in which it fails."""
    engine.setup(module, WorkerPool(workers, 100), trainer())
    results: dict[str, Any] = {}
    with torch.no_grad():
        for _ in range(rounds):
            results = {}
            for result in engine.run(job_for(module, LocalTraining(epochs=2)), list(workers)):
                if isinstance(result, WorkerError):
                    results[result.worker] = str(result)
                    continue
                parts = {**result.buffers, **result.metrics, "delta": result.delta, "weight": result.weight}
                for row, worker in enumerate(result.workers):
                    results[worker] = {name: part[row].clone() for name, part in parts.items()}
    engine.teardown()
    return {worker: results[worker] for worker in sorted(results)}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("bad", [{0: 0}, {5: 5}, {0: 4, 5: 1}, {1: 0, 2: 2, 3: 4}], ids=str)
def test_the_others_are_what_they_are_one_by_one(bad: dict[int, int], dropout: float) -> None:
    """In the first step and later, in the first and the last place, several in one step and in others."""
    workers = {f"w{i}": Labelled(i, bad.get(i), n=4 if i == 4 else 6) for i in range(6)}
    torch.manual_seed(0)
    module = Classifier(dropout)
    one_by_one = trained(Sequential(), module, workers)
    for rounds in (1, 2):  # in the second one it is known who failed before
        together = trained(Vectorized(), module, workers, rounds)
        for i, worker in enumerate(workers):
            if i in bad:
                assert "out of bounds" in together[worker]
            else:
                assert_equal(together[worker], one_by_one[worker], f"{worker}: ")


def test_a_stack_in_which_all_fail_names_each() -> None:
    failures = trained(Vectorized(), Classifier(), {f"w{i}": Labelled(i, wrong=0) for i in range(3)})
    assert list(failures) == ["w0", "w1", "w2"]
    assert all("out of bounds" in text for text in failures.values())


@pytest.mark.parametrize("n", [12, 50])
def test_a_round_with_one_bad_worker_takes_few_steps_more(n: int) -> None:
    """Each call of training_step is one for a stack; to train each by itself would take n rounds' steps more."""

    def steps(wrong: int | None, rounds: int) -> int:
        Classifier.steps = 0
        trained(
            Vectorized(), Classifier(), {f"w{i}": Labelled(i, wrong if i == n // 3 else None) for i in range(n)}, rounds
        )
        return Classifier.steps

    once = steps(None, 1)
    assert once == 6
    first = steps(3, 1)
    assert first <= once + 2 + n.bit_length()
    assert steps(3, 2) - first <= once + 2  # now the worker is suspected: it and the others, each once more


@pytest.mark.parametrize("change", ["narrow", "half"])
def test_rows_of_another_kind_are_not_stacked_with_others(change: str) -> None:
    workers: dict[str, Any] = {f"w{i}": Labelled(i) for i in range(4)}
    numbers, labels = workers["w2"].rows.tensors
    workers["w2"].rows = TensorDataset(numbers[:, :2] if change == "narrow" else numbers.half(), labels)
    torch.manual_seed(0)
    module = Classifier()
    together, one_by_one = (trained(engine, module, workers) for engine in (Vectorized(), Sequential()))
    assert isinstance(together.pop("w2"), str)
    assert isinstance(one_by_one.pop("w2"), str)
    assert_equal(together, one_by_one)


@pytest.mark.slow
@needs_compiler
@needs_compiled_stacks
def test_a_bad_worker_does_not_end_compilation() -> None:
    workers = {f"w{i}": Labelled(i, 3 if i == 1 else None) for i in range(4)}
    torch.manual_seed(0)
    module = Classifier()
    compiled, one_by_one = trained(Vectorized(compile=True), module, workers, 2), trained(Sequential(), module, workers)
    assert "out of bounds" in compiled.pop("w1")
    one_by_one.pop("w1")
    assert_equal(compiled, one_by_one)
