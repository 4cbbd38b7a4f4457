"""ReduceLROnPlateau on workers: it follows what the worker itself logs, as in a plain Trainer, or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from manual_modules import Pairs
from torch import nn
from torch.nn.functional import mse_loss
from torchmetrics import MeanMetric, MeanSquaredError

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.engines import Auto, Isolated, Vectorized
from lightning_fed.privacy import RecordDP
from lightning_fed.wire import RoundError, WorkerError


class Watches(pl.LightningModule):
    """A linear model, whose rate is halved whenever the monitored value has not grown."""

    def __init__(
        self, monitor: str = "train_loss", interval: str = "epoch", frequency: int = 1, mode: Any = "max", **logged: Any
    ) -> None:
        super().__init__()
        self.mode = mode
        torch.manual_seed(1)
        self.net = nn.Linear(3, 1)
        self.error = MeanSquaredError()
        self.config = {"monitor": monitor, "interval": interval, "frequency": frequency}
        self.logged = logged

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = self.net(batch[0])
        loss = mse_loss(output, batch[1])
        self.log("train_loss", loss, **self.logged)
        if self.config["monitor"] == "error":
            self.error(output, batch[1])
            self.log("error", self.error, on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self) -> None:
        self.log("size", self.net.weight.detach().norm())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=self.mode, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **self.config}}


FORKED = {"on_step": True, "on_epoch": True}
WAYS: dict[str, dict[str, Any]] = {
    "last value": {},
    "mean of an epoch": {"on_step": False, "on_epoch": True},
    "both": FORKED,
    "both, the last": {"monitor": "train_loss_step", **FORKED},
    "both, the mean": {"monitor": "train_loss_epoch", **FORKED},
    "the largest": {"on_step": False, "on_epoch": True, "reduce_fx": "max"},
    "each step": {"interval": "step"},
    "each step, of both": {"interval": "step", **FORKED},
    "every second step": {"interval": "step", "frequency": 2},
    "every second epoch": {"frequency": 2},
    "logged at the end of an epoch": {"monitor": "size", "mode": "min"},
    "a torchmetrics object": {"monitor": "error"},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("double")
def test_over_local_epochs_and_over_rounds_a_worker_does_what_a_trainer_does(way: str) -> None:
    plain, local, rounds = (Watches(**WAYS[way]) for _ in range(3))
    run = trainer(max_epochs=6)
    run.fit(plain, Pairs(1))
    assert run.optimizers[0].param_groups[0]["lr"] < 0.1  # else there is nothing to compare
    fit(FederatedModule(local, local_epochs=6), FederatedDataModule({"ann": Pairs(1)}))
    assert_equal(local.state_dict(), plain.state_dict())
    fit(FederatedModule(rounds, local_schedule="continue"), FederatedDataModule({"ann": Pairs(1)}), max_epochs=6)
    assert_equal(rounds.state_dict(), plain.state_dict())


class OnTheLastStep(Watches):
    """Logs a torchmetrics object per step: its value on the last batch of an epoch grows, that of the epoch falls."""

    def __init__(self, **options: Any) -> None:
        super().__init__(monitor="growing", **options)
        self.growing = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.growing(float(self.current_epoch) if batch_idx == 3 else -10.0 * self.current_epoch)
        self.log("growing", self.growing)
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.usefixtures("double")
def test_of_a_torchmetrics_object_that_is_logged_per_step_the_last_steps_value_counts(mode: str) -> None:
    plain, rounds = OnTheLastStep(mode=mode), OnTheLastStep(mode=mode)
    trainer(max_epochs=4).fit(plain, Pairs(1))
    fit(FederatedModule(rounds, local_schedule="continue"), FederatedDataModule({"ann": Pairs(1)}), max_epochs=4)
    assert_equal(rounds.state_dict(), plain.state_dict())


class OnItsLoss(Scalar):
    """From 0 by lr 1.5: over 8 to 12, where the loss has fallen from 32 to 8."""

    def __init__(self, mode: str = "min") -> None:
        super().__init__(lr=1.5)
        self.mode = mode

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("loss_here", loss)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=self.mode, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "loss_here"}


def test_by_hand_each_worker_follows_its_own_loss() -> None:
    """mode="max": ann's losses 32, 8, 2 fall, so her rate is halved after her second epoch: 0 → 12 → 6 → 6 + 0.75 * 2.
    bob's is 0 throughout, and mode="max" finds no better value either, but at his mean nothing moves him."""
    module = OnItsLoss("max")
    workers = {"ann": Rows([8.0]), "bob": Rows([0.0])}
    fit(FederatedModule(module, local_epochs=3), FederatedDataModule(workers))
    assert module.x.item() == 7.5 / 2


