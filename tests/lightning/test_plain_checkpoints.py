"""From plain Lightning to a federated run and back, by checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import UNTRUSTED, EvaluatedRows, Scalar, averaging, fit, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedPer, FedProx
from lightning_fed.server.checkpoint import KEY

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:the workers' StepLR begins anew in each round"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Evaluated(Scalar):
    """x moves half of the way to the mean; its loss on other data is the distance. It has an optimizer with a past."""

    def __init__(self, lr: float = 0.5, x: float = 0.0, adam: bool = False) -> None:
        super().__init__(lr, x)
        self.save_hyperparameters()
        self.adam = adam

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("distance", (self.x - batch[0]).abs().mean(), batch_size=len(batch[0]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.x - batch[0]

    def configure_optimizers(self) -> Any:
        if self.adam:
            return torch.optim.Adam(self.parameters(), lr=self.lr)
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


def rows() -> EvaluatedRows:
    return EvaluatedRows([8.0])


def data() -> FederatedDataModule:
    return FederatedDataModule({"a": rows()})


def plain_checkpoint(path: Path, weights_only: bool = False, **options: Any) -> Path:
    """x goes from 0 to 4: half of the way to 8."""
    run = trainer()
    run.fit(Evaluated(**options), rows())
    run.save_checkpoint(path / "plain.ckpt", weights_only=weights_only)
    return path / "plain.ckpt"


def federated_checkpoint(path: Path, weights_only: bool = False, **options: Any) -> Path:
    """The same of a federated run."""
    run = fit(FederatedModule(Evaluated(**options), server_optimizer=momentum), data())
    run.save_checkpoint(path / "federated.ckpt", weights_only=weights_only)
    return path / "federated.ckpt"


def momentum(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0, momentum=0.9)


class Notes(pl.Callback):
    """The learning rates and the state of the optimizer when training starts."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        self.lrs = [group["lr"] for group in optimizer.param_groups]
        self.state = dict(optimizer.state)


# ---- a plain checkpoint ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"adam": True}, {"weights_only": True}], ids=["SGD", "Adam", "weights only"])
def test_a_fit_does_not_go_on_from_it_and_says_how_to_begin_with_it(tmp_path: Path, options: dict[str, Any]) -> None:
    path = plain_checkpoint(tmp_path, **options)
    module = Evaluated()
    with pytest.raises(ValueError, match=r"is one of the module alone.*To begin with its weights, fit FederatedModule"):
        trainer().fit(FederatedModule(module), data(), ckpt_path=path)
    assert module.x.item() == 0.0


def test_nor_if_it_is_the_last_or_the_best_of_the_trainer(tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path, monitor="distance", save_last=True)
    run = trainer(callbacks=[save], enable_checkpointing=True)
    run.fit(Evaluated(), rows())
    for word in ("last", "best"):
        with pytest.raises(ValueError, match="is one of the module alone"):
            run.fit(FederatedModule(Evaluated()), data(), ckpt_path=word)


@pytest.mark.parametrize("write", [plain_checkpoint, federated_checkpoint])
@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("what", ["validate", "test", "predict"])
def test_it_is_evaluated_as_by_a_plain_trainer(
    tmp_path: Path, write: Callable[..., Path], weights_only: bool, what: str
) -> None:
    path = write(tmp_path, weights_only=weights_only)
    silent: dict[str, Any] = {} if what == "predict" else {"verbose": False}
    expected = getattr(trainer(), what)(Evaluated(), rows(), ckpt_path=path, **silent)
    actual = getattr(trainer(), what)(FederatedModule(Evaluated()), data(), ckpt_path=path, **UNTRUSTED, **silent)
    assert expected == ([torch.tensor([-4.0])] if what == "predict" else [{"distance": 4.0}])
    assert actual == expected


# ---- a federated run that begins with the weights of a checkpoint ----------------------------------------------------


@pytest.mark.parametrize("write", [plain_checkpoint, federated_checkpoint])
@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("build", [True, False])
def test_it_begins_with_the_weights(
    tmp_path: Path, write: Callable[..., Path], weights_only: bool, build: bool
) -> None:
    path = write(tmp_path, weights_only=weights_only, lr=0.5)
    given = Evaluated if build else Evaluated(lr=0.25, x=9.0)
    fed = FederatedModule.from_checkpoint(path, given, algorithm=FedProx(mu=0.0), local_steps=1)
    assert fed.module.x.item() == 4.0
    assert fed.module.hparams["lr"] == (0.5 if build else 0.25)
    assert isinstance(fed.algorithm, FedProx)
    run = fit(fed, data())
    assert run.global_step == 1
    assert fed.module.x.item() == (6.0 if build else 5.0)


def test_layers_of_configure_model_are_made_first(tmp_path: Path) -> None:
    class Late(Evaluated):
        def configure_model(self) -> None:
            if not hasattr(self, "late"):
                self.late = torch.nn.Parameter(torch.tensor(1.0))

    run, module = trainer(), Late()
    run.fit(module, rows())
    module.late.data.fill_(3.0)
    run.save_checkpoint(tmp_path / "plain.ckpt")
    for given in (Late, Late()):
        assert FederatedModule.from_checkpoint(tmp_path / "plain.ckpt", given).module.late == 3.0


