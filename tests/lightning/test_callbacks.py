"""Every callback of Lightning on a federated run, by hand: a round takes x half of the way to 6 (``halfway``).

``docs/lightning.md`` has a row for each, which names its test here or elsewhere.
"""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from halfway import Evaluated, after, pair
from helpers import EvaluatedRows, Scalar, assert_equal, averaging, trainer
from pytorch_lightning import callbacks
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule

pytestmark = pytest.mark.usefixtures("double")


def run(
    *given: pl.Callback, module: Evaluated | None = None, rounds_per_epoch: int = 1, **options: Any
) -> tuple[Evaluated, pl.Trainer]:
    module = module or Evaluated()
    started = trainer(**{"max_epochs": 6, "callbacks": list(given), **options})
    started.fit(FederatedModule(module), pair(rounds_per_epoch))
    return module, started


def loss_of(rounds: int) -> float:
    """The mean squared distance to the rows after so many rounds."""
    return sum((after(rounds) - row) ** 2 for row in (3, 5, 7, 9)) / 4


# ---- hooks -----------------------------------------------------------------------------------------------------------


HOOKS = sorted(name for name in vars(pl.Callback) if name.startswith("on_") or name in ("setup", "teardown"))


class Notes(pl.Callback):
    """Notes which of its hooks are called."""

    def __init__(self) -> None:
        self.called: list[str] = []


def _noting(name: str) -> Any:
    def hook(self: Notes, *_: Any, **__: Any) -> None:
        self.called.append(name)

    return hook


for _name in HOOKS:
    setattr(Notes, _name, _noting(_name))


def test_hooks_of_callbacks_are_called_in_a_plain_trainers_order(tmp_path: Path) -> None:
    """With one worker and one batch a round is an epoch; so each hook's calls are those of a plain Trainer."""

    def called(module: pl.LightningModule, data: Any) -> list[str]:
        notes = Notes()
        run = trainer(max_epochs=2, callbacks=[notes])
        run.fit(module, data)
        run.save_checkpoint(tmp_path / "a.ckpt")
        run.validate(module, data, verbose=False)
        run.test(module, data, verbose=False)
        run.predict(module, data)
        trainer(max_epochs=3, callbacks=[notes]).fit(module, data, ckpt_path=tmp_path / "a.ckpt")
        return notes.called

    rows = EvaluatedRows([3.0, 5.0])
    plain = called(Evaluated(), rows)
    assert set(plain) == set(HOOKS) - {"on_exception"}
    assert called(FederatedModule(Evaluated()), FederatedDataModule({"a": rows})) == plain


