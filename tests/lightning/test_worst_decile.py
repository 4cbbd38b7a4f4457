"""Distributions over workers, as callbacks, schedulers and loggers of Lightning find them."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TRUSTED, EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from processes import run_in_processes
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanSquaredError

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import ReduceLROnPlateau, pl
from lightning_fed.privacy import CentralDP
from lightning_fed.server import distributions

# Accuracies of each worker by epoch. The mean is best in epoch 2; the lowest decile (.34, .62, .50, .50) in epoch 1.
BY_EPOCH = {"a": [0.2, 0.6, 0.4, 0.4], "b": [0.9, 0.8, 0.9, 0.9], "c": [0.9, 0.7, 1.0, 1.0]}
WORST = [0.34, 0.62, 0.5, 0.5]
P10 = "workers/val/acc/p10"


class Planned(pl.LightningDataModule):
    """Trains on one row; for validation it has the accuracies that are to be logged."""

    def __init__(self, row: float = 1.0, accuracies: Any = (0.5,)) -> None:
        super().__init__()
        self.row, self.accuracies = row, accuracies

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.tensor([self.row])))

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.tensor([list(self.accuracies)])))

    test_dataloader = val_dataloader


class Reads(Scalar):
    """Logs the accuracy that is planned for the epoch."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__(lr)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        planned = batch[0][0]
        self.log("val/acc", planned[min(self.trainer.current_epoch, len(planned) - 1)])

    test_step = validation_step


def federation() -> FederatedDataModule:
    rows = {"a": 1.0, "b": 2.0, "c": 3.0}
    return FederatedDataModule({name: Planned(rows[name], own) for name, own in BY_EPOCH.items()})


class Watch(pl.Callback):
    """Reads a metric at the end of each of some hooks."""

    def __init__(self, metric: str, hook: str = "on_validation_end") -> None:
        self.seen: list[float] = []

        def read(trainer: pl.Trainer, *_: Any) -> None:
            if not trainer.sanity_checking:
                self.seen.append(trainer.callback_metrics[metric].item())

        setattr(self, hook, read)


@pytest.mark.parametrize("engine", ["sequential", "vectorized", "isolated"], indirect=True)
def test_early_stopping_goes_by_the_worst_decile(engine: Any) -> None:
    watch, stop = Watch(P10), EarlyStopping(P10, mode="max", patience=1)
    run = fit(FederatedModule(Reads(), engine=engine), federation(), max_epochs=4, callbacks=[stop, watch])
    assert watch.seen == pytest.approx(WORST[:3])
    assert (run.current_epoch, stop.best_score.item()) == (3, pytest.approx(0.62))


@pytest.mark.parametrize(
    ("monitor", "mode", "best"), [(P10, "max", 1), ("val/acc", "max", 2), ("workers/val/acc/std", "min", 1)]
)
def test_the_checkpoint_of_the_best_is_kept(tmp_path: Path, monitor: str, mode: str, best: int) -> None:
    keep = ModelCheckpoint(tmp_path, "{epoch}", monitor=monitor, mode=mode)
    fit(FederatedModule(Reads()), federation(), max_epochs=4, callbacks=[keep], enable_checkpointing=True)
    (path,) = tmp_path.glob("*.ckpt")
    assert (path.name, torch.load(path, **TRUSTED)["global_step"]) == (f"epoch={best}.ckpt", best + 1)


def test_a_plateau_of_the_servers_rate_goes_by_the_worst_decile() -> None:
    def plateau(optimizer: Any) -> ReduceLROnPlateau:
        return ReduceLROnPlateau(optimizer, monitor=P10, mode="max", factor=0.5, patience=0)

    rates: list[float] = []

    class Rates(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fed = FederatedModule(Reads(), server_lr_scheduler=plateau)
    fit(fed, federation(), max_epochs=5, callbacks=[Rates()])
    assert rates == [1.0, 1.0, 1.0, 0.5, 0.25]


@pytest.mark.parametrize("engine", ["sequential", "vectorized", "isolated"], indirect=True)
def test_after_each_round_there_is_the_distribution_of_its_training(engine: Any) -> None:
    """x = 0 and rows 1, 2, 3: losses 0.5, 2, 4.5; with a rate of 0.1 x becomes 0.2, and losses 0.32, 1.62, 3.92."""
    watch = Watch("workers/train_loss/p90", "on_train_batch_end")
    stop = EarlyStopping("workers/train_loss/median", mode="min", check_on_train_epoch_end=True)
    fit(FederatedModule(Reads(), engine=engine), federation(), max_epochs=2, callbacks=[watch, stop])
    assert watch.seen == pytest.approx([4.0, 3.46])
    assert stop.best_score.item() == pytest.approx(1.62)


def test_a_module_that_logs_nothing_has_a_distribution_of_its_loss() -> None:
    run = fit(FederatedModule(Scalar()), FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}))
    assert run.callback_metrics["workers/loss/max"].item() == pytest.approx(4.5)


@pytest.mark.usefixtures("double")
def test_two_processes_stop_and_keep_as_one_does(tmp_path: Path) -> None:
    def run(devices: int) -> Any:
        torch.set_default_dtype(torch.float64)
        keep = ModelCheckpoint(tmp_path / str(devices), "{epoch}", monitor=P10, mode="max")
        watch, stop = Watch(P10), EarlyStopping(P10, mode="max", patience=1)
        train = Watch("workers/train_loss/std", "on_train_batch_end")
        options = {"strategy": "ddp" if devices > 1 else "auto", "devices": devices, "enable_checkpointing": True}
        done = fit(
            FederatedModule(Reads()), federation(), max_epochs=4, callbacks=[stop, watch, train, keep], **options
        )
        return watch.seen, train.seen, done.current_epoch, Path(keep.best_model_path).name

    expected = run(1)
    assert_equal(expected[0], WORST[:3])
    assert expected[2:] == (3, "epoch=1.ckpt")
    for ended in run_in_processes(lambda: run(2)):
        assert ended.error is None, ended.trace
        assert_equal(ended.result[:2], expected[:2])
        assert ended.result[2:] == expected[2:]


