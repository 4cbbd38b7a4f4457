"""The children of `Isolated`: what they hold, what becomes of them, and what is said when something fails in one."""

from __future__ import annotations

import gc
import math
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit, trainer
from menagerie import cohort, member
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Median
from lightning_fed.algorithms import Ditto, FedAvg, Scaffold
from lightning_fed.engines import Auto, Engine, Isolated, Sequential
from lightning_fed.population import WorkerPool
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates, WorkerError
from lightning_fed.worker.pickling import dumps, loads


@pytest.fixture(scope="module")
def shared() -> Iterator[Isolated]:
    """One engine for many tests: to start children takes seconds."""
    before = set(multiprocessing.active_children())  # of the engine that all tests share
    engine = Isolated(processes=2, persistent=True)
    yield engine
    engine.close()
    assert set(multiprocessing.active_children()) <= before


def job(number: int = 0, module: pl.LightningModule | None = None, last: int | None = None) -> Job:
    own = Scalar() if module is None else module
    parameters = {name: p.detach().clone() for name, p in own.named_parameters()}
    return Job(number, number, 0, GlobalModel(parameters, dict(own.named_buffers())), LocalTraining(), last=last)


def run(engine: Engine, sent: Job, cohort: list[str]) -> dict[str, Any]:
    """The deltas, or what is said in their place."""
    results: dict[str, Any] = {}
    for result in engine.run(sent, cohort):
        if isinstance(result, WorkerError):
            results[result.worker] = result
        else:
            results.update(zip(result.workers, result.delta.tolist(), strict=True))
    return results


def set_up(engine: Engine, module: pl.LightningModule, workers: dict[str, Any]) -> Engine:
    engine.setup(module, WorkerPool(workers, 100), trainer())
    return engine


def weights(federated: FederatedModule) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in federated.module.state_dict().items()}


# ---- numbers by hand -------------------------------------------------------------------------------------------------


def test_each_worker_starts_from_the_global_model_in_the_cohorts_order(shared: Isolated) -> None:
    set_up(shared, Scalar(), {"bob": Rows([2.0]), "ann": Rows([6.0, 8.0]), "cyd": Rows([3.0])})
    assert list(run(shared, job(), ["ann", "bob", "cyd"]).items()) == [
        ("ann", [-7.0]),
        ("bob", [-2.0]),
        ("cyd", [-3.0]),
    ]


def test_another_fit_takes_another_module_in_the_same_children(shared: Isolated) -> None:
    set_up(shared, Scalar(), {"bob": Rows([2.0])})
    before = {child.pid for child in multiprocessing.active_children()}
    assert run(shared, job(), ["bob"]) == {"bob": [-2.0]}
    shared.teardown()
    set_up(shared, Scalar(lr=0.5), {"bob": Rows([3.0])})
    assert run(shared, job(), ["bob"]) == {"bob": [-1.5]}
    assert {child.pid for child in multiprocessing.active_children()} == before


def test_it_is_taken_by_name() -> None:
    assert isinstance(FederatedModule(Scalar(), engine="isolated").engine, Isolated)


@pytest.mark.parametrize("processes", [0, -1])
def test_no_processes_are_refused(processes: int) -> None:
    with pytest.raises(ValueError, match=f"processes={processes}: give at least one process, or None"):
        Isolated(processes=processes)


# ---- what a child holds ----------------------------------------------------------------------------------------------


class Marked(Dataset[Any]):
    """Rows that can be found by their owner."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return torch.ones(())


class MarkedData(pl.LightningDataModule):
    def __init__(self, owner: str) -> None:
        super().__init__()
        self.dataset = Marked(owner)

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=2)


class Searching(Scalar):
    """Logs how many data sets there are in its process."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        gc.collect()
        owners = [thing.owner for thing in gc.get_objects() if type(thing) is Marked]
        self.log("owners", float(len(set(owners))))
        self.log("process", float(os.getpid()))
        return super().training_step([batch], batch_idx)


def test_a_child_holds_no_data_but_its_workers() -> None:
    names = [f"w{i}" for i in range(4)]
    engine = set_up(Isolated(processes=1), Searching(), {name: MarkedData(name) for name in names})
    try:
        for number in range(2):
            for result in engine.run(job(number), names):
                assert isinstance(result, Updates)
                assert set(result.metrics["owners"].tolist()) == {1.0}
                assert os.getpid() not in result.metrics["process"].tolist()
    finally:
        engine.teardown()
    assert _others(multiprocessing.active_children()) == []