def test_hooks_of_callbacks_around_the_servers_step_see_the_aggregated_update() -> None:
    class Gradients(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
            self.seen.append(pl_module.x.grad.item())

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            assert optimizer.param_groups[0]["lr"] == 1.0
            self.seen.append(pl_module.x.grad.item())

    run(gradients := Gradients(), max_epochs=1)
    assert gradients.seen == [-3.0, -3.0]


def test_an_exception_reaches_callbacks() -> None:
    class Fails(Evaluated):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            raise ValueError("no")

    notes = Notes()
    with pytest.raises(RuntimeError, match="worker 'a' failed in round 0: ValueError: no"):
        run(notes, module=Fails())
    assert notes.called[-1] == "on_exception"


def test_a_callbacks_own_state_is_in_the_checkpoint(tmp_path: Path) -> None:
    class Counts(pl.Callback):
        rounds = 0

        def on_train_batch_end(self, *_: Any) -> None:
            self.rounds += 1

        def state_dict(self) -> dict[str, Any]:
            return {"rounds": self.rounds}

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self.rounds = state_dict["rounds"]

    _, started = run(Counts(), max_epochs=3)
    started.save_checkpoint(tmp_path / "a.ckpt")
    counts = Counts()
    trainer(max_epochs=5, callbacks=[counts]).fit(FederatedModule(Evaluated()), pair(), ckpt_path=tmp_path / "a.ckpt")
    assert counts.rounds == 5


# ---- when to end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("monitor", ["val_loss", "train_loss", "loss"])
def test_early_stopping_watches_any_name_that_is_logged(monitor: str) -> None:
    """The losses fall, so by ``mode="max"`` the first is the best, and after two more it is over."""
    at_end = {"check_on_train_epoch_end": monitor != "val_loss"}
    _, started = run(callbacks.EarlyStopping(monitor, patience=2, mode="max", **at_end))
    assert started.global_step == 3


def test_early_stopping_at_a_threshold() -> None:
    _, started = run(callbacks.EarlyStopping("val_loss", stopping_threshold=loss_of(4) + 0.01, patience=99))
    assert started.global_step == 4


def test_timer_ends_the_fit_between_two_rounds() -> None:
    timer = callbacks.Timer(duration=timedelta(seconds=0.5))
    module, started = run(timer, max_epochs=-1)
    assert timer.time_elapsed("train") >= 0.5
    assert_equal(module.x.item(), after(started.global_step))


def test_spike_detection_watches_the_cohorts_mean_loss(tmp_path: Path) -> None:
    class Spikes(Evaluated):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return Scalar.training_step(self, batch, batch_idx) * (1000 if self.trainer.global_step == 3 else 1)

    watch = callbacks.SpikeDetection(exclude_batches_path=tmp_path / "skip.json")
    with pytest.raises(Exception, match="spike") as raised:
        run(watch, module=Spikes(), rounds_per_epoch=6, default_root_dir=tmp_path)
    assert type(raised.value).__name__ == "TrainingSpikeException"
    assert json.loads((tmp_path / "skip.json").read_text()) == [2, 3], "the round with the spike, and the one before"


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_model_checkpoint_keeps_the_best_by_any_name_that_is_logged(tmp_path: Path) -> None:
    keep = callbacks.ModelCheckpoint(tmp_path, "{epoch}-{val_loss:.3f}", monitor="val_loss", save_top_k=2)
    run(keep, max_epochs=4, enable_checkpointing=True)
    names = {f"epoch={rounds - 1}-val_loss={loss_of(rounds):.3f}.ckpt" for rounds in (3, 4)}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert_equal(Evaluated.load_from_checkpoint(keep.best_model_path).x.item(), after(4))


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"every_n_train_steps": 2}, {2, 4, 6}),
        ({"every_n_epochs": 2}, {4}),
        ({"save_on_train_epoch_end": True}, {2, 4, 6}),
        ({"monitor": "train_loss"}, {2, 4, 6}),
    ],
    ids=str,
)
def test_model_checkpoint_counts_rounds_and_epochs_of_rounds(
    tmp_path: Path, options: dict[str, Any], steps: set[int]
) -> None:
    keep = callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, **options)
    run(keep, rounds_per_epoch=2, max_epochs=3, enable_checkpointing=True)
    assert {path.name for path in tmp_path.iterdir()} == {f"step={step}.ckpt" for step in steps}
    for step in steps:
        assert_equal(Evaluated.load_from_checkpoint(tmp_path / f"step={step}.ckpt").x.item(), after(step))


@pytest.mark.parametrize("last", [True, "link"])
def test_model_checkpoint_and_its_last(tmp_path: Path, last: Any) -> None:
    run(callbacks.ModelCheckpoint(tmp_path, save_last=last), max_epochs=3, enable_checkpointing=True)
    assert_equal(Evaluated.load_from_checkpoint(tmp_path / "last.ckpt").x.item(), after(3))


def test_model_checkpoint_by_the_clock_and_of_weights_only(tmp_path: Path) -> None:
    always = timedelta(microseconds=1)  # of none at all Lightning 2.5 makes no clock
    keep = callbacks.ModelCheckpoint(tmp_path, train_time_interval=always, save_top_k=-1, save_weights_only=True)
    run(keep, max_epochs=3, enable_checkpointing=True)
    path = max(tmp_path.iterdir())
    rounds = int(path.stem.rpartition("=")[2])
    assert_equal(Evaluated.load_from_checkpoint(path).x.item(), after(rounds))
    assert "optimizer_states" not in torch.load(path)
    (metrics,) = trainer().validate(FederatedModule(Evaluated()), pair(), ckpt_path=path, verbose=False)
    assert_equal(metrics["val_loss"], loss_of(rounds))


@pytest.mark.filterwarnings("ignore:`.fit\\(ckpt_path=None\\)` was called without a model")  # it was called with one
@pytest.mark.filterwarnings("ignore:.fit\\(ckpt_path=.last.\\) is set, but there is no last checkpoint")
def test_on_exception_checkpoint_holds_the_last_round_that_is_over(tmp_path: Path) -> None:
    class Fails(Evaluated):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if self.trainer.global_step == 2 and batch[0][0] == 7:
                raise ValueError("no")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="worker 'b' failed in round 2"):
        run(callbacks.OnExceptionCheckpoint(tmp_path), module=Fails(), enable_checkpointing=True)
    path = tmp_path / "on_exception.ckpt"
    assert_equal(Evaluated.load_from_checkpoint(path).x.item(), after(2))
    module = Evaluated()
    trainer(max_epochs=5).fit(FederatedModule(module), pair(), ckpt_path=path)
    assert_equal(module.x.item(), after(5))


