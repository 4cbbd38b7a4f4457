"""Lightning's searches for a learning rate and a batch size: they are about the workers' own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Scaffold
from lightning_fed.optim import ExponentialDecay
from lightning_fed.privacy import CentralDP
from lightning_fed.record import read
from lightning_fed.server import tuner

pytestmark = pytest.mark.usefixtures("double")


class Two(Scalar):
    """As :class:`Scalar`, with a second parameter that has a tenth of its learning rate."""

    def __init__(self, lr: float = 0.5) -> None:
        super().__init__(lr)
        self.y = torch.nn.Parameter(torch.tensor(3.0))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx) + self.y**2 / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([{"params": [self.x]}, {"params": [self.y], "lr": self.lr / 10}], lr=self.lr)


class Notes(pl.Callback):
    """The server's learning rate before each round, and the global model after it."""

    def __init__(self) -> None:
        self.lrs: list[float] = []
        self.xs: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.lrs.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.xs.append(pl_module.x.item())


def one() -> FederatedDataModule:
    return FederatedDataModule({"a": rows()})


def rows() -> Rows:
    return Rows([8.0, 10.0])


def found(run: pl.Trainer, module: pl.LightningModule, data: Any, **options: Any) -> Any:
    options = {"num_training": 20, "max_lr": 3.0, **options}
    return pl.tuner.Tuner(run).lr_find(module, datamodule=data, **options)


def assert_results(actual: Any, expected: Any) -> None:
    """The rates are equal, and the losses to the float32 in which a round's loss is shown: 6e-8 of a number."""
    assert actual.results["lr"] == expected.results["lr"]
    torch.testing.assert_close(actual.results["loss"], expected.results["loss"], rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("mode", ["exponential", "linear"])
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_it_finds_what_it_finds_for_the_plain_module(mode: str, engine: Any) -> None:
    plain, module = Scalar(0.5), Scalar(0.5)
    expected = found(trainer(max_epochs=99), plain, rows(), mode=mode)
    actual = found(trainer(max_epochs=99), FederatedModule(module, engine=engine), one(), mode=mode)
    assert len(actual.results["lr"]) == 20
    assert_results(actual, expected)
    assert_equal(actual.suggestion(), expected.suggestion())
    assert module.lr == actual.suggestion() != 0.5
    assert module.x.item() == 0.0


def test_nor_is_the_servers_rate_varied_if_nothing_is_to_be_written() -> None:
    plain, module = Scalar(0.5), Scalar(0.5)
    expected = found(trainer(max_epochs=99), plain, rows(), update_attr=False)
    actual = found(trainer(max_epochs=99), FederatedModule(module), one(), update_attr=False)
    assert_results(actual, expected)
    assert module.lr == 0.5


def test_the_fit_after_it_has_the_rate_that_was_found_and_the_servers_own() -> None:
    module = Scalar(0.5)
    fed, run, notes = FederatedModule(module), trainer(max_epochs=99), Notes()
    lr = found(run, fed, one()).suggestion()
    run.fit_loop.max_epochs = 2
    run.callbacks.append(notes)
    run.fit(fed, one())
    assert notes.lrs == [1.0, 1.0]
    assert_equal(module.x.item(), 9 - 9 * (1 - lr) ** 2)


@pytest.mark.parametrize("scheduled", [False, True])
def test_the_callback_leaves_the_server_its_own_rate(scheduled: bool) -> None:
    """Lightning writes what it has found into the Trainer's optimizers, too."""
    module, notes = Scalar(0.5), Notes()
    search = pl.callbacks.LearningRateFinder(num_training_steps=20)
    halve = (lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5)) if scheduled else None
    fed = FederatedModule(module, server_lr_scheduler=halve)
    fit(fed, one(), max_epochs=25, callbacks=[search, notes])
    assert notes.lrs == [0.5**n if scheduled else 1.0 for n in range(25)]
    assert_equal(notes.xs[0], 9 * search.optimal_lr.suggestion())


class AtEpochs(pl.callbacks.LearningRateFinder):
    """Searches at the beginning of epochs, as in Lightning's documentation."""

    def on_fit_start(self, *_: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.lr_find(trainer, pl_module)


def test_a_search_between_epochs() -> None:
    module, notes = Scalar(0.5), Notes()
    search = AtEpochs(num_training_steps=20, max_lr=2.0, early_stop_threshold=None)
    run = trainer(max_epochs=30, callbacks=[search, notes])
    run.fit(FederatedModule(module, server_optimizer=lambda p: torch.optim.SGD(p, lr=0.5)), one())
    lr = search.optimal_lr.suggestion()
    assert module.lr == lr
    assert run.optimizers[0].param_groups[0]["lr"] == 0.5
    assert_equal(notes.xs[:2], [2.25, 2.25 + 0.5 * lr * (9 - 2.25)])


def test_groups_keep_their_ratio() -> None:
    """A round with the rate r: x moves by r · (9 - x), and y by r / 10 · (0 - y)."""
    seen: list[tuple[float, float]] = []

    class Notes(Two):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append((self.x.item(), self.y.item()))

    result = found(trainer(max_epochs=99), FederatedModule(Notes(), engine="sequential"), one(), max_lr=0.5)
    x, y = torch.tensor(0.0), torch.tensor(3.0)
    for lr, values in zip(result.results["lr"], seen, strict=True):
        assert_equal(torch.tensor(values), torch.stack([x, y]))
        x, y = x + lr * (9 - x), y - lr / 10 * y


def test_a_schedule_of_the_rounds_does_not_take_part() -> None:
    """As the scheduler of a plain module does not."""
    results = [
        found(trainer(max_epochs=99), FederatedModule(Scalar(0.5), local_lr_schedule=schedule), one()).results
        for schedule in (None, ExponentialDecay(0.5))
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_remembered_is_that_of_before(accumulate: int) -> None:
    def run(search: bool) -> Scalar:
        module = Scalar(0.5)
        fed = FederatedModule(module, algorithm=Scaffold(), local_steps=2)
        data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}, cohort_size=1, seed=3)
        runs = trainer(max_epochs=99, accumulate_grad_batches=accumulate)
        if search:
            found(runs, fed, data, update_attr=False)
        runs.fit_loop.max_epochs = 3
        runs.fit(fed, data)
        return module

    assert run(True).x.item() == run(False).x.item()