def test_a_process_of_its_own_and_auto_do_the_same(isolated: Isolated) -> None:
    ends = []
    for engine in ("sequential", isolated, Auto()):
        module = OnItsLoss("max")
        fit(FederatedModule(module, engine=engine, local_epochs=3), FederatedDataModule({"ann": Rows([8.0])}))
        ends.append(module.x.item())
    assert ends == [7.5] * 3
    with pytest.raises(RuntimeError, match="a ReduceLROnPlateau follows what one worker logs"):
        fit(FederatedModule(OnItsLoss(), engine=Vectorized()), FederatedDataModule({"ann": Rows([8.0])}))


class Unlogged(Scalar):
    """A scheduler with patience 0, which would divide the rate by 10 after each step without a better x."""

    strict = True
    interval = "step"

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        plateau = {"scheduler": scheduler, "monitor": "val_loss", "strict": self.strict, "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": plateau}


class OnValidation(Unlogged):
    """The same, and the metric is there on the server, after a round."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", (self.x - batch[0]).abs().mean())


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("engine", ["sequential", "auto"])
@pytest.mark.parametrize(("kind", "strict"), [(OnValidation, True), (OnValidation, False), (Unlogged, False)])
def test_without_the_metric_the_rate_is_held(engine: Any, interval: str, kind: Any, strict: bool) -> None:
    """Two rounds of two steps towards 8, each half of the way; a plain Trainer without the metric does the same."""
    data = EvaluatedRows if kind is OnValidation else Rows
    module, workers = kind(lr=0.5), {name: data([8.0]) for name in "abcd"}
    module.interval, module.strict = interval, strict
    says = r"a ReduceLROnPlateau on 'val_loss', which workers do not log in their training .* the rate is held there"
    if kind is OnValidation:
        says += ".* take local_schedule='continue' and interval 'epoch', which follow the server's validation"
    with pytest.warns(UserWarning, match=says) as told:
        fit(FederatedModule(module, local_steps=2, engine=engine), FederatedDataModule(workers), max_epochs=2)
    assert module.x.item() == 7.5
    assert len([warning for warning in told if "ReduceLROnPlateau" in str(warning.message)]) == 1


def test_a_strict_one_on_what_nobody_logs_is_refused_with_the_ways_out() -> None:
    module = Unlogged()
    says = (
        r"worker 'bob' failed in round 0: .*Unlogged.configure_optimizers\(\) returned a ReduceLROnPlateau on "
        r"'val_loss', .* set 'strict': False beside it to hold the rate, monitor what training_step logs, or use it as "
        "server_lr_scheduler"
    )
    with pytest.raises(WorkerError, match=says):
        fit(FederatedModule(module), FederatedDataModule({"bob": Rows([8.0])}))
    with pytest.raises(RoundError, match=rf"0 workers are left, .* as it was before the round. What failed:\n  {says}"):
        fit(FederatedModule(module, on_worker_error="drop"), FederatedDataModule({"bob": Rows([8.0])}))
    assert module.x.item() == 0.0


def test_under_a_promise_about_examples_it_is_refused() -> None:
    promise = RecordDP(clip=1.0, noise_multiplier=1.0, sampling_rate=0.5, delta=1e-5)
    with pytest.raises(RuntimeError, match="RecordDP goes with no ReduceLROnPlateau in local training"):
        fit(FederatedModule(OnItsLoss(), privacy=promise), FederatedDataModule({"bob": Rows([8.0, 1.0])}))
