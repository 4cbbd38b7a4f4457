"""What callbacks log in training, and what they and progress bars see."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, fit, trainer
from pytorch_lightning.callbacks import LearningRateMonitor, RichProgressBar, TQDMProgressBar
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.callbacks import RoundProgress
from lightning_fed.privacy import CentralDP

HOOKS = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


class LogsIn(pl.Callback):
    """Logs 1, 2, ... in every call of a hook."""

    def __init__(self, hook: str, **options: Any) -> None:
        self.options, self.calls = options, 0
        setattr(self, hook, self._log)

    def _log(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.calls += 1
        pl_module.log("it", float(self.calls), **self.options)
        pl_module.log_dict({"others": float(self.calls)}, **self.options)


def data() -> FederatedDataModule:
    """Two rounds, of one example and of three."""
    return FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0, 4.0])}, cohort_size=1, rounds_per_epoch=2)


def sizes(federated: FederatedModule, cohorts: FederatedDataModule) -> list[int]:
    seen: list[int] = []

    class See(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(int(federated.last_report.examples))

    fit(federated, cohorts, callbacks=[See()])
    return seen


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("on_step", [True, False])
def test_a_mean_over_an_epoch_is_weighted_by_the_rounds_examples(hook: str, on_step: bool) -> None:
    callback = LogsIn(hook, on_step=on_step, on_epoch=True)
    run = fit(FederatedModule(Scalar()), data(), callbacks=[callback])
    first, second = sizes(FederatedModule(Scalar()), data())
    if hook == "on_train_batch_start":  # when nobody has trained yet: by workers
        first = second = 1
    for name in ("it", "others"):
        assert run.callback_metrics[name] == pytest.approx((first + 2 * second) / (first + second))
        assert (f"{name}_epoch" in run.callback_metrics) is on_step


@pytest.mark.parametrize("hook", ["on_train_epoch_start", "on_train_epoch_end", "on_train_start"])
def test_in_a_hook_of_the_epoch_too(hook: str) -> None:
    run = fit(FederatedModule(Scalar()), data(), callbacks=[LogsIn(hook)])
    assert run.callback_metrics["it"] == run.callback_metrics["others"] == 1.0


def test_a_size_that_is_given_counts_by_name_and_by_place() -> None:
    class ByPlace(pl.Callback):
        calls = 0

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            self.calls += 1
            places = (False, None, False, True, "mean", False, False, None, True)
            pl_module.log("by place", float(self.calls), *places, self.calls)
            pl_module.log("by name", float(self.calls), on_step=False, on_epoch=True, batch_size=self.calls)

    run = fit(FederatedModule(Scalar()), data(), callbacks=[ByPlace()])
    assert run.callback_metrics["by place"] == run.callback_metrics["by name"] == pytest.approx(5 / 3)


def test_under_a_promise_rounds_do_not_tell_how_many_examples_they_had() -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=1.0, delta=0.1)
    run = fit(
        FederatedModule(Scalar(), privacy=promise),
        FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0] * 3)}, rounds_per_epoch=2),
        callbacks=[LogsIn("on_before_optimizer_step", on_step=False, on_epoch=True)],
    )
    weights = [run.callback_metrics["it"].item()]
    assert weights == [pytest.approx(1.5)]


class OnBar(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        self.log("both", loss, prog_bar=True, on_epoch=True)
        self.log("hidden", loss)
        return loss


@pytest.mark.parametrize("bar", [TQDMProgressBar, RichProgressBar, RoundProgress])
def test_a_bar_shows_what_a_module_logs_for_it(bar: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown: list[set[str]] = []

    class Seen(bar):  # type: ignore[misc, valid-type]
        def get_metrics(self, *arguments: Any) -> Any:
            metrics = super().get_metrics(*arguments)
            shown.append(set(metrics) - {"v_num"})
            return metrics

    run = trainer(enable_progress_bar=True, callbacks=[Seen()])
    run.fit(FederatedModule(OnBar()), FederatedDataModule({"a": Rows([2.0])}))
    assert {"both_step"} in shown
    assert shown[-1] == {"both_step", "both_epoch"}
    capsys.readouterr()


def test_the_csv_has_the_epoch_in_every_row(tmp_path: Any) -> None:
    class Logs(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss: Tensor = super().training_step(batch, batch_idx)
            self.log("loss_of_it", loss, on_epoch=True)
            return loss

    logger = CSVLogger(tmp_path)
    cohorts = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0])}, rounds_per_epoch=2)
    fit(FederatedModule(Logs(lr=0.0)), cohorts, logger=logger, max_epochs=2, callbacks=[LearningRateMonitor()])
    header, *rows = (
        line.split(",") for line in (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().split()
    )
    table = [dict(zip(header, row, strict=True)) for row in rows]
    own = [row for row in table if not row["lr-SGD"]]
    assert [(row["epoch"], row["step"]) for row in own if row["loss_of_it_step"]] == [
        ("0", "0"), ("0", "1"), ("1", "2"), ("1", "3"),
    ]  # fmt: skip
    assert [(row["epoch"], row["step"], float(row["loss_of_it_epoch"])) for row in own if row["loss_of_it_epoch"]] == [
        ("0", "1", 5.0), ("1", "3", 5.0),
    ]  # fmt: skip
    assert torch.isfinite(torch.tensor([float(row["loss_of_it_epoch"] or 0) for row in own])).all()