# ---- what a distribution is about -----------------------------------------------------------------------------------


class Some(Scalar):
    """Logs names that not every worker has, and values that not every worker has a number for."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (x,) = batch
        self.log("all", x.mean())
        if x.mean() > 1:
            self.log("few", x.mean())
        self.log("seldom", x.mean() if x.mean() < 3 else torch.tensor(math.nan))
        self.log("quiet", x.mean(), logger=False)

    test_step = validation_step


def rows() -> FederatedDataModule:
    return FederatedDataModule({name: EvaluatedRows([value]) for name, value in {"a": 1.0, "b": 2.0, "c": 3.0}.items()})


def test_a_worker_that_has_no_number_is_left_out_and_named_once() -> None:
    fed, run = FederatedModule(Some()), trainer(max_epochs=3)
    with pytest.warns(UserWarning, match="seldom is NaN") as said:
        run.fit(fed, rows())
    told = [str(warning.message) for warning in said if "NaN" in str(warning.message)]
    assert told == [
        "seldom is NaN at worker 'c'; its distribution, workers/seldom/..., is that of the workers that have a number "
        "(said once)"
    ]
    assert run.callback_metrics["workers/seldom/max"].item() == 2.0
    assert math.isnan(run.callback_metrics["seldom"].item())
    assert math.isnan(fed.last_evaluation.workers["c"]["seldom"])
    assert run.callback_metrics["workers/few/min"].item() == 2.0
    assert run.callback_metrics["workers/all/min"].item() == 1.0


class Never(Some):
    """Logs what no worker has a number for."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("never", torch.tensor(math.nan))


def test_where_no_worker_has_a_number_nobody_is_named() -> None:
    run = fit(FederatedModule(Never()), rows())  # a warning would be an error
    assert math.isnan(run.callback_metrics["workers/never/max"].item())


@pytest.mark.filterwarnings("ignore:seldom is NaN")
def test_what_no_logger_draws_is_there_for_callbacks_only(tmp_path: Path) -> None:
    run = trainer(logger=CSVLogger(tmp_path))
    run.validate(FederatedModule(Some()), rows(), verbose=False)
    assert run.callback_metrics["workers/quiet/max"].item() == 3.0
    run.logger.save()
    drawn = next(tmp_path.glob("**/metrics.csv")).read_text()
    assert "workers/all/std" in drawn
    assert "quiet" not in drawn


@pytest.mark.filterwarnings("ignore:seldom is NaN")
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_what_an_evaluation_returns_is_as_before(stage: str) -> None:
    run = trainer()
    (returned,) = getattr(run, stage)(FederatedModule(Some()), rows(), verbose=False)
    assert set(returned) == {"all", "few", "seldom"}
    assert run.callback_metrics["workers/all/median"].item() == 2.0


def test_what_nobody_reads_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Any] = []
    spread = distributions.spread
    monkeypatch.setattr(distributions, "spread", lambda values: computed.append(1) or spread(values))
    seen: list[int] = []

    class Counts(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(len(computed))
            if trainer.global_step == 3:
                assert trainer.callback_metrics["workers/train_loss/max"] > 0
                assert trainer.callback_metrics["workers/train_loss/min"] > 0
                seen.append(len(computed))

    fit(FederatedModule(Reads()), federation(), max_epochs=4, limit_val_batches=0, callbacks=[Counts()])
    assert seen == [0, 0, 0, 1, 1]


def test_within_an_evaluation_the_server_can_be_copied_and_sent() -> None:
    class Sends(pl.Callback):
        def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            copy.deepcopy(trainer.callback_metrics)
            pickle.dumps(trainer.callback_metrics)
            trainer_of = vars(pl_module)["_trainer"]
            pl_module.trainer = None
            pickle.dumps(pl_module)
            pl_module.trainer = trainer_of

    trainer(callbacks=[Sends()]).validate(FederatedModule(Reads()), federation(), verbose=False)


def test_a_torchmetrics_object_has_a_distribution() -> None:
    class Squares(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.mse = MeanSquaredError()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mse(batch[0], torch.zeros_like(batch[0]))
            self.log("mse", self.mse)

    run = trainer()
    run.validate(FederatedModule(Squares()), rows(), verbose=False)
    assert run.callback_metrics["workers/mse/p90"].item() == pytest.approx(8.0)  # 1, 4, 9


@pytest.mark.filterwarnings("ignore:CentralDP")
@pytest.mark.parametrize("release", [False, True])
def test_a_promise_decides_what_callbacks_find(tmp_path: Path, release: bool) -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, release_metrics=release)
    run = fit(
        FederatedModule(Reads(), privacy=promise),
        federation(),
        logger=CSVLogger(tmp_path),
        limit_val_batches=1.0 if release else 0,
    )
    run.logger.save()
    drawn = next(tmp_path.glob("**/metrics.csv")).read_text()
    assert ("workers/train_loss/p10" in drawn) == ("workers/" in drawn) == release
    assert ("workers/train_loss/p10" in run.callback_metrics) == (P10 in run.callback_metrics) == release
    assert any(name.startswith("worker") for name in run.callback_metrics) == release