class Shared(pl.LightningDataModule):
    """A part of rows that lie in one tensor with everyone else's."""

    def __init__(self, dataset: Any) -> None:
        super().__init__()
        self.dataset = dataset

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=2)


def test_only_the_rows_of_a_worker_are_sent() -> None:
    rows = torch.arange(100_000, dtype=torch.float64).reshape(-1, 2)
    whole = TensorDataset(rows)
    parts = {
        "subset": Subset(whole, [4, 2]),
        "subset of a subset": Subset(Subset(whole, [2, 3, 4]), [2, 0]),
        "view": TensorDataset(rows[torch.tensor([4, 2])]),
        "slice": TensorDataset(rows[4:5]),
    }
    for kind, dataset in parts.items():
        sent = dumps(Shared(dataset), trainer())
        assert len(sent) < 5_000, kind
        received = loads(sent).dataset
        assert [received[i][0].tolist() for i in range(len(dataset))] == [
            dataset[i][0].tolist() for i in range(len(dataset))
        ]


# ---- failures --------------------------------------------------------------------------------------------------------


class Falling(Scalar):
    """Ends its process, or raises, where the data say so."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if (batch[0] == 13).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if (batch[0] == 7).any():
            raise LookupError("an unlucky number")
        return super().training_step(batch, batch_idx)


def test_a_child_that_is_killed_is_its_workers_error_and_the_others_go_on(shared: Isolated) -> None:
    data = {"ann": Rows([2.0]), "bob": Rows([13.0]), "cyd": Rows([4.0]), "dee": Rows([6.0])}
    federated = FederatedModule(Falling(), engine=shared, on_worker_error="drop")
    fit(federated, FederatedDataModule(data), max_epochs=2)
    (failure,) = federated.last_report.failures
    assert str(failure) == (
        "worker 'bob' failed in round 1: its process ended in the middle of its training: exit code -9"
    )
    assert federated.module.x.item() == 4.0  # of three workers in each of the two rounds


def test_an_exception_names_worker_round_and_its_text(shared: Isolated) -> None:
    set_up(shared, Falling(), {"ann": Rows([2.0]), "bob": Rows([7.0])})
    results = run(shared, job(5), ["ann", "bob"])
    assert results["ann"] == [-2.0]
    assert str(results["bob"]) == "worker 'bob' failed in round 5: LookupError: an unlucky number"
    assert "training_step" in str(results["bob"].__cause__)


def test_an_error_that_ends_the_fit_ends_the_children_too() -> None:
    federated = FederatedModule(Falling(), engine=Isolated(processes=1))
    with pytest.raises(WorkerError, match="worker 'bob' failed in round 0: LookupError: an unlucky number"):
        fit(federated, FederatedDataModule({"ann": Rows([2.0]), "bob": Rows([7.0])}))
    assert _others(multiprocessing.active_children()) == []


def _others(children: list[Any]) -> list[Any]:
    """Children but those of the engine that tests share."""
    return [child for child in children if child.name not in SHARED]


SHARED: set[str] = set()


@pytest.fixture(autouse=True)
def _note_shared() -> None:
    SHARED.clear()
    SHARED.update(child.name for child in multiprocessing.active_children())


@pytest.mark.slow
def test_children_of_a_persistent_engine_end_when_it_is_garbage() -> None:
    def leave_it() -> None:
        engine = Isolated(processes=1, persistent=True)
        set_up(engine, Scalar(), {"ann": Rows([2.0])})
        engine.teardown()
        assert len(_others(multiprocessing.active_children())) == 1

    leave_it()
    gc.collect()
    assert _others(multiprocessing.active_children()) == []


class Unpicklable(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.scale = lambda x: x


class UnpicklableRows(Rows):
    def __init__(self) -> None:
        super().__init__([1.0])
        self.scale = lambda x: x


def test_a_module_that_cannot_be_sent_is_refused(shared: Isolated) -> None:
    with pytest.raises(
        ValueError, match=r"Unpicklable cannot be sent to another process .*define classes and functions"
    ):
        set_up(shared, Unpicklable(), {"ann": Rows([1.0])})


def test_a_datamodule_that_cannot_be_sent_is_its_workers_error(shared: Isolated) -> None:
    set_up(shared, Scalar(), {"ann": Rows([1.0]), "bob": UnpicklableRows()})
    results = run(shared, job(), ["ann", "bob"])
    assert results["ann"] == [-1.0]
    told = r"worker 'bob' failed in round 0: its datamodule cannot be sent to another process .*define classes and"
    assert re.match(told, str(results["bob"]))


def test_hooks_of_parameters_are_not_lost_in_silence() -> None:
    module = Scalar()
    module.x.register_hook(_halved)
    with pytest.warns(UserWarning, match="the parameter 'x' of Scalar has a hook, which stays on the server"):
        set_up(Sequential(), module, {"ann": Rows([1.0])})


def _halved(gradient: Tensor) -> Tensor:
    return gradient / 2


UNGUARDED = """
import sys
sys.path[:0] = {path!r}
from helpers import Rows, Scalar, fit
from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Isolated
fit(FederatedModule(Scalar(), engine=Isolated(processes=1)), FederatedDataModule({{"ann": Rows([1.0])}}))
"""


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    tests = str(Path(__file__).parent.parent)
    script.write_text(UNGUARDED.format(path=[tests, *sys.path]))
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert ended.returncode
    assert "a child process ended as it started" in ended.stderr
    assert "a child process began the run again" in ended.stderr
    assert ended.stderr.count('`if __name__ == "__main__":`') > 1
    assert "can only join" not in ended.stderr


class Unreadable(Rows):
    """Rows that can be sent, and not read."""

    def __reduce__(self) -> Any:
        return _refuse_to_be_read, ()


def _refuse_to_be_read() -> Any:
    raise SystemExit("no such file")


class Elsewhere:
    """What a module may hold, and only its own process can read."""

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __reduce__(self) -> Any:
        return _look_for, ("gone",)


def _look_for(name: str) -> Any:
    raise LookupError(name)


def test_a_module_that_cannot_be_read_ends_the_run_with_what_to_do(shared: Isolated) -> None:
    module = Scalar()
    module.connection = Elsewhere()
    with pytest.raises(RuntimeError, match=r"could not start: LookupError: gone; .* must lie in a file that it can"):
        run(set_up(shared, module, {"ann": Rows([1.0])}), job(), ["ann"])


class Clinging(Rows):
    """Rows that cannot be let go of."""

    def teardown(self, stage: str) -> None:
        raise LookupError("still in use")


@pytest.mark.slow
def test_a_datamodule_that_cannot_be_read_is_its_workers_error(shared: Isolated) -> None:
    set_up(shared, Scalar(), {"ann": Rows([1.0]), "bob": Unreadable([2.0])})
    results = run(shared, job(), ["ann", "bob"])
    assert results["ann"] == [-1.0]
    assert "its datamodule cannot be read in another process (its code raised SystemExit" in str(results["bob"])


@pytest.mark.slow
def test_a_datamodule_that_cannot_be_let_go_of_has_trained(shared: Isolated) -> None:
    set_up(shared, Scalar(), {"ann": Clinging([1.0])})
    with pytest.warns(UserWarning, match=r"teardown\(\) of worker 'ann' failed: LookupError: still in use"):
        assert run(shared, job(), ["ann"]) == {"ann": [-1.0]}


# ---- workers that hang -----------------------------------------------------------------------------------------------


class Hanging(Rows):
    """Never comes to an end in a hook of the datamodule, or in a process of its loader; notes in which process."""

    def __init__(self, where: str, folder: Path) -> None:
        super().__init__([1.0, 1.0])
        self.where, self.folder = where, folder

    def setup(self, stage: str) -> None:
        self.hang("setup")

    def train_dataloader(self) -> Any:
        self.hang("train_dataloader")
        return DataLoader(HangingItems(self), num_workers=1) if self.where == "item" else super().train_dataloader()

    def hang(self, where: str) -> None:
        if where == self.where:
            (self.folder / str(os.getpid())).touch()
            time.sleep(1000)


class HangingItems(Dataset[Any]):
    def __init__(self, data: Hanging) -> None:
        self.data = data

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        self.data.hang("item")
        return (self.data.values[index],)


class Slow(Scalar):
    """Sleeps, or goes round for ever, where the data say so."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        while (batch[0] == 99).any():
            pass
        time.sleep(float(batch[0][0] == 5))
        return super().training_step(batch, batch_idx)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    try:
        return "\nState:\tZ" not in (Path("/proc") / str(pid) / "status").read_text()
    except FileNotFoundError:
        return False


