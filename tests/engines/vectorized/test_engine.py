from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import TRUSTED, Rows, Scalar, fit, trainer
from parity import RAGGED, assert_same, by_worker, job_for, needs_compiled_stacks, needs_compiler
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from zoo import NETS, OPTIMIZERS, Points, Recurrent, Zoo

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.engines import Auto, Engine, Sequential, Vectorized
from lightning_fed.engines import auto as auto_engine
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.vectorized import compiled
from lightning_fed.population import WorkerPool
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates, WorkerError

pytestmark = pytest.mark.usefixtures("double")


def engine_for(engine: Engine, module: pl.LightningModule, workers: dict[str, Any]) -> Engine:
    engine.setup(module, WorkerPool(workers, 100), trainer())
    return engine


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is told to the user."""
    lines: list[str] = []
    for module in (auto_engine, compiled):
        monkeypatch.setattr(module, "rank_zero_info", lines.append)
    return lines


# ---- what cannot be trained together is refused, with the reason -----------------------------------------------------


class Hooked(Zoo):
    def on_after_backward(self) -> None:
        pass


REFUSED: dict[str, tuple[Any, str]] = {
    "lstm": (lambda: Zoo(Recurrent()), r"Zoo.net.lstm is a LSTM, which torch.vmap cannot run"),
    "lbfgs": (
        lambda: Zoo(nn.Linear(8, 3), torch.optim.LBFGS),
        "gives a LBFGS, which does not go element by element",
    ),
    "hook": (lambda: Hooked(nn.Linear(8, 3)), r"Hooked.on_after_backward\(\) is called for one worker at a time"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_module_that_needs_one_worker_at_a_time_is_refused_at_the_start(kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(UnvectorizableError, match=message):
        engine_for(Vectorized(), make(), RAGGED)


def test_half_precision_with_a_scaler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer()
    monkeypatch.setattr(run.precision_plugin, "precision", "16-mixed")
    with pytest.raises(UnvectorizableError, match="16-mixed"):
        Vectorized().setup(Zoo(nn.Linear(8, 3)), WorkerPool(RAGGED, 10), run)


class Reading(Zoo):
    """Computes with a number out of its data."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return super().training_step([x * x.mean().item(), y], batch_idx)


class Rolling(Zoo):
    """Draws from generators that all workers share."""

    def __init__(self, numpy: bool) -> None:
        super().__init__(nn.Linear(8, 3))
        self.numpy = numpy

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        np.random.rand() if self.numpy else random.random()
        return super().training_step(batch, batch_idx)


class Skipping(Zoo):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 1 else loss


