"""Each hook of Lightning has a place, and is called there as a plain Trainer would call it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import OVERRIDABLE, TRUSTED, EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from pytorch_lightning.core.hooks import CheckpointHooks, DataHooks, ModelHooks
from pytorch_lightning.trainer.connectors.logger_connector.fx_validator import _FxValidator
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.hooks import (
    CHECKPOINT_HOOKS,
    EVALUATION_STEPS,
    LOCAL_HOOKS,
    SERVER_HOOKS,
    TRANSFER_HOOKS,
    UNUSED_HOOKS,
)

# A plain Trainer says which of the module's and the datamodule's hooks it takes.
pytestmark = pytest.mark.filterwarnings("ignore:You have overridden `.*transfer.*` in `LightningModule`")

TABLES = (SERVER_HOOKS, EVALUATION_STEPS, LOCAL_HOOKS, TRANSFER_HOOKS, CHECKPOINT_HOOKS, tuple(UNUSED_HOOKS))
OF_ITS_OWN = {"training_step", "predict_step", "configure_optimizers", "forward"}
"""What the package calls by name, because it is more than a hook."""

LIGHTNINGS = OVERRIDABLE | {
    name
    for hooks in (ModelHooks, DataHooks, CheckpointHooks)
    for name, value in vars(hooks).items()
    if callable(value) and not name.startswith("_")
}


@pytest.mark.parametrize("hook", sorted(LIGHTNINGS))
def test_every_hook_of_lightning_has_exactly_one_place(hook: str) -> None:
    assert sum(hook in table for table in TABLES) + (hook in OF_ITS_OWN) == 1


def test_no_table_names_a_hook_that_lightning_does_not_have() -> None:
    assert {name for table in TABLES for name in table} | OF_ITS_OWN == LIGHTNINGS


# ---- a module that overrides everything ------------------------------------------------------------------------------


# Outside of the module and its class, since what training changes on them is set back
CALLS: list[tuple[pl.LightningModule, str, Any]] = []


class Everything(Scalar):
    """Overrides every hook, only to write down that it was called, on whom, and with what."""

    def forward(self, batch: Any) -> Tensor:
        return batch[0] * self.x

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        return batch[0].sum()

    test_step = validation_step

    def configure_callbacks(self) -> list[pl.Callback]:
        return []

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _noting(name: str) -> Any:
    inherited = getattr(Everything, name)

    def hook(self: Everything, *arguments: Any, **options: Any) -> Any:
        CALLS.append((self, name, readable([*arguments, *options.values()])))
        return inherited(self, *arguments, **options)

    return hook


def readable(thing: Any) -> Any:
    """Something that compares: the numbers in the arguments of a hook, and the types of everything else."""
    if isinstance(thing, Tensor):
        return thing.tolist()
    if isinstance(thing, dict):
        return {key: readable(value) for key, value in thing.items()}
    if type(thing) in (list, tuple):
        return [readable(part) for part in thing]
    if isinstance(thing, torch.optim.Optimizer) or callable(thing):
        return "..."
    return thing if isinstance(thing, (int, float, str, type(None))) else type(thing).__name__


# Lightning refuses a module that overrides both configure_model and its old name.
NOTED = sorted(LIGHTNINGS - set(UNUSED_HOOKS) - {"configure_sharded_model"})
for _name in NOTED:
    setattr(Everything, _name, _noting(_name))


@pytest.fixture(autouse=True)
def calls() -> Iterator[list[tuple[pl.LightningModule, str, Any]]]:
    CALLS.clear()
    yield CALLS
    CALLS.clear()


ROWS = [2.0, 6.0, 1.0, 3.0, 5.0]


def run(module: pl.LightningModule, data: Any, tmp_path: Path, **options: Any) -> None:
    """Everything that a Trainer can do."""
    run = trainer(**options)
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "a.ckpt")
    run.validate(module, data, verbose=False)
    run.test(module, data, verbose=False)
    run.predict(module, data)
    trainer(**{**options, "max_epochs": 2}).fit(module, data, ckpt_path=tmp_path / "a.ckpt", **TRUSTED)


@pytest.fixture
def stock(tmp_path: Path, calls: list[Any]) -> list[tuple[str, Any]]:
    """What a plain Trainer calls."""
    run(Everything(), EvaluatedRows(ROWS, batch_size=2), tmp_path)
    seen = [(name, arguments) for _, name, arguments in calls]
    calls.clear()
    return seen


def federated(tmp_path: Path) -> tuple[Everything, list[tuple[pl.LightningModule, str, Any]]]:
    module = Everything()
    run(FederatedModule(module), FederatedDataModule({"bob": EvaluatedRows(ROWS, batch_size=2)}), tmp_path)
    return module, list(CALLS)


def test_the_plain_trainer_calls_every_hook(stock: list[tuple[str, Any]]) -> None:
    assert {name for name, _ in stock} == set(NOTED)  # or this file would show less than it says


def test_server_hooks_are_called_on_the_users_own_module_as_by_a_plain_trainer(stock: Any, tmp_path: Path) -> None:
    module, calls = federated(tmp_path)
    own = [(name, arguments) for who, name, arguments in calls if who is module and name in SERVER_HOOKS]
    assert own == [(name, arguments) for name, arguments in stock if name in SERVER_HOOKS]
    assert {name for name, _ in own} == set(SERVER_HOOKS) - {"configure_sharded_model"}
    assert not [name for who, name, _ in calls if who is not module and name in SERVER_HOOKS]


def test_local_hooks_are_called_on_a_copy_in_the_trainers_order_with_the_trainers_arguments(
    stock: Any, tmp_path: Path
) -> None:
    module, calls = federated(tmp_path)
    local = {*LOCAL_HOOKS, "training_step"}

    def first_epoch(names: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
        first = [name for name, _ in names].index("on_train_epoch_end")
        return names[: first + 1]

    ours = first_epoch([(name, arguments) for who, name, arguments in calls if who is not module and name in local])
    theirs = first_epoch([(name, arguments) for name, arguments in stock if name in local])
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert {name for name, _ in ours} == local
    for (name, ours_), (_, theirs_) in zip(ours, theirs, strict=True):
        assert ours_ == theirs_, name
    assert not [name for who, name, _ in calls if who is module and name in local]


def test_evaluation_steps_get_the_users_own_batch(stock: Any, tmp_path: Path) -> None:
    module, calls = federated(tmp_path)
    steps = {*EVALUATION_STEPS, "predict_step", "forward"}
    own = [(name, arguments) for who, name, arguments in calls if who is module and name in steps]
    assert own == [(name, arguments) for name, arguments in stock if name in steps]


def test_transfer_hooks_are_called_around_every_batch_and_see_the_users_own(stock: Any, tmp_path: Path) -> None:
    module, calls = federated(tmp_path)
    ours = [(name, arguments) for _, name, arguments in calls if name in TRANSFER_HOOKS]
    theirs = [(name, arguments) for name, arguments in stock if name in TRANSFER_HOOKS]
    assert ours == theirs
    copies = {id(who) for who, name, _ in calls if name == "training_step"}
    assert {id(who) for who, name, _ in calls if name in TRANSFER_HOOKS} == {id(module), *copies}


def test_checkpoint_hooks_see_a_checkpoint_of_the_users_module(tmp_path: Path) -> None:
    states: list[list[str]] = []

    class Checkpointed(Scalar):
        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            states.append(list(checkpoint["state_dict"]))
            checkpoint["mine"] = 7

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            states.append(list(checkpoint["state_dict"]))
            assert checkpoint["mine"] == 7

    fed, data = FederatedModule(Checkpointed()), FederatedDataModule({"bob": Rows(ROWS)})
    fit(fed, data).save_checkpoint(tmp_path / "a.ckpt")
    trainer(max_epochs=2).fit(fed, data, ckpt_path=tmp_path / "a.ckpt", **TRUSTED)
    assert states == [["x"], ["x"]]


# ---- transfer hooks of datamodules -----------------------------------------------------------------------------------


class Doubling(Rows):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] * 2]

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


class Adding(Scalar):
    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 1]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [batch[0] + 100]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", batch[0].mean())


class Validated(Rows):
    def val_dataloader(self) -> Any:
        return self.train_dataloader()


def test_a_workers_own_transfer_hooks_win_over_the_modules_one_by_one() -> None:
    # The module alone: 1 + 1 + 100. With the worker's own "after": (1 + 1) * 2.
    for worker, expected in ((Validated([1.0]), 102.0), (Doubling([1.0]), 4.0)):
        fed = FederatedModule(Adding())
        run = fit(fed, FederatedDataModule({"bob": worker}))
        assert fed.module.x.item() == run.callback_metrics["mean"].item() == expected


def test_central_data_passes_its_own_transfer_hooks_and_not_those_of_a_worker() -> None:
    for worker, central, expected in ((Doubling([1.0]), Validated([5.0]), 106.0), (Rows([1.0]), Doubling([5.0]), 12.0)):
        data = FederatedDataModule({"bob": worker}, val=central)
        assert trainer().validate(FederatedModule(Adding()), data, verbose=False) == [{"mean": expected}]


# ---- hooks that are not used, and hooks that steer -------------------------------------------------------------------


@pytest.mark.parametrize("hook", UNUSED_HOOKS)
def test_a_hook_that_is_not_used_is_told(hook: str) -> None:
    module = type("Own", (Scalar,), {hook: lambda self: Rows([1.0]).train_dataloader()})()
    with pytest.warns(UserWarning, match=rf"Own.{hook}\(\) is not used: \w+ data comes from"):
        fit(FederatedModule(module), FederatedDataModule({"bob": Rows([1.0])}))


class Stopping(Everything):
    """Wants no batch from the second one on."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
        super().on_train_batch_start(batch, batch_idx)
        return -1 if batch_idx == 1 else None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.mark.usefixtures("double")
