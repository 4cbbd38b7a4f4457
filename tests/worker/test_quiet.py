"""Under a promise, and where the server sees sums only, nothing that a worker's code logs by the Trainer is shown."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import fit
from private import Net, Points, people
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean
from lightning_fed.engines import Vectorized
from lightning_fed.engines.remarks import Remarks
from lightning_fed.population import quiet_trainer
from lightning_fed.privacy import CentralDP, DistributedDP, LocalDP, RecordDP
from lightning_fed.secure import SecureAggregation

SECRET = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp")
SHOWN = CentralDP(1.0, 1.0, delta=1e-5, accountant="rdp", release_metrics=True)


class Experiment:
    def __init__(self) -> None:
        self.names: list[str] = []

    def add_scalar(self, name: str, *_: Any) -> None:
        self.names.append(name)


class Everything(DummyLogger):
    """Keeps the names of all that is logged, in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = Experiment()

    @property
    def experiment(self) -> Any:
        return self.mine

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.mine.names += list(metrics)


class Callback(pl.Callback):
    """Something to leave values with."""

    def __init__(self) -> None:
        self.left: dict[str, Any] = {}


def by_logger(trainer: Any, module: Any, value: float) -> None:
    (trainer if module is None else module).logger.log_metrics({"secret": value}, step=0)


def by_loggers(trainer: Any, module: Any, value: float) -> None:
    for logger in trainer.loggers:
        logger.log_metrics({"secret": value})


def by_experiment(trainer: Any, module: Any, value: float) -> None:
    trainer.logger.experiment.add_scalar("secret", value, 0)


def by_metrics(trainer: Any, module: Any, value: float) -> None:
    for metrics in (trainer.callback_metrics, trainer.logged_metrics, trainer.progress_bar_metrics):
        metrics["secret"] = torch.tensor(value)


def by_callback(trainer: Any, module: Any, value: float) -> None:
    for callback in trainer.callbacks:
        if isinstance(callback, Callback):
            callback.left["secret"] = value


def by_print(trainer: Any, module: Any, value: float) -> None:
    trainer.print("secret", value)


def by_its_own_print(trainer: Any, module: Any, value: float) -> None:
    module.print("secret", value)


WAYS = [by_logger, by_loggers, by_experiment, by_metrics, by_callback, by_print, by_its_own_print]
HOOKS = ["training_step", "on_train_batch_end", "on_train_epoch_end", "on_after_batch_transfer"]


class Loud(Net):
    """Shows a number of its data in one hook of local training."""

    def __init__(self, way: Any, hook: str) -> None:
        super().__init__()
        self.way, self.hook = way, hook

    def _show(self, hook: str, result: Any = None) -> Any:
        if hook == self.hook and self.trainer.training:
            self.way(self.trainer, self, 42.0)
        return result

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self._show("training_step", super().training_step(batch, batch_idx))

    def on_train_batch_end(self, *_: Any) -> None:
        self._show("on_train_batch_end")

    def on_train_epoch_end(self) -> None:
        self._show("on_train_epoch_end")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._show("on_after_batch_transfer", batch)


class LoudPoints(Points):
    """Shows one in its own hooks."""

    way: Any = None

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        type(self).way(self.trainer, None, 42.0)
        return batch


def shown(module: pl.LightningModule, data: FederatedDataModule, capsys: Any, **options: Any) -> bool:
    """Whether the number is seen anywhere."""
    logger, callback = Everything(), Callback()
    done = fit(
        FederatedModule(module, **options), data, max_steps=1, logger=logger, callbacks=[callback], log_every_n_steps=1
    )
    places = [*logger.mine.names, *callback.left, *done.callback_metrics, *done.progress_bar_metrics]
    return "secret" in places or "secret" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.*release_metrics=True", "ignore:.*changes the module's attribute")
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("hook", HOOKS)
def test_what_a_worker_shows_by_the_trainer_is_seen_only_if_it_is_released(way: Any, hook: str, capsys: Any) -> None:
    data = FederatedDataModule(people(2))
    assert not shown(Loud(way, hook), data, capsys, privacy=SECRET)
    if way is not by_metrics:  # its dictionaries are filled anew by the Trainer
        assert shown(Loud(way, hook), data, capsys, privacy=SHOWN)
        assert shown(Loud(way, hook), data, capsys)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    "privacy",
    [
        LocalDP(1.0, 1.0, delta=1e-5, accountant="rdp"),
        DistributedDP(1.0, 1, 1.0, delta=1e-5, accountant="rdp"),
        RecordDP(clip=1.0, sampling_rate=0.5, delta=1e-5, noise_multiplier=1.0, accountant="rdp"),
    ],
    ids=lambda p: type(p).__name__,
)
def test_whatever_is_promised(privacy: Any, capsys: Any) -> None:
    assert not shown(Loud(by_logger, "training_step"), FederatedDataModule(people(2)), capsys, privacy=privacy)