class Arithmetic(Zoo):
    """Computes with the value of a metric."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.accuracy is not None
        self.log("error", 1 - self.accuracy(self.net(batch[0]), batch[1]))
        return super().training_step(batch, batch_idx)


FAILING: dict[str, tuple[Any, str]] = {
    "data-dependent": (lambda: Reading(nn.Linear(8, 3)), "training_step reads a number out of a tensor"),
    "python's generator": (lambda: Rolling(numpy=False), "draws from Python's or NumPy's generator"),
    "numpy's generator": (lambda: Rolling(numpy=True), "draws from Python's or NumPy's generator"),
    "skipped step": (lambda: Skipping(nn.Linear(8, 3)), "training_step returned None to skip a step"),
    "metric's value": (lambda: Arithmetic(nn.Linear(8, 3), metrics=True), "TypeError: unsupported operand"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_step_that_needs_one_worker_at_a_time_fails_in_words(kind: str) -> None:
    make, message = FAILING[kind]
    module = make()
    results = list(engine_for(Vectorized(), module, RAGGED).run(job_for(module, LocalTraining()), list(RAGGED)))
    failures = [result for result in results if isinstance(result, WorkerError)]
    assert failures
    assert all(message in str(failure) for failure in failures)


def test_a_normal_number_that_numpy_has_left_over_is_a_draw_as_well() -> None:
    class Takes(Zoo):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 0:
                np.random.randn()
            return super().training_step(batch, batch_idx)

    module = Takes(nn.Linear(8, 3))
    engine = engine_for(Vectorized(), module, RAGGED)
    np.random.randn()  # draws two and keeps one
    results = list(engine.run(job_for(module, LocalTraining()), list(RAGGED)))
    assert all("draws from Python's or NumPy's generator" in str(result) for result in results)


@pytest.mark.filterwarnings("ignore:`training_step` returned")
@pytest.mark.parametrize("kind", FAILING)
def test_auto_goes_on_one_by_one_and_says_why(kind: str, said: list[str]) -> None:
    module = FAILING[kind][0]()
    auto = Auto()
    assert_same(module, RAGGED, engine=auto)
    assert auto.choice == "sequential"
    assert "cannot be stacked" in "".join(said)


@pytest.mark.parametrize("kind", REFUSED)
def test_auto_starts_one_by_one_and_says_why(kind: str, said: list[str]) -> None:
    make, _ = REFUSED[kind]
    auto = Auto()
    assert_same(make(), RAGGED, engine=auto)
    assert auto.choice == "sequential"
    assert 'engine="auto": sequential, because' in "".join(said)


# ---- the rule of auto ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("net", "choice"), [("mlp", "vectorized"), ("attention", "vectorized"), ("cnn", "sequential")])
def test_auto_on_a_cpu_keeps_convolutions_sequential(net: str, choice: str) -> None:
    assert engine_for(Auto(), Zoo(NETS[net]()), RAGGED).choice == choice


def test_auto_trains_few_workers_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    auto = engine_for(Auto(), Zoo(nn.Linear(8, 3)), RAGGED)
    job = job_for(Zoo(nn.Linear(8, 3)), LocalTraining())
    together: list[int] = []
    run = Vectorized.run

    def noting(self: Vectorized, job: Job, cohort: Any) -> Any:
        together.append(len(cohort))
        return run(self, job, cohort)

    monkeypatch.setattr(Vectorized, "run", noting)
    list(auto.run(job, ["a", "b", "c"]))
    assert together == []
    list(auto.run(job, ["a", "b", "c", "d"]))
    assert together == [4]


@pytest.mark.parametrize(
    ("sizes", "local", "is_together"),
    [
        pytest.param((40, 8, 8, 8, 8), LocalTraining(), False, id="1.8 at a time"),
        pytest.param((12, 8, 8, 8, 8), LocalTraining(), True, id="3.7 at a time"),
        pytest.param((40, 8, 8, 8, 8), LocalTraining(steps=2), True, id="as many steps for all"),
    ],
)
def test_auto_trains_uneven_workers_one_by_one(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[int, ...], local: LocalTraining, is_together: bool
) -> None:
    workers = {str(i): Points(i, size) for i, size in enumerate(sizes)}
    auto = engine_for(Auto(), Zoo(nn.Linear(8, 3)), workers)
    together: list[int] = []
    monkeypatch.setattr(Vectorized, "run", lambda self, job, cohort: together.append(len(cohort)) or iter(()))
    list(auto.run(job_for(Zoo(nn.Linear(8, 3)), local), list(workers)))
    assert together == ([5] if is_together else [])


def test_auto_does_not_look_at_every_worker_of_a_large_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would build more workers than are kept, only to build them again for training."""
    monkeypatch.setattr(auto_engine, "_LARGEST_LOOKED_AT", 4)
    workers = {str(i): Points(i, size) for i, size in enumerate((40, 8, 8, 8, 8))}
    auto = engine_for(Auto(), Zoo(nn.Linear(8, 3)), workers)
    together: list[int] = []
    monkeypatch.setattr(Vectorized, "run", lambda self, job, cohort: together.append(len(cohort)) or iter(()))
    list(auto.run(job_for(Zoo(nn.Linear(8, 3)), LocalTraining()), list(workers)))
    assert together == [5]


def test_a_resumed_run_goes_on_as_it_was(said: list[str]) -> None:
    auto = Auto()
    auto.resume("sequential")
    engine_for(auto, Zoo(nn.Linear(8, 3)), RAGGED)
    assert auto.choice == "sequential"
    assert "the run that wrote the checkpoint did so" in "".join(said)
    assert engine_for(auto, Zoo(nn.Linear(8, 3)), RAGGED).choice == "vectorized"  # a new run decides for itself