def test_on_train_batch_start_may_skip_the_rest_of_a_pass(calls: list[Any]) -> None:
    alone, module = Stopping(), Stopping()
    names = {*LOCAL_HOOKS, "training_step"}
    rows = EvaluatedRows(ROWS, batch_size=2)
    trainer(max_epochs=2, limit_val_batches=0).fit(alone, rows)
    theirs = [name for _, name, _ in calls if name in names]
    calls.clear()
    fit(FederatedModule(module, local_epochs=2), FederatedDataModule({"bob": rows}), limit_val_batches=0)
    ours = [name for _, name, _ in calls if name in names]
    assert ours.count("training_step") == theirs.count("training_step") == 2
    assert ours == theirs
    assert_equal(module.x.item(), alone.x.item())


def test_nothing_to_train_with_at_all_leaves_the_model() -> None:
    class Never(Scalar):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int:
            return -1

    module = Never(x=3.0)
    fit(FederatedModule(module, local_steps=5), FederatedDataModule({"bob": Rows([1.0])}))
    assert module.x.item() == 3.0


# ---- self.log in every hook ------------------------------------------------------------------------------------------

MAY_LOG = sorted(set(NOTED) & {name for name, allowed in _FxValidator.functions.items() if allowed is not None})
MAY_NOT_LOG = sorted(
    name for name, allowed in _FxValidator.functions.items() if allowed is None and name in SERVER_HOOKS
)