class OnTheFirst(callbacks.Checkpoint):
    """A checkpoint callback of a user's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 1:
            trainer.save_checkpoint(self.path)


def test_a_checkpoint_callback_of_ones_own(tmp_path: Path) -> None:
    run(OnTheFirst(tmp_path / "a.ckpt"), enable_checkpointing=True)
    assert_equal(Evaluated.load_from_checkpoint(tmp_path / "a.ckpt").x.item(), after(1))


# ---- the server's step -----------------------------------------------------------------------------------------------


def test_gradient_accumulation_scheduler_changes_the_number_of_cohorts_to_a_step() -> None:
    schedule = callbacks.GradientAccumulationScheduler({0: 1, 1: 2})
    module, started = run(schedule, rounds_per_epoch=2, max_epochs=3)
    assert started.global_step == 2 + 1 + 1
    assert_equal(module.x.item(), after(4))


def test_it_does_not_say_that_hooks_around_local_steps_are_called_less_often() -> None:
    called: list[int] = []

    class Hooked(Evaluated):
        def optimizer_step(self, epoch: int, batch_idx: int, *rest: Any, **options: Any) -> None:
            called.append(batch_idx)
            super().optimizer_step(epoch, batch_idx, *rest, **options)

    schedule = callbacks.GradientAccumulationScheduler({0: 2})
    run(schedule, module=Hooked(), rounds_per_epoch=4, max_epochs=1)
    assert len(called) == 8  # two workers in each of four cohorts


def test_ema_weight_averaging_averages_global_models(tmp_path: Path) -> None:
    """The average begins with the model after the first round; it is what is validated, and left in the module."""
    module, started = run(averaging(decay=0.75), max_epochs=3)
    x = after(1)
    for rounds in (2, 3):
        x += 0.25 * (after(rounds) - x)
    assert_equal(module.x.item(), x)
    assert_equal(started.callback_metrics["val_loss"].item(), sum((x - row) ** 2 for row in (3, 5, 7, 9)) / 4)


def test_weight_averaging_is_the_mean_of_global_models() -> None:
    module, _ = run(averaging("WeightAveraging"), max_epochs=3)
    assert_equal(module.x.item(), (after(1) + after(2) + after(3)) / 3)


def test_learning_rate_monitor_draws_the_servers_rate(tmp_path: Path) -> None:
    logger, module = CSVLogger(tmp_path), Evaluated()
    started = trainer(max_epochs=3, callbacks=[callbacks.LearningRateMonitor()], logger=logger)
    halved = FederatedModule(module, server_lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5))
    started.fit(halved, pair())
    lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("lr-SGD")
    assert [float(rate) for line in lines[1:] if (rate := line.split(",")[column])] == [1.0, 0.5, 0.25]


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_lambda_callback() -> None:
    seen = []
    run(callbacks.LambdaCallback(on_train_batch_end=lambda *arguments: seen.append(arguments[0].global_step)))
    assert seen == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar"])
def test_progress_bars_count_the_rounds_of_an_epoch(bar: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = getattr(callbacks, bar)()
    run(shown, rounds_per_epoch=2, max_epochs=2, enable_progress_bar=True)
    assert shown.total_train_batches == 2
    assert capsys.readouterr().out.count("Epoch 1") >= 1


class OwnBar(callbacks.ProgressBar):
    """A progress bar of a user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def disable(self) -> None:
        """Nothing is shown anyway."""

    def on_train_batch_end(self, *arguments: Any) -> None:
        super().on_train_batch_end(*arguments)
        self.seen.append(arguments[-1] + 1)


def test_a_progress_bar_of_ones_own() -> None:
    bar = OwnBar()
    run(bar, rounds_per_epoch=3, max_epochs=2, enable_progress_bar=True)
    assert bar.seen == [1, 2, 3] * 2


def test_summaries_are_of_the_users_module(caplog: pytest.LogCaptureFixture, capsys: Any) -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)
    with caplog.at_level(logging.INFO, logger="pytorch_lightning"):
        run(callbacks.ModelSummary(), max_epochs=1)
        run(callbacks.RichModelSummary(), max_epochs=1)
    assert "1         Trainable params" in caplog.text
    assert "Trainable params: 1" in capsys.readouterr().out


def test_device_stats_monitor_draws_once_a_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl.accelerators.CPUAccelerator, "get_device_stats", lambda *_: {"cpu_percent": 7.0})
    monkeypatch.setattr("pytorch_lightning.callbacks.device_stats_monitor._PSUTIL_AVAILABLE", True, raising=False)
    monkeypatch.setattr("pytorch_lightning.accelerators.cpu._PSUTIL_AVAILABLE", True)
    logger = CSVLogger(tmp_path)
    run(callbacks.DeviceStatsMonitor(cpu_stats=True), max_epochs=3, logger=logger)
    text = (Path(logger.log_dir) / "metrics.csv").read_text()
    assert "DeviceStatsMonitor.on_train_batch_end" in text.splitlines()[0]
    assert text.count("7.0") >= 3