def assert_hanging_is_dropped(shared: Isolated, bad: dict[str, Rows], folder: Path) -> None:
    federated = FederatedModule(Slow(), engine=shared, on_worker_error="drop", worker_timeout=3)
    data = {"ann": Rows([2.0]), **bad, "cyd": Rows([4.0]), "dee": Rows([6.0])}
    fit(federated, FederatedDataModule(data), max_epochs=1)
    assert [str(failure) for failure in federated.last_report.failures] == [
        f"worker {name!r} failed in round 0: it was still at work after worker_timeout=3 seconds, and its process was "
        "ended; see what its code waits for, or give it more time"
        for name in bad
    ]
    assert federated.module.x.item() == 4.0
    assert not any(is_alive(int(file.name)) for file in folder.iterdir())
    again = FederatedModule(Scalar(), engine=shared)  # without a limit, and in a child that has replaced another
    fit(again, FederatedDataModule({"ann": Rows([3.0]), "bob": Rows([5.0])}))
    assert again.module.x.item() == 4.0


@pytest.mark.slow
def test_a_worker_that_hangs_is_dropped_with_all_its_processes(shared: Isolated, tmp_path: Path) -> None:
    assert_hanging_is_dropped(shared, {"loop": Rows([99.0]), "item": Hanging("item", tmp_path)}, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_worker_may_hang_anywhere(shared: Isolated, tmp_path: Path) -> None:
    bad = {where: Hanging(where, tmp_path) for where in ("setup", "train_dataloader")}
    assert_hanging_is_dropped(shared, bad, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_time_of_a_worker_begins_with_its_work_and_not_with_its_waiting(shared: Isolated) -> None:
    """Ten workers of a second each, on two processes: the last has waited for four seconds."""
    federated = FederatedModule(Slow(), engine=shared, worker_timeout=3.5)
    fit(federated, FederatedDataModule({f"w{i}": Rows([5.0]) for i in range(10)}))
    assert federated.module.x.item() == 5.0


@pytest.mark.slow
def test_a_worker_that_hangs_ends_the_run_and_auto_trains_in_processes(caplog: pytest.LogCaptureFixture) -> None:
    engine = Auto()
    federated = FederatedModule(Slow(), engine=engine, worker_timeout=2)
    with pytest.raises(WorkerError, match=r"worker 'loop' failed in round 0: .*worker_timeout=2 seconds"):
        fit(federated, FederatedDataModule({"loop": Rows([99.0]), "ann": Rows([1.0])}))
    assert engine.choice == "isolated"
    assert federated.module.x.item() == 0.0
    assert _others(multiprocessing.active_children()) == []


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_other_engines_refuse_a_limit(engine: Any) -> None:
    with pytest.raises(ValueError, match=r'worker_timeout=2.5: \w+ trains workers in this process.*engine="isolated"'):
        FederatedModule(Scalar(), engine=engine, worker_timeout=2.5)


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (0, ValueError),
        (-1.0, ValueError),
        (math.nan, ValueError),
        (math.inf, ValueError),
        ("5", TypeError),
        (True, TypeError),
    ],
)
def test_a_limit_is_a_positive_number_of_seconds(seconds: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="worker_timeout="):
        FederatedModule(Scalar(), engine="isolated", worker_timeout=seconds)