def logging_in(hooks: list[str]) -> pl.LightningModule:
    """A module that logs in hooks, each under its name the hook's place in the list."""

    def log(name: str) -> Any:
        def hook(self: Any, *arguments: Any, **options: Any) -> Any:
            self.log(name, float(MAY_LOG.index(name)) if name in MAY_LOG else 1.0)
            return getattr(super(kind, self), name)(*arguments, **options)

        return hook

    class Base(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch

    kind: Any = type("Logging", (Base,), {name: log(name) for name in hooks})
    return kind()


def test_self_log_works_wherever_a_plain_trainer_allows_it() -> None:
    assert len(MAY_LOG) > 25
    rows = EvaluatedRows(ROWS, batch_size=2)
    seen = []
    for module, data in (
        (logging_in(MAY_LOG), rows),
        (FederatedModule(logging_in(MAY_LOG)), FederatedDataModule({"bob": rows})),
    ):
        run = trainer()
        run.fit(module, data)
        metrics = {name: value.item() for name, value in run.callback_metrics.items()}
        (tested,) = run.test(module, data, verbose=False)
        seen.append({name: value for name, value in {**metrics, **tested}.items() if name in MAY_LOG})
    stock, ours = seen
    assert set(stock) == set(MAY_LOG)
    assert ours == stock


@pytest.mark.parametrize("hook", [name for name in MAY_NOT_LOG if name.startswith("on_fit") or name == "on_train_end"])
def test_self_log_is_refused_where_a_plain_trainer_refuses_it(hook: str) -> None:
    with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match=r"can't `self.log"):
        fit(FederatedModule(logging_in([hook])), FederatedDataModule({"bob": EvaluatedRows(ROWS)}))
