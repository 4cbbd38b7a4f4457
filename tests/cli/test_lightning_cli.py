"""A LightningCLI of the user's around a FederatedModule: by class, in subclass mode, and without classes."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from commands import HERE, WORKERS, Data, Injected, Net, NoOptimizer, config, quiet_and_restored
from pytorch_lightning.cli import LightningCLI

from lightning_fed import FederatedDataModule, FederatedModule

CLASSES = {"model_class": FederatedModule, "datamodule_class": FederatedDataModule}
SUBCLASSES = {"subclass_mode_model": True, "subclass_mode_data": True}
MODES: dict[str, dict[str, Any]] = {
    "by class": CLASSES,
    "in subclass mode": {**CLASSES, **SUBCLASSES},
    "in subclass mode of Lightning's classes": {
        "model_class": pl.LightningModule,
        "datamodule_class": pl.LightningDataModule,
        **SUBCLASSES,
    },
    "without classes": {},
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]
modes = pytest.mark.parametrize("mode", [mode for mode in MODES if "Lightning's" not in mode])


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", ["own.py"])
    with quiet_and_restored():
        yield


def run(mode: str, *arguments: str, cli: type[LightningCLI] = LightningCLI, **options: Any) -> LightningCLI:
    """Run the command line of a mode on ``c.yaml`` in this folder, which is made for it if there is none."""
    if not Path("c.yaml").exists():
        write(mode, config())
    command, *rest = arguments
    replace = {"save_config_kwargs": {"overwrite": True}, **MODES[mode], **options}
    return cli(args=[command, "-c", "c.yaml", *rest], **replace)


def write(mode: str, content: dict[str, Any]) -> None:
    if mode != "by class":
        for section, kind in (("model", "FederatedModule"), ("data", "FederatedDataModule")):
            content[section] = {"class_path": f"lightning_fed.{kind}", "init_args": content[section]}
    Path("c.yaml").write_text(yaml.safe_dump(content))


def weights(module: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


# ---- hyperparameters -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_modules_and_datamodules_have_their_own_hyperparameters(mode: str) -> None:
    cli = run(mode, "fit", "--trainer.logger=false")
    assert cli.trainer.global_step == 2
    assert dict(cli.model.module.hparams) == {"dim": 3, "lr": 0.05}
    assert dict(cli.datamodule.workers["b"].hparams) == {"seed": 1, "batch_size": 4}
    by_hand = FederatedModule(Net(lr=0.05))
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(by_hand, FederatedDataModule({"a": Data(0), "b": Data(1)}))
    # cohorts and batches are the data's seed's, and nothing else is drawn
    assert torch.equal(weights(cli.model), weights(by_hand))


@modes
def test_only_some_hyperparameters(mode: str) -> None:
    write(mode, config(max_epochs=1, logger=False))
    cli = run(mode, "fit", f"--model.module={__name__}.SavesSome")
    assert dict(cli.model.module.hparams) == {"lr": 0.05}


class SavesSome(Net):
    def __init__(self, dim: int = 3, lr: float = 0.05) -> None:
        super(Net, self).__init__()
        self.save_hyperparameters("lr")
        self.net = torch.nn.Linear(dim, 1)


@modes
def test_an_injected_optimizer_is_kept_as_the_config_has_it(mode: str) -> None:
    """As Lightning keeps it for the outermost module: so a checkpoint can be read, and its module built."""
    options = (f"--model.module={HERE}.Injected", "--model.module.optimizer=Adam", "--model.module.optimizer.lr=0.01")
    cli = run(mode, "fit", *options, "--trainer.default_root_dir=run")
    module = cli.model.module
    assert module.hparams["optimizer"]["class_path"] == "torch.optim.Adam"
    assert module.optimizer(module.parameters()).param_groups[0]["lr"] == 0.01
    again = pickle.loads(pickle.dumps(module))  # it does not refer to the command line
    assert type(again.configure_optimizers()) is torch.optim.Adam

    path = cli.trainer.checkpoint_callback.best_model_path  # type: ignore[union-attr]
    opened = Injected.load_from_checkpoint(path)
    assert torch.equal(weights(opened), weights(module))
    assert opened.configure_optimizers().param_groups[0]["lr"] == 0.01
    evaluated = run(mode, "validate", *options, "--ckpt_path", path, "--trainer.logger=false")
    assert torch.equal(weights(evaluated.model), weights(module))


@modes
@pytest.mark.parametrize("apply_on", ["parse", "instantiate"])
def test_links_from_the_data_to_the_module(mode: str, apply_on: Any) -> None:
    inner = "init_args." if mode != "by class" else ""
    source = f"data.{inner}seed" if apply_on == "parse" else "data.seed"

    class Linked(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            target = f"model.{inner}module.init_args.dim"
            parser.link_arguments(source, target, compute_fn=lambda seed: seed + 3, apply_on=apply_on)

    cli = run(mode, "fit", "--trainer.logger=false", f"--data.{inner}seed=0", cli=Linked)
    assert cli.trainer.global_step == 2
    assert dict(cli.model.module.hparams) == {"dim": 3, "lr": 0.05}


def federated(lr: float, mu: float = 0.0) -> FederatedModule:
    return FederatedModule(Net(lr=lr))


def test_a_function_that_makes_the_federated_module() -> None:
    content = {**config(logger=False, enable_checkpointing=False), "model": {"lr": 0.01}}
    Path("c.yaml").write_text(yaml.safe_dump(content))
    cli = run("by class", "fit", model_class=federated)
    assert dict(cli.model.module.hparams) == {"dim": 3, "lr": 0.01}


@modes
def test_building_without_running(mode: str) -> None:
    write(mode, config(logger=False))
    cli = LightningCLI(args=["-c", "c.yaml"], run=False, **MODES[mode])
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 2


# ---- --ckpt_path -----------------------------------------------------------------------------------------------------


@modes
def test_evaluating_and_resuming_a_checkpoint(mode: str) -> None:
    saving = f"--trainer.callbacks+={pl.__name__}.callbacks.ModelCheckpoint", "--trainer.callbacks.dirpath=out"
    options = (*saving, "--trainer.callbacks.save_last=true", "--trainer.logger=false")
    fitted = run(mode, "fit", *options)
    loss = fitted.trainer.callback_metrics["val_loss"]
    for command, metric in (("validate", "val_loss"), ("test", "test_loss")):
        cli = run(mode, command, *options, "--ckpt_path", "out/last.ckpt")
        assert torch.equal(cli.trainer.callback_metrics[metric], loss)
    run(mode, "predict", *options, "--ckpt_path", "out/last.ckpt")

    with pytest.warns(UserWarning, match=r"module.init_args.lr is 0.5, but .*last.ckpt was written with 0.05"):
        resumed = run(
            mode, "fit", *options, "--ckpt_path", "last", "--trainer.max_epochs=3", "--model.module.init_args.lr=0.5"
        )
    assert resumed.trainer.global_step == 3
    assert resumed.model.module.hparams["lr"] == 0.5


# ---- --optimizer -----------------------------------------------------------------------------------------------------

OPTIMIZER = ("--optimizer=SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0.9")
SCHEDULER = ("--lr_scheduler=StepLR", "--lr_scheduler.step_size=1", "--lr_scheduler.gamma=0.5")


@modes
@pytest.mark.parametrize("options", [OPTIMIZER, (*OPTIMIZER, *SCHEDULER)], ids=["alone", "with a scheduler"])
def test_the_optimizer_option_is_the_workers(mode: str, options: tuple[str, ...]) -> None:
    """One worker and one round of two epochs are what the module alone gets from the same options."""
    content = config(max_epochs=1, logger=False, enable_checkpointing=False)
    content["data"]["workers"] = {"a": WORKERS["a"]}
    content["model"] |= {"module": {"class_path": f"{HERE}.NoOptimizer"}, "local_epochs": 2}
    write(mode, content)
    cli = run(mode, "fit", *options)
    (server,) = cli.trainer.optimizers
    assert (type(server), server.param_groups[0]["momentum"]) == (torch.optim.SGD, 0)

    trainer = {**content["trainer"], "max_epochs": 2}
    Path("plain.yaml").write_text(yaml.safe_dump({"seed_everything": 0, "trainer": trainer}))
    plain = LightningCLI(NoOptimizer, Data, args=["fit", "-c", "plain.yaml", *options], save_config_callback=None)
    assert torch.allclose(weights(cli.model), weights(plain.model), rtol=1e-5)
    assert weights(cli.model).abs().sum() > 0


def test_the_optimizer_option_in_place_of_the_modules_own_is_said() -> None:
    with pytest.warns(UserWarning, match=r"Net.configure_optimizers\(\) is not used: the workers' optimizer is that"):
        run("by class", "fit", *OPTIMIZER, "--trainer.logger=false")


def test_copies_of_the_module_make_an_optimizer_of_their_own() -> None:
    write("by class", config(logger=False, enable_checkpointing=False))
    cli = run("by class", "fit", f"--model.module={HERE}.NoOptimizer", *OPTIMIZER)
    module = cli.model.module
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        (group,) = other.configure_optimizers().param_groups
        assert [id(parameter) for parameter in group["params"]] == [id(parameter) for parameter in other.parameters()]
        assert group["lr"] == 0.1


def test_a_scheduler_without_an_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"--lr_scheduler is for .* --optimizer .* and there is none; give both, or"):
        run("by class", "fit", *SCHEDULER)


def test_a_fixed_optimizer_class_and_an_own_way_to_configure_it() -> None:
    class Own(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_optimizer_args(torch.optim.Adam)
            parser.add_lr_scheduler_args(torch.optim.lr_scheduler.ExponentialLR)
            parser.set_defaults({"lr_scheduler.gamma": 0.5, "optimizer.lr": 0.125})

        @staticmethod
        def configure_optimizers(lightning_module: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
            asked.append((type(lightning_module), type(optimizer), lr_scheduler.gamma))
            return optimizer

    asked: list[Any] = []
    write("by class", config(logger=False, enable_checkpointing=False))
    cli = run("by class", "fit", f"--model.module={HERE}.NoOptimizer", cli=Own)
    assert set(asked) == {(NoOptimizer, torch.optim.Adam, 0.5)}
    assert cli.model.module.configure_optimizers().param_groups[0]["lr"] == 0.125


def test_an_optimizer_linked_to_an_argument_of_the_module() -> None:
    class Own(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_optimizer_args(nested_key="local", link_to="model.module.init_args.optimizer")

    options = ("--local=SGD", "--local.lr=0.25", "--trainer.logger=false")
    cli = run("by class", "fit", f"--model.module={HERE}.Injected", *options, cli=Own)
    assert cli.model.module.configure_optimizers().param_groups[0]["lr"] == 0.25


def test_two_optimizers_that_take_one_place_are_refused() -> None:
    class Own(LightningCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_optimizer_args(torch.optim.SGD, "one")
            parser.add_optimizer_args(torch.optim.SGD, "other")

    with pytest.raises(Exception, match="one and other cannot both take the place of configure_optimizers"):
        run("by class", "fit", "--one.lr=1", "--other.lr=1", cli=Own)


def test_a_module_without_an_optimizer_names_the_option() -> None:
    with pytest.raises(
        ValueError, match=r"has no configure_optimizers\(\); .*: define it, or give --optimizer to a CLI"
    ):
        run("by class", "fit", f"--model.module={HERE}.NoOptimizer", "--trainer.logger=false")


# ---- another model ---------------------------------------------------------------------------------------------------


def test_a_command_line_without_a_federated_module_is_lightnings() -> None:
    content = {"seed_everything": 0, "trainer": config(max_epochs=1)["trainer"]}
    Path("plain.yaml").write_text(yaml.safe_dump(content))
    options: Any = {"args": ["fit", "-c", "plain.yaml", *OPTIMIZER, "--trainer.default_root_dir=run"]}
    with pytest.warns(UserWarning, match=r"`Net.configure_optimizers` will be overridden by `LightningCLI"):
        plain = LightningCLI(Net, Data, **options)
    assert plain.model.hparams["_instantiator"] == "pytorch_lightning.cli.instantiate_module"
