"""ReduceLROnPlateau on what validation logs, after a round: where schedules go on, workers follow it from then on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from manual_modules import Pairs
from torch import nn
from torch.nn.functional import mse_loss

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.engines import Isolated
from lightning_fed.selection import RoundRobin


class Validated(pl.LightningModule):
    """A linear model, whose rate is halved whenever the monitored value of a validation is no better."""

    def __init__(self, monitor: str = "val_loss", mode: Any = "max", **config: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(3, 1)
        self.mode = mode
        self.config = {"monitor": monitor, **config}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", mse_loss(self.net(batch[0]), batch[1]))
        self.log("val_size", self.net.weight.norm())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=self.mode, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **self.config}}


class ValidatedPairs(Pairs):
    """Half of the rows for validation."""

    def val_dataloader(self) -> Any:
        return Pairs(seed=1, rows=6).train_dataloader()


WAYS: dict[str, dict[str, Any]] = {
    "each epoch": {},
    "every second epoch": {"frequency": 2},
    "not strict": {"strict": False},
    "another value": {"monitor": "val_size", "mode": "min"},
}


def ends(rounds: int, way: str = "each epoch", **options: Any) -> tuple[Any, Any]:
    """What becomes of the same module in a plain Trainer and in the federation of one worker."""
    plain, local = Validated(**WAYS[way]), Validated(**WAYS[way])
    run = trainer(max_epochs=rounds)
    run.fit(plain, ValidatedPairs(1))
    assert run.optimizers[0].param_groups[0]["lr"] < 0.1  # else there is nothing to compare
    data = FederatedDataModule({"ann": ValidatedPairs(1)})
    fit(FederatedModule(local, local_schedule="continue", **options), data, max_epochs=rounds)
    return local.state_dict(), plain.state_dict()


@pytest.mark.parametrize("engine", ["sequential", "auto"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("double")
def test_over_rounds_a_worker_does_what_a_trainer_does(way: str, engine: Any) -> None:
    assert_equal(*ends(6, way, engine=engine))


@pytest.mark.usefixtures("double")
def test_in_a_process_of_its_own_too(isolated: Isolated) -> None:
    assert_equal(*ends(4, engine=isolated))


class OnDistance(Scalar):
    """From 0 by half of the way to 8 in a step; the distance falls, and mode="max" finds that no better."""

    def __init__(self, mode: Any = "max", **config: Any) -> None:
        super().__init__(lr=0.5)
        self.mode = mode
        self.config = {"monitor": "distance", **config}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("distance", (self.x - batch[0]).abs().mean())

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode=self.mode, factor=0.5, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **self.config}}


def central() -> FederatedDataModule:
    return FederatedDataModule({"ann": Rows([8.0])}, val=EvaluatedRows([8.0]))


@pytest.mark.parametrize(
    ("epochs", "x"),
    [
        (1, 4 + 0.5 * 4 + 0.25 * 2),  # distances 4, 2: halved after the second
        (2, 7.5 + 0.25 * 0.5 + 0.25 * 0.375),  # 2 and 0.5, after two steps each: one validation, one step
    ],
)
def test_by_hand_on_central_data_a_round_is_validated_once(epochs: int, x: float) -> None:
    module = OnDistance()
    fit(FederatedModule(module, local_epochs=epochs, local_schedule="continue"), central(), max_epochs=3)
    assert module.x.item() == x


def test_by_hand_an_epoch_of_several_rounds_is_validated_once() -> None:
    """By 1/16 of the way in a step, two steps in an epoch: the rate is halved before the third."""
    module = OnDistance()
    module.lr = 1 / 16
    data = FederatedDataModule({"ann": Rows([8.0])}, val=EvaluatedRows([8.0]), rounds_per_epoch=2)
    fit(FederatedModule(module, local_schedule="continue"), data, max_epochs=3)
    assert 8 - module.x.item() == pytest.approx(8 * (15 / 16) ** 4 * (31 / 32) ** 2)


@pytest.mark.parametrize("keeps", [True, False])
def test_where_schedules_begin_anew_the_rate_is_held(keeps: bool) -> None:
    module = OnDistance(interval="step" if keeps else "epoch")
    says = "the rate is held there: to have it fall, take local_schedule='continue' and interval 'epoch', which follow"
    fed = FederatedModule(module, local_schedule="continue" if keeps else "restart")
    with pytest.warns(UserWarning, match=says):
        fit(fed, central(), max_epochs=3)
    assert module.x.item() == 7.0


def test_before_the_first_validation_the_rate_is_held_and_afterwards_an_old_value_counts_as_in_a_trainer() -> None:
    """Validated after every second round."""
    plain, local = OnDistance(strict=False), OnDistance(strict=False)
    rows = EvaluatedRows([8.0])
    with pytest.warns(RuntimeWarning, match="ReduceLROnPlateau conditioned on metric"):  # Lightning's own words
        trainer(max_epochs=6, check_val_every_n_epoch=2).fit(plain, rows)
    fed = FederatedModule(local, local_schedule="continue")
    with pytest.warns(UserWarning, match="nor has the server's validation so far: the rate is held there"):
        fit(fed, FederatedDataModule({"ann": rows}), max_epochs=6, check_val_every_n_epoch=2)
    assert local.x.item() == plain.x.item()
    assert plain.x.item() < 8 - 8 / 2**6  # where it would be without a schedule


def test_each_worker_follows_from_its_own_last_round_on() -> None:
    """In turn: ann's values are 2 and 0.5, of which she finds the second no better, and bob's are 1 and 0.375."""
    module = OnDistance()
    workers = {name: Rows([8.0]) for name in ("ann", "bob")}
    val = EvaluatedRows([8.0])
    data = FederatedDataModule(workers, val=val, cohort_size=1, sampler=RoundRobin(), rounds_per_epoch=1)
    fit(FederatedModule(module, local_schedule="continue"), data, max_epochs=6)
    assert module.x.item() == 7.5 + 0.25 * 0.5 + 0.25 * 0.375


def test_a_strict_one_that_validation_does_not_log_either_is_refused() -> None:
    module = OnDistance(monitor="val_loss")
    says = (
        r"worker 'ann' failed in round 1: .* on 'val_loss', which workers do not log .* nor does the server's "
        r"validation: monitor what that logs \('distance'\), monitor what training_step logs, or use it as"
    )
    with pytest.raises(RuntimeError, match=says):
        fit(FederatedModule(module, local_schedule="continue"), central(), max_epochs=3)
    assert module.x.item() == 4.0  # what the first round made of it


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.filterwarnings("ignore:.*nor has the server's validation so far:UserWarning")
@pytest.mark.parametrize(("at_the_end", "epoch"), [(True, 2), (True, 3), (False, 3)])
def test_a_run_that_goes_on_from_a_checkpoint_gives_the_same(at_the_end: bool, epoch: int, tmp_path: Path) -> None:
    """Validated after every second round: the checkpoint holds what the last validation has, a sanity check nothing.

    One of the checkpoints is written as soon as a validation is over.
    """
    keeping = pl.callbacks.ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=at_the_end)
    whole = OnDistance(mode="min", strict=False)
    fed = FederatedModule(whole, local_schedule="continue", state_dir=tmp_path / "state")
    fit(fed, central(), max_epochs=6, **SECOND, enable_checkpointing=True, callbacks=[keeping])
    assert resumed(tmp_path / f"epoch={epoch}.ckpt") == whole.x.item() < 8 - 8 / 2**6


@pytest.mark.filterwarnings("ignore:.*nor has the server's validation so far:UserWarning")
def test_an_evaluation_after_a_fit_leaves_what_the_fit_goes_on_with(tmp_path: Path) -> None:
    whole, part = OnDistance(mode="min", strict=False), OnDistance(mode="min", strict=False)
    fit(FederatedModule(whole, local_schedule="continue"), central(), max_epochs=6, **SECOND)
    fed = FederatedModule(part, local_schedule="continue", state_dir=tmp_path / "state")
    run = fit(fed, central(), max_epochs=3, **SECOND)
    run.validate(fed, central())
    run.save_checkpoint(tmp_path / "validated.ckpt")
    assert resumed(tmp_path / "validated.ckpt") == whole.x.item()


class Fails(OnDistance):
    """Fails in the second validation: before its first batch, or after its second."""

    def __init__(self, after: int) -> None:
        super().__init__(mode="min")
        self.after = after

    def on_validation_epoch_start(self) -> None:
        self.fail(after=0)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("distance", (self.x - batch[0]).abs().mean())
        self.log("step", 1.0, on_step=True)
        self.fail(after=batch_idx + 1)

    def fail(self, after: int) -> None:
        if self.trainer.current_epoch == 1 and after == self.after:
            raise ValueError("no more")


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.filterwarnings("ignore:`?.fit.ckpt_path=:UserWarning")  # Lightning's, of its own callback
def test_a_checkpoint_from_the_middle_of_a_validation_holds_what_the_one_before_has(after: int, tmp_path: Path) -> None:
    """After two rounds; in the third the first validation's value counts, and in the fourth a better one does."""
    saving = pl.callbacks.OnExceptionCheckpoint(tmp_path, "cut")
    fed = FederatedModule(Fails(after), local_schedule="continue", state_dir=tmp_path / "state")
    data = FederatedDataModule({"ann": Rows([8.0])}, val=EvaluatedRows([8.0, 8.0, 8.0], batch_size=1))
    with pytest.raises(ValueError, match="no more"):
        fit(fed, data, max_epochs=4, enable_checkpointing=True, callbacks=[saving])
    assert resumed(tmp_path / "cut.ckpt", rounds=4, check_val_every_n_epoch=1) == 6 + 0.25 * 2 + 0.25 * 1.5