def test_what_cannot_be_begun_with_is_refused_in_words(tmp_path: Path) -> None:
    path = plain_checkpoint(tmp_path)
    with pytest.raises(TypeError, match="module is a FederatedModule already: give the LightningModule in it"):
        FederatedModule.from_checkpoint(path, FederatedModule(Evaluated()))
    with pytest.raises(
        TypeError, match=r"module=dict must be a pytorch_lightning.LightningModule, or the class of one"
    ):
        FederatedModule.from_checkpoint(path, dict)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"module must be a pytorch_lightning\.LightningModule, not int"):
        FederatedModule.from_checkpoint(path, 3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt"):
        FederatedModule.from_checkpoint(tmp_path / "none.ckpt", Evaluated)
    (tmp_path / "bad.ckpt").write_bytes(b"")
    for given in (Evaluated, Evaluated()):
        with pytest.raises(ValueError, match=r"bad\.ckpt is empty; go on from another one"):
            FederatedModule.from_checkpoint(tmp_path / "bad.ckpt", given)


# ---- a federated checkpoint in a plain Trainer -----------------------------------------------------------------------


@pytest.mark.parametrize("adam", [False, True])
def test_a_plain_trainer_goes_on_from_it_with_the_modules_own_optimizer(tmp_path: Path, adam: bool) -> None:
    path, notes, module = federated_checkpoint(tmp_path), Notes(), Evaluated(lr=0.25, adam=adam)
    trainer(max_epochs=2, callbacks=[notes]).fit(module, rows(), ckpt_path=path, **UNTRUSTED)
    assert notes.lrs == [0.25]
    assert notes.state == {}
    oracle = Evaluated(lr=0.25, x=4.0, adam=adam)
    trainer(max_epochs=1).fit(oracle, rows())
    assert module.x.item() == oracle.x.item()


def test_a_plain_trainer_averages_weights_further_from_it(tmp_path: Path) -> None:
    def average() -> pl.Callback:
        return averaging(decay=0.5)

    run = trainer(max_epochs=2, callbacks=[average(), Saves(tmp_path / "federated.ckpt")])
    run.fit(FederatedModule(Evaluated()), data())
    plain = trainer(max_epochs=2, callbacks=[average(), Saves(tmp_path / "plain.ckpt")])
    plain.fit(Evaluated(), rows())
    ours, theirs = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("federated", "plain"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert ours[key].keys() == theirs[key].keys()
    module = Evaluated()
    trainer(max_epochs=3, callbacks=[average()]).fit(module, rows(), ckpt_path=tmp_path / "federated.ckpt")
    x, averaged = (float(ours[key]["x"]) for key in ("current_model_state", "state_dict"))
    assert module.x.item() == averaged + ((x + 8.0) / 2 - averaged) / 2


class Saves(pl.Callback):
    """Writes a checkpoint at the end of every epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


# ---- a checkpoint of an earlier release ------------------------------------------------------------------------------


def as_version_3(content: dict[str, Any]) -> dict[str, Any]:
    """The same in the format before: nothing where Lightning looks for optimizers, and the wrapper's names in there."""
    del content["optimizer_states"], content["lr_schedulers"]
    content["current_model_state"] = {f"module.{name}": v for name, v in content["current_model_state"].items()}
    content[KEY]["version"] = 3
    return content


def test_a_run_goes_on_from_the_format_before(tmp_path: Path) -> None:
    def run(epochs: int, path: Path | None = None, *more: pl.Callback) -> Evaluated:
        module, average = Evaluated(), averaging(decay=0.5)
        fed = FederatedModule(module, server_optimizer=momentum)
        trainer(max_epochs=epochs, callbacks=[average, *more]).fit(fed, data(), ckpt_path=path)
        return module

    run(2, None, Saves(tmp_path / "new.ckpt"))
    torch.save(as_version_3(torch.load(tmp_path / "new.ckpt", weights_only=True)), tmp_path / "old.ckpt")
    straight = run(4)
    for name in ("new", "old"):
        assert run(4, tmp_path / f"{name}.ckpt").x.item() == straight.x.item()


class Personal(Scalar):
    """Its x stays with the worker; y is everybody's."""

    def __init__(self) -> None:
        super().__init__(lr=0.5)
        self.y = torch.nn.Parameter(torch.tensor(0.0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.y**2

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("x", self.x)


def test_load_from_checkpoint_of_the_whole_gives_the_weights_and_what_workers_keep(tmp_path: Path) -> None:
    data = FederatedDataModule({"ann": EvaluatedRows([8.0]), "bob": EvaluatedRows([-4.0])})
    run = fit(FederatedModule(Personal(), algorithm=FedPer(["x"])), data)
    run.save_checkpoint(tmp_path / "whole.ckpt")
    loaded = FederatedModule.load_from_checkpoint(
        tmp_path / "whole.ckpt", module=Personal(), algorithm=FedPer(["x"]), weights_only=False
    )
    assert loaded.own_state["personal"].keys() == {"ann", "bob"}
    trainer().validate(loaded, data, verbose=False)
    assert [values["x"] for values in loaded.last_evaluation.workers.values()] == [4.0, -2.0]