ORPHANED = """
import os, signal, sys
sys.path[:0] = {path!r}
import test_isolated
from helpers import Rows, fit
from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Isolated
if __name__ == "__main__":
    from pathlib import Path
    data = FederatedDataModule({{"ann": test_isolated.Hanging("item", Path({folder!r}))}})
    fit(FederatedModule(test_isolated.Slow(), engine=Isolated(processes=1)), data)
"""


@pytest.mark.slow
def test_a_worker_that_hangs_does_not_outlive_the_server(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "pids"
    folder.mkdir()
    tests = str(Path(__file__).parent.parent)
    script.write_text(ORPHANED.format(path=[str(Path(__file__).parent), tests, *sys.path], folder=str(folder)))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    (pid,) = (int(file.name) for file in folder.iterdir())
    process.kill()
    process.wait()
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(pid)


# ---- what is said ----------------------------------------------------------------------------------------------------


class Noisy(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        warnings.warn("mind the step", stacklevel=1)
        return super().training_step(batch, batch_idx)


def test_warnings_and_changed_attributes_are_told_of_once(shared: Isolated) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        set_up(shared, Noisy(), {name: Rows([1.0]) for name in ("ann", "bob", "cyd")})
        for number in range(2):
            run(shared, job(number), ["ann", "bob", "cyd"])
    texts = [str(warning.message) for warning in told]
    assert texts.count("mind the step") == 1
    assert sum("attribute 'steps', which is set back" in text for text in texts) == 1


# ---- the same as Sequential ------------------------------------------------------------------------------------------


class Wide(Scalar):
    """An update of 300 kB, which goes through shared memory."""

    def __init__(self) -> None:
        super().__init__(lr=0.3)
        self.rest = nn.Parameter(torch.linspace(-1, 1, 75_000))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + (self.rest * batch[0].mean()).sin().sum()


def test_more_updates_are_kept_than_there_is_shared_memory_for(shared: Isolated) -> None:
    """A median keeps all of 24 workers' until the last has come, and there is room for eight of each child's."""

    def trained(engine: Engine) -> dict[str, Tensor]:
        torch.manual_seed(0)
        data = FederatedDataModule({f"w{i}": Rows([float(i), i + 0.5], batch_size=1) for i in range(24)})
        federated = FederatedModule(Wide(), engine=engine, aggregator=Median())
        fit(federated, data, max_epochs=2)
        return weights(federated)

    torch.testing.assert_close(trained(shared), trained(Sequential()), rtol=0, atol=0)


@pytest.mark.parametrize("make", [FedAvg, Scaffold, lambda: Ditto(lam=0.1)], ids=["FedAvg", "Scaffold", "Ditto"])
def test_as_many_bytes_travel(shared: Isolated, make: Any) -> None:
    travelled, leaves = [], []
    for engine in (shared, Sequential()):
        federated = FederatedModule(member("batch norm"), algorithm=make(), engine=engine)
        fit(federated, FederatedDataModule(cohort()), max_epochs=2)
        travelled.append((federated.last_report.bytes_down, federated.last_report.bytes_up))
        assert federated.leaves is not None
        leaves.append((federated.leaves.up[1:], federated.leaves.down, federated.leaves.stays))
    assert travelled[0] == travelled[1] > (0, 0)
    assert leaves[0] == leaves[1]


@pytest.mark.parametrize("make", [Scaffold, lambda: Ditto(lam=0.1)], ids=["Scaffold", "Ditto"])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_that_goes_on_here_is_one_that_was_never_interrupted(shared: Isolated, make: Any, tmp_path: Path) -> None:
    def trained(engine: Engine, rounds: int, path: Path | None = None) -> tuple[FederatedModule, pl.Trainer]:
        federated = FederatedModule(member("batch norm"), algorithm=make(), engine=engine)
        run = trainer(max_steps=rounds, max_epochs=-1)
        run.fit(federated, FederatedDataModule(cohort(), cohort_size=3), ckpt_path=path)
        return federated, run

    whole, _ = trained(Sequential(), 4)
    trained(shared, 2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = trained(shared, 4, tmp_path / "half.ckpt")
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    torch.testing.assert_close(resumed.own_state, whole.own_state, rtol=0, atol=0)
    assert whole.own_state


class Drawn(Rows):
    """Draws its rows as its loader is asked for: anew, where the Trainer reloads."""

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.rand(3, dtype=torch.float64)), batch_size=3)


class Epochs(Rows):
    """Rows that depend on the Trainer."""

    def train_dataloader(self) -> Any:
        assert self.trainer is not None
        return DataLoader(TensorDataset(self.values + self.trainer.current_epoch + self.trainer.global_step))


@pytest.mark.parametrize(("kind", "every"), [(Drawn, 0), (Drawn, 1), (Drawn, 2), (Epochs, 1)])
def test_loaders_are_asked_for_as_often(shared: Isolated, kind: type[Rows], every: int) -> None:
    found = []
    for engine in (shared, Sequential()):
        federated = FederatedModule(Scalar(), engine=engine)
        data = FederatedDataModule({"ann": kind([1.0]), "bob": kind([2.0])})
        fit(federated, data, max_epochs=3, reload_dataloaders_every_n_epochs=every)
        found.append(federated.module.x.item())
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_process_that_is_forked_from_the_parent_leaves_the_children_to_it() -> None:
    engine, data = Isolated(processes=1, persistent=True), FederatedDataModule({"ann": Rows([1.0])})
    try:
        fit(FederatedModule(Scalar(), engine=engine), data)
        forked = multiprocessing.get_context("fork").Process(target=engine.close)
        forked.start()
        forked.join()
        assert forked.exitcode == 0
        children = set(multiprocessing.active_children())
        fit(FederatedModule(Scalar(), engine=engine), data)
        assert set(multiprocessing.active_children()) == children
    finally:
        engine.close()