SECOND = {"check_val_every_n_epoch": 2}


def resumed(path: Path, rounds: int = 6, check_val_every_n_epoch: int = 2) -> float:
    """What some rounds make of x, the first of which are in a checkpoint."""
    module = OnDistance(mode="min", strict=False)
    fed = FederatedModule(module, local_schedule="continue", state_dir=path.parent / "state")
    run = trainer(max_epochs=rounds, check_val_every_n_epoch=check_val_every_n_epoch)
    run.fit(fed, central(), ckpt_path=path)
    return module.x.item()


SEEN: list[float] = []


class Looks(OnDistance):
    """Notes what the last validation has logged, and has it decide nothing."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        SEEN.append(float(self.trainer.callback_metrics.get("distance", -1.0)))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def test_user_code_on_a_worker_finds_what_the_last_validation_has_logged() -> None:
    """As in a Trainer: neither what its sanity check has, nor what an evaluation before the fit has."""
    data = FederatedDataModule({"ann": EvaluatedRows([8.0])})
    for module, given in ((Looks(), EvaluatedRows([8.0])), (FederatedModule(Looks()), data)):
        SEEN.clear()
        run = trainer(max_epochs=3)
        run.validate(module, given)
        run.fit(module, given)
        assert SEEN == [-1.0, 4.0, 2.0]