def test_another_server_optimizer_after_a_search() -> None:
    fed, run, notes = FederatedModule(Scalar(0.5)), trainer(max_epochs=99), Notes()
    found(run, fed, one())
    fed.server_optimizer = lambda p: torch.optim.Adam(p, lr=0.25)
    run.fit_loop.max_epochs = 1
    run.callbacks.append(notes)
    run.fit(fed, one())
    assert notes.lrs == [0.25]


def test_it_says_whose_rate_it_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(tuner, "rank_zero_info", lines.append)
    found(trainer(max_epochs=99), FederatedModule(Scalar(0.5)), one())
    (line,) = lines
    assert "the workers' own learning rate, which is 0.5 in Scalar; the server keeps its own" in line


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_a_search_under_a_promise_is_refused() -> None:
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}, cohort_size=1)
    fed = FederatedModule(Scalar(0.5), privacy=CentralDP(clip=1.0, noise_multiplier=1.0))
    with pytest.raises(ValueError, match=r"rounds that no account of CentralDP covers; search without privacy="):
        found(trainer(max_epochs=99), fed, data)
    assert fed.private_run is None


def test_a_search_while_schedules_go_on_is_refused() -> None:
    with pytest.raises(ValueError, match=r"local_schedule='continue'; search without it, and then train with it"):
        found(trainer(max_epochs=99), FederatedModule(Scalar(0.5), local_schedule="continue"), one())


def test_a_search_needs_one_optimizer() -> None:
    class Manual(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(self.parameters(), lr=0.1) for _ in range(2)]

    with pytest.raises(ValueError, match=r"needs one optimizer, and Manual\.configure_optimizers\(\) gives 2"):
        found(trainer(max_epochs=99), FederatedModule(Manual()), one())


def test_a_module_without_a_rate_to_multiply_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the learning rate that Scalar\.configure_optimizers\(\) sets, which is 0;"):
        found(trainer(max_epochs=99), FederatedModule(Scalar(0.0)), one())


def test_nor_is_there_a_rate_that_is_none() -> None:
    class OfNone(Scalar):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
            optimizer.param_groups[0]["lr"] = None
            return optimizer

    with pytest.raises(
        ValueError, match=r"the learning rate of SGD is None, which a search cannot multiply: give it one"
    ):
        found(trainer(max_epochs=99), FederatedModule(OfNone()), one())


class Evaluated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    test_step = predict_step = validation_step


class Sized(Evaluated):
    """Has a batch size that no loader looks at; Lightning searches for one on the module, too."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 4


FINDS: dict[str, Callable[[pl.Trainer, FederatedModule, FederatedDataModule, str], Any]] = {
    "Tuner": lambda run, fed, data, what: pl.tuner.Tuner(run).scale_batch_size(fed, datamodule=data, method=what),  # type: ignore[arg-type]
    "callback": lambda run, fed, data, what: (
        run.callbacks.append(pl.callbacks.BatchSizeFinder()),  # type: ignore[attr-defined]
        getattr(run, what)(fed, data),
    ),
}


@pytest.mark.parametrize("find", FINDS)
@pytest.mark.parametrize("what", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("module", [Evaluated, Sized])
def test_a_search_for_a_batch_size_is_refused(find: str, what: str, module: type[Scalar]) -> None:
    data = FederatedDataModule({"a": EvaluatedRows([1.0])})
    with pytest.raises(ValueError, match=r"cannot find a batch size here: .* search with a plain Trainer"):
        FINDS[find](trainer(), FederatedModule(module()), data, what)


def test_rounds_of_a_search_are_none_of_the_run(tmp_path: Path) -> None:
    """Neither in what the module remembers nor in what lies in the logger's folder, before a fit and in it."""
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    fed, data = FederatedModule(Scalar()), FederatedDataModule({"a": Rows([8.0]), "b": Rows([1.0])})
    run = trainer(max_epochs=3, logger=logger, default_root_dir=str(tmp_path / "root"))
    pl.tuner.Tuner(run).lr_find(fed, data, num_training=20, max_lr=3.0)
    assert len(fed.history) == 0
    assert not [path for path in (tmp_path / "run").glob("*") if not path.name.startswith(("events", "hparams"))]
    run.fit(fed, data)
    record = read(tmp_path / "run")
    assert [row["round"] for row in fed.history] == [line["round"] for line in record.rounds] == [0, 1, 2]
    assert [(entry["round"], entry["rounds"]) for entry in record.run["fits"]] == [(0, 3)]
    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [event.step for event in events.Scalars("at_end/megabytes")] == [2]
