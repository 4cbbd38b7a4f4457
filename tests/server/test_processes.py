"""What several processes find out together about workers: numbers of examples, who fails, whose data are prepared."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, trainer
from processes import Ended, run_in_processes
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedAvg
from lightning_fed.engines import Sequential
from lightning_fed.population import Population
from lightning_fed.selection import CohortSampler, WeightedBySize
from lightning_fed.server.checks import refuse_synchronised
from lightning_fed.wire import Job

pytestmark = pytest.mark.usefixtures("double")


def results(ended: list[Ended]) -> list[Any]:
    assert [end.error for end in ended] == [None] * len(ended), ended[0].trace + ended[-1].trace
    return [end.result for end in ended]


# ---- a worker that fails in training ---------------------------------------------------------------------------------


class FailingLoader(Rows):
    def train_dataloader(self) -> Any:
        raise OSError("its disk is gone")


class EndingLoader(Rows):
    def train_dataloader(self) -> Any:
        sys.exit("its disk is gone")


class FailingSetup(Rows):
    def setup(self, stage: str) -> None:
        raise OSError("its disk is gone")


class FailingPrepare(Rows):
    def prepare_data(self) -> None:
        raise OSError("its disk is gone")


class Empty(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.values[:0]), batch_size=2, shuffle=True)


class FailingRow(Rows):
    def train_dataloader(self) -> Any:
        def collate(rows: list[int]) -> Any:
            if 2 in rows:
                raise OSError("its disk is gone")
            return (self.values[rows],)

        return DataLoader(range(len(self.values)), batch_size=1, collate_fn=collate)  # type: ignore[arg-type]


class Negative(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(-self.values), batch_size=2)


class FailingStep(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch[0].min() < 0:
            raise OSError("its disk is gone")
        return super().training_step(batch, batch_idx)


FAULTS: dict[str, tuple[type[Rows], str]] = {
    "loader": (FailingLoader, "its disk is gone"),
    "exit": (EndingLoader, "its disk is gone"),
    "setup": (FailingSetup, "its disk is gone"),
    "prepare": (FailingPrepare, "its disk is gone"),
    "empty": (Empty, "it has no training examples"),
    "row": (FailingRow, "its disk is gone"),
    "step": (Negative, "its disk is gone"),
}
SAMPLERS: dict[str, Callable[[], CohortSampler | None]] = {"everyone": lambda: None, "by size": WeightedBySize}


def fit(kind: type[Rows], sampler: str, on_worker_error: Any, devices: int) -> Any:
    workers = {"a": Rows([1.0, 2.0]), "bad": kind([3.0, 4.0, 5.0]), "c": Rows([6.0]), "d": Rows([7.0, 8.0])}
    module = FailingStep(lr=0.5)
    run = trainer(strategy="auto" if devices == 1 else "ddp", devices=devices, max_epochs=2)
    data = FederatedDataModule(workers, sampler=SAMPLERS[sampler]())
    fed = FederatedModule(module, engine="sequential", on_worker_error=on_worker_error)
    run.fit(fed, data)
    return module.x.item(), [failure.worker for failure in fed.last_report.failures], list(fed.last_report.workers)


@pytest.mark.filterwarnings("ignore:worker 'bad' failed")
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_worker_that_fails_is_dropped(fault: str, sampler: str, devices: int) -> None:
    kind, _ = FAULTS[fault]
    if devices == 1:
        ended = [fit(kind, sampler, "drop", 1)]
    else:
        ended = results(run_in_processes(lambda: fit(kind, sampler, "drop", 2)))
    # Half of the way to each worker's mean in each round: three fourths in two of the mean of the others' rows, 24 / 5.
    for x, failed, came_back in ended:
        assert failed == ["bad"]
        assert sorted(came_back) == ["a", "c", "d"]
        assert_equal(x, 24 / 5 * 3 / 4)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_worker_that_fails_ends_all_processes_by_the_same_error(fault: str, sampler: str) -> None:
    kind, reason = FAULTS[fault]
    errors = [str(end.error) for end in run_in_processes(lambda: fit(kind, sampler, "raise", 2))]
    assert errors[0] == errors[1]
    assert errors[0].startswith("WorkerError: worker 'bad' failed in round 0: ")
    assert reason in errors[0]


def test_whose_size_cannot_be_told_is_not_drawn_and_that_is_said() -> None:
    workers = {"a": Rows([1.0]), "bad": FailingLoader([2.0] * 100), "c": Rows([3.0])}
    data = FederatedDataModule(workers, cohort_size=1, sampler=WeightedBySize(), rounds_per_epoch=5)
    fed = FederatedModule(Scalar(), on_worker_error="drop", engine="sequential")
    with pytest.warns(UserWarning, match=r"'bad' failed in round 0: its number of examples cannot be told: OSError"):
        trainer().fit(fed, data)
    assert not fed.last_report.failures


def test_a_population_that_cannot_tell_a_size_is_named() -> None:
    class Untold(Population):
        def __len__(self) -> int:
            return 4

        def name(self, position: int) -> str:
            return "abcd"[position]

        def __getitem__(self, name: str) -> Rows:
            return Rows([1.0])

        def num_examples(self, name: str) -> int:
            if name == "c":
                raise KeyError(name)
            return 1

        def has_loader(self, kind: Any) -> bool:
            return False

    def go(sampler: CohortSampler | None) -> float:
        fed = FederatedModule(Scalar(), engine="sequential")
        trainer(strategy="ddp", devices=2).fit(fed, FederatedDataModule(Untold(), sampler=sampler))
        return fed.module.x.item()  # type: ignore[union-attr,operator]

    # Nothing but the balance of the processes hangs on the size, unless cohorts are drawn by it.
    assert results(run_in_processes(lambda: go(None))) == [1.0, 1.0]
    message = "WorkerError: worker 'c' failed in round 0: its number of examples cannot be told: KeyError: 'c'"
    assert [end.error for end in run_in_processes(lambda: go(WeightedBySize()))] == [message] * 2


def test_an_error_that_is_no_workers_leaves_no_process_waiting() -> None:
    class Picky(FedAvg):
        def visit(self, run: Any, job: Job, cohort: Any) -> Any:
            if "d" in cohort:
                raise OSError("mine")
            return super().visit(run, job, cohort)

    def go() -> None:
        data = FederatedDataModule({"a": Rows([1.0] * 9), "b": Rows([1.0]), "d": Rows([1.0] * 5)})
        trainer(strategy="ddp", devices=2).fit(FederatedModule(Scalar(), Picky(), engine=Sequential()), data)

    first, second = run_in_processes(go)
    assert (first.error, second.error) == ("ProcessError: process 1 of 2 failed: OSError: mine", "OSError: mine")


# ---- what cannot work ------------------------------------------------------------------------------------------------


def test_layers_that_take_statistics_from_all_processes_are_refused() -> None:
    """As a function: on a CPU torch itself refuses them, before a run has begun."""
    module = Scalar()
    module.norm = nn.SyncBatchNorm(1)
    refuse_synchronised(module, processes=1)
    with pytest.raises(ValueError, match=r"^norm is a SyncBatchNorm.*leave out Trainer\(sync_batchnorm=True\)$"):
        refuse_synchronised(module, processes=2)


def test_a_part_of_the_central_data_that_leaves_a_process_nothing_is_refused() -> None:
    def go() -> None:
        central = EvaluatedRows([float(i) for i in range(5)], batch_size=1)
        run = trainer(strategy="ddp", devices=2, limit_val_batches=0.4)  # 1 of 3 batches, and none of 2
        run.validate(FederatedModule(Validated()), FederatedDataModule({"a": Rows([1.0])}, val=central))

    for ended in run_in_processes(go):
        assert str(ended.error).startswith("ValueError: limit_val_batches=0.4 of 5 batches is less than one for some")


# ---- prepare_data ----------------------------------------------------------------------------------------------------


class Recording(EvaluatedRows):
    """Writes down who calls prepare_data, and in which order with setup."""

    def __init__(self, name: str, log: Path, per_node: bool = True, fails: bool = False) -> None:
        super().__init__([1.0, 2.0], batch_size=1)
        self.name, self.log, self.fails = name, log, fails
        self.prepare_data_per_node = per_node

    def _write(self, what: str) -> None:
        assert self.trainer is not None
        with self.log.open("a") as file:
            file.write(f"{what} {self.name} {self.trainer.node_rank} {self.trainer.local_rank}\n")

    def prepare_data(self) -> None:
        self._write("prepare")
        if self.fails:
            raise OSError("full")

    def setup(self, stage: str) -> None:
        self._write("setup")


class Validated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", batch[0].mean())


class Lazy(Mapping[str, pl.LightningDataModule]):
    def __init__(self, make: Callable[[str], Recording]) -> None:
        self._make = make

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Iterator[str]:
        return iter("abcd")

    def __getitem__(self, name: str) -> Recording:
        return self._make(name)


def written(log: Path, what: str) -> list[tuple[str, str, str]]:
    """Who was prepared or set up, on which machine and in which process there."""
    lines = [line.split() for line in log.read_text().splitlines()]
    return sorted((name, node, local) for kind, name, node, local in lines if kind == what)


def prepare(
    log: Path, devices: int, nodes: int = 1, lazy: bool = False, per_node: bool = True, fails: str = "", **options: Any
) -> None:
    def make(name: str) -> Recording:
        return Recording(name, log, per_node, name == fails)

    workers = Lazy(make) if lazy else {name: make(name) for name in "abcd"}
    central = Recording("central", log, per_node, fails == "central")
    run = trainer(strategy="ddp", devices=devices, num_nodes=nodes, max_epochs=3)
    fed = FederatedModule(Validated(), engine="sequential", **options)
    run.fit(fed, FederatedDataModule(workers, val=None if lazy else central, cached_workers=2 if lazy else 10))


@pytest.mark.parametrize("per_node", [True, False])
@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (1, 2)])
def test_data_are_prepared_once_on_a_machine_before_any_is_set_up(
    tmp_path: Path, devices: int, nodes: int, per_node: bool
) -> None:
    log = tmp_path / "log"
    results(run_in_processes(lambda: prepare(log, devices, nodes, per_node=per_node), nodes=nodes))
    places = [("0", "0"), ("1", "0")] if nodes == 2 and per_node else [("0", "0")]
    assert written(log, "prepare") == [(n, *place) for n in ["a", "b", "c", "central", "d"] for place in places]
    kinds = [line.split()[0] for line in log.read_text().splitlines()]
    assert kinds == sorted(kinds)  # all of prepare, then all of setup


@pytest.mark.parametrize("per_node", [True, False])
@pytest.mark.parametrize(("devices", "nodes"), [(2, 1), (1, 2)])
def test_what_is_built_when_needed_is_prepared_once_on_a_machine(
    tmp_path: Path, devices: int, nodes: int, per_node: bool
) -> None:
    log = tmp_path / "log"
    results(run_in_processes(lambda: prepare(log, devices, nodes, lazy=True, per_node=per_node), nodes=nodes))
    prepared = written(log, "prepare")
    by_node = [(name, node) for name, node, _ in prepared]
    assert len(set(by_node)) == len(by_node)
    assert {name for name, _ in by_node} == set("abcd")
    if not per_node or nodes == 1:
        assert len(by_node) == 4
    else:  # each that a machine has set up was prepared there
        assert by_node == sorted({(name, node) for name, node, _ in written(log, "setup")})


@pytest.mark.parametrize("lazy", [False, True])
def test_a_worker_whose_data_cannot_be_prepared_is_dropped_or_named(tmp_path: Path, lazy: bool) -> None:
    def go(on_worker_error: str) -> None:
        prepare(tmp_path / "log", 2, lazy=lazy, fails="c", on_worker_error=on_worker_error)

    results(run_in_processes(lambda: go("drop")))
    errors = [str(end.error) for end in run_in_processes(lambda: go("raise"))]
    assert errors[0] == errors[1]
    assert errors[0].startswith("WorkerError: worker 'c' failed in round 0: ")
    assert "OSError: full" in errors[0]


def test_central_data_that_cannot_be_prepared_leave_no_process_waiting(tmp_path: Path) -> None:
    first, second = run_in_processes(lambda: prepare(tmp_path / "log", 2, fails="central"))
    assert (first.error, second.error) == ("OSError: full", "ProcessError: process 0 of 2 failed: OSError: full")


def test_in_one_process_a_worker_is_prepared_when_it_is_needed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    data = FederatedDataModule({name: Recording(name, log) for name in "abcd"}, cohort_size=1, rounds_per_epoch=1)
    trainer(limit_val_batches=0).fit(FederatedModule(Validated()), data)
    assert len(written(log, "prepare")) == 1
    assert len(written(log, "setup")) == 1