class LoudStep(Net):
    """Shows one in its step alone, so that it can be stacked."""

    def __init__(self, way: Any) -> None:
        super().__init__()
        self.way = way

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.way(self.trainer, self, 42.0)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize("way", [by_logger, by_experiment, by_callback, by_print], ids=lambda way: way.__name__)
def test_secure_aggregation_hides_as_much(way: Any, engine: Any, capsys: Any) -> None:
    options: dict[str, Any] = {"aggregator": UniformMean(), "engine": engine}
    secure = SecureAggregation(clip=9.0)
    assert not shown(LoudStep(way), FederatedDataModule(people(2)), capsys, secure_aggregation=secure, **options)
    assert shown(LoudStep(way), FederatedDataModule(people(2)), capsys, **options)


@pytest.mark.parametrize("engine", ["sequential", "auto", "isolated"], indirect=True)
def test_on_every_engine(engine: Any, capsys: Any) -> None:
    module = Loud(by_logger, "training_step")
    assert not shown(module, FederatedDataModule(people(4)), capsys, privacy=SECRET, engine=engine)


@pytest.mark.filterwarnings("ignore:.*release_metrics=True")
@pytest.mark.parametrize("way", [by_logger, by_loggers, by_experiment, by_callback], ids=lambda way: way.__name__)
def test_a_workers_datamodule_is_as_quiet(way: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoudPoints, "way", way)
    if way is by_logger:
        monkeypatch.setattr(LoudPoints, "way", lambda trainer, _, value: by_logger(trainer, trainer, value))
    data = FederatedDataModule(people(2, LoudPoints))
    assert not shown(Net(), data, capsys, privacy=SECRET)
    assert shown(Net(), data, capsys, privacy=SHOWN)


def test_that_something_is_kept_from_view_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    lines: list[str] = []
    monkeypatch.setattr(quiet_trainer, "rank_zero_info", lines.append)
    fed = FederatedModule(Loud(by_logger, "training_step"), privacy=SECRET, engine="sequential")
    fit(fed, FederatedDataModule(people(3)), max_steps=2, logger=CSVLogger(tmp_path))
    (line,) = lines
    assert "a promise of privacy without release_metrics=True, what it logs there is not shown; use self.log" in line


# ---- engine="auto" ---------------------------------------------------------------------------------------------------


class Picky(Net):
    """Cannot be stacked: its code asks for a number of a worker's data, which is another one for each."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * 2 if batch[0].abs().sum().item() > 1e-9 else loss


@pytest.mark.filterwarnings("ignore:.*release_metrics=True")
def test_auto_says_nothing_of_workers_under_a_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr("lightning_fed.engines.auto.rank_zero_info", lines.append)
    choices = {}
    for name, privacy in (("secret", SECRET), ("shown", SHOWN), ("open", None)):
        lines.clear()
        fed = FederatedModule(Picky(), privacy=privacy)
        fit(fed, FederatedDataModule(people(5)), max_steps=2)
        choices[name] = (fed.engine.choice, any("worker '" in line for line in lines))
    assert choices == {"secret": ("vectorized", False), "shown": ("sequential", True), "open": ("sequential", True)}


def test_uneven_workers_do_not_change_how_others_train(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rule 5 looks at numbers of batches."""
    stacked: list[int] = []
    run = Vectorized.run

    def noted(self: Any, job: Any, cohort: Any) -> Any:
        stacked.append(len(cohort))
        return run(self, job, cohort)

    monkeypatch.setattr(Vectorized, "run", noted)
    workers = {f"w{i}": Points(i, n=30 if i == 0 else 3) for i in range(4)}
    fit(FederatedModule(Net()), FederatedDataModule(workers), max_steps=1)
    assert stacked == []
    fit(FederatedModule(Net(), privacy=SECRET), FederatedDataModule(workers), max_steps=1)
    assert stacked == [4]


def test_remarks_are_made_of_code_and_not_of_workers_data() -> None:
    silent, loud = Remarks(), Remarks()
    silent.silent = True
    silent.unread(["accuracy"])  # a warning would be an error here
    with pytest.warns(UserWarning, match="accuracy"):
        loud.unread(["accuracy"])