def test_the_choice_is_in_the_checkpoint_and_comes_back(tmp_path: Any) -> None:
    data = {name: Points(i, 6) for i, name in enumerate("abcd")}
    first = FederatedModule(Reading(nn.Linear(8, 3)))
    run = fit(first, FederatedDataModule(data), max_epochs=1)
    run.save_checkpoint(tmp_path / "run.ckpt")
    assert torch.load(tmp_path / "run.ckpt", **TRUSTED)["lightning_fed"]["engine"] == "sequential"
    again = FederatedModule(Zoo(nn.Linear(8, 3)))
    resumed = trainer(max_epochs=2)
    resumed.fit(again, FederatedDataModule(data), ckpt_path=tmp_path / "run.ckpt", **TRUSTED)
    assert again.engine.choice == "sequential"


# ---- a worker that fails ---------------------------------------------------------------------------------------------


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        for _ in range(6):
            yield torch.randn(8, generator=generator), torch.tensor(1)


class Streamed(Points):
    def train_dataloader(self) -> Any:
        return DataLoader(Stream(), batch_size=2)


def test_a_stream_is_trained_by_itself_and_the_others_together(said: list[str]) -> None:
    auto = Auto()
    assert_same(Zoo(nn.Linear(8, 3)), {**RAGGED, "s": Streamed(0, 1), "t": Streamed(0, 1)}, engine=auto)
    assert auto.choice == "vectorized"
    assert "".join(said).count("the number of batches of worker 's' is not known beforehand") == 1


class BadLabels(Points):
    def __init__(self) -> None:
        super().__init__(0, 6)
        self.rows.tensors[1][3] = 77


class Broken(Points):
    def train_dataloader(self) -> Any:
        raise OSError("disk")


@pytest.mark.parametrize("engine", [Vectorized(), Auto()], ids=["vectorized", "auto"])
@pytest.mark.parametrize(("bad", "message"), [(BadLabels(), "77"), (Broken(0, 1), "OSError: disk")])
def test_the_worker_whose_data_fails_is_named_and_the_others_train(
    engine: Engine, bad: pl.LightningDataModule, message: str
) -> None:
    module = Zoo(NETS["mlp"]())
    workers = {**RAGGED, "bad": bad}
    job = job_for(module, LocalTraining())
    results = list(engine_for(engine, module, workers).run(job, list(workers)))
    (failure,) = [result for result in results if isinstance(result, WorkerError)]
    assert failure.worker == "bad"
    assert message in str(failure)
    assert {name for result in results if isinstance(result, Updates) for name in result.workers} == set(RAGGED)
    assert engine.choice in (None, "vectorized")


# ---- chunks ----------------------------------------------------------------------------------------------------------


def test_chunks_are_as_even_as_possible_and_bounded() -> None:
    data = {f"w{i}": Rows([float(i)]) for i in range(10)}
    engine = engine_for(Vectorized(chunk_size=4), Scalar(), data)
    job = Job(0, 0, 0, GlobalModel({"x": torch.tensor(0.0)}), LocalTraining())
    results = list(engine.run(job, list(data)))
    assert [len(result.workers) for result in results] == [3, 4, 3]  # type: ignore[union-attr]
    assert list(engine.run(job, [])) == []


@pytest.mark.parametrize(("numbers", "chunk"), [(10, 1024), (2**20, 4), (2**26, 1)])
def test_a_chunk_fits_a_budget_of_memory(numbers: int, chunk: int) -> None:
    from lightning_fed.engines.vectorized.engine import _fitting

    assert (
        _fitting(Job(0, 0, 0, GlobalModel({"w": torch.empty(numbers, dtype=torch.float32)}), LocalTraining())) == chunk
    )


def test_a_chunk_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="chunk_size=0"):
        Vectorized(chunk_size=0)


# ---- compiled --------------------------------------------------------------------------------------------------------


@needs_compiler
@needs_compiled_stacks
@pytest.mark.slow
@pytest.mark.parametrize("net", ["idle layer", "batch norm"])
def test_a_compiled_run_gives_the_same(net: str, said: list[str]) -> None:
    torch.manual_seed(0)
    workers = {name: Points(i, 8) for i, name in enumerate("abcd")}
    module = Zoo(NETS[net](), OPTIMIZERS["weight decay"], metrics=True)
    assert_same(module, workers, LocalTraining(epochs=3), Vectorized(compile=True))
    assert "compile=True: compiling a step of 4 workers took" in "".join(said)


@pytest.mark.slow
@needs_compiler
@needs_compiled_stacks
def test_modules_of_other_widths_do_not_make_the_sizes_variable(said: list[str]) -> None:
    for count, width in ((3, 5), (4, 6)):
        torch.manual_seed(0)
        workers = {f"w{i}": Points(i, 8) for i in range(count)}
        module = Zoo(nn.Sequential(nn.Linear(8, width), nn.BatchNorm1d(width), nn.Linear(width, 3)))
        assert_same(module, workers, LocalTraining(epochs=3), Vectorized(compile=True))
        assert f"compile=True: compiling a step of {count} workers took" in "".join(said)


def test_what_draws_random_numbers_runs_uncompiled_and_says_so() -> None:
    torch.manual_seed(0)
    module = Zoo(nn.Sequential(nn.Linear(8, 6), nn.Dropout(0.5), nn.Linear(6, 3)))
    with pytest.warns(UserWarning, match="compile=True is given up.*draws random numbers"):
        compiled = by_worker(Vectorized(compile=True), module, RAGGED, LocalTraining())
    torch.testing.assert_close(compiled, by_worker(Vectorized(), module, RAGGED, LocalTraining()), rtol=0, atol=0)


def test_what_cannot_be_compiled_runs_uncompiled_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def program(*_: Any) -> Any:
            raise RuntimeError("no compiler")

        return program

    monkeypatch.setattr(torch, "compile", broken)
    for engine in (Sequential(compile=True), Vectorized(compile=True)):
        with pytest.warns(UserWarning, match="compile=True is given up.*no compiler"):
            assert_same(Zoo(NETS["linear"]()), RAGGED, LocalTraining(epochs=2), engine)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # from torch.compile
@pytest.mark.parametrize(
    "options",
    [{"channels_last": True}, pytest.param({"compile": True}, marks=[needs_compiler, pytest.mark.slow])],
    ids=str,
)
def test_a_sequential_run_with_options_gives_the_same(options: dict[str, bool]) -> None:
    torch.manual_seed(0)
    net = "cnn" if "channels_last" in options else "linear"
    workers = {name: Points(i, 8) for i, name in enumerate("abcd")}
    assert_same(Zoo(NETS[net](), metrics=True), workers, LocalTraining(epochs=2), Sequential(**options))


def test_workers_that_are_let_go_before_their_chunk_trains_are_not_built_again() -> None:
    built: list[str] = []

    class Counted(Points):
        def train_dataloader(self) -> Any:
            built.append("one")
            return super().train_dataloader()

    workers = {f"w{i}": Counted(i, 6) for i in range(5)}
    module = Zoo(nn.Linear(8, 3))
    engine = Vectorized()
    engine.setup(module, WorkerPool(workers, 2), trainer())
    list(engine.run(job_for(module, LocalTraining()), list(workers)))
    assert len(built) == 5


# ---- data that are kept at hand --------------------------------------------------------------------------------------


class Doubles(pl.Callback):
    """Writes to the workers' data after every round."""

    def __init__(self, workers: dict[str, Rows]) -> None:
        self.workers = workers

    def on_train_batch_end(self, *_: Any) -> None:
        for rows in self.workers.values():
            rows.values.mul_(2)


def test_rows_that_are_written_to_between_rounds_are_copied_again() -> None:
    """Steps go half of the way to the mean: from 0 to 6, then from 3 to 12."""
    workers = {name: Rows([value]) for name, value in (("a", 5.0), ("b", 7.0))}
    federated = FederatedModule(module := Scalar(lr=0.5), engine=Vectorized())
    fit(federated, FederatedDataModule(workers), max_epochs=2, callbacks=[Doubles(workers)])
    assert module.x.item() == pytest.approx(7.5)
