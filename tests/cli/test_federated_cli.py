"""The modes of ``lightning-fed`` and of a command line of one's own that is built on it."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from commands import HERE, config, quiet_and_restored
from pytorch_lightning.callbacks import EarlyStopping, ProgressBar, RichProgressBar, TQDMProgressBar
from pytorch_lightning.cli import SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger

from lightning_fed.callbacks import Dashboard, RoundProgress
from lightning_fed.cli import FederatedCLI, main
from lightning_fed.cli.short_help import short_help
from lightning_fed.secure import SecureAggregation

pytestmark = pytest.mark.filterwarnings("ignore:.* directory .* exists and is not empty")
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", ["own.py"])
    write(config(enable_progress_bar=None))
    with quiet_and_restored():
        yield


def write(content: Any, path: str = "c.yaml") -> None:
    Path(path).write_text(yaml.safe_dump(content))


def fit(*arguments: str, cli: type[FederatedCLI] = FederatedCLI, **options: Any) -> FederatedCLI:
    return cli(["fit", "-c", "c.yaml", *arguments], **options)


def weights(cli: FederatedCLI) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in cli.model.module.parameters()])


# ---- callbacks -------------------------------------------------------------------------------------------------------


def built(*arguments: str, **options: Any) -> FederatedCLI:
    """Build everything, and run nothing."""
    return FederatedCLI(["-c", "c.yaml", *arguments], run=False, **options)


@pytest.mark.parametrize(
    "given",
    [
        {"class_path": "lightning_fed.secure.SecureAggregation", "init_args": {"clip": 3.0, "weight_cap": 9}},
        {"class_path": "SecureAggregation", "init_args": {"clip": {"delta": 3.0}, "weight_cap": 9}},
        {"clip": 3.0, "weight_cap": 9, "threshold": 0.8},
    ],
)
def test_secure_aggregation_by_its_class_or_by_its_fields(given: dict[str, Any]) -> None:
    whole = config()
    whole["model"]["secure_aggregation"] = given
    write(whole)
    secure = built().model.secure_aggregation
    assert secure == SecureAggregation(**given.get("init_args", given))
    assert built("--model.secure_aggregation.bits=24").model.secure_aggregation.bits == 24


def test_callbacks_and_the_servers_scheduler_go_by_the_worst_decile() -> None:
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "workers/val_loss/p90", "patience": 9}}
    keep = {"class_path": "ModelCheckpoint", "init_args": {"monitor": "workers/val_loss/p90"}}
    whole = config(callbacks=[stop, keep])
    plateau = {
        "class_path": "pytorch_lightning.cli.ReduceLROnPlateau",
        "init_args": {"monitor": "workers/val_loss/std"},
    }
    whole["model"]["server_lr_scheduler"] = plateau
    write(whole)
    trainer = fit().trainer
    assert trainer.early_stopping_callback.best_score == trainer.checkpoint_callback.best_model_score > 0
    assert trainer.lr_scheduler_configs[0].scheduler.best > 0


def bars(cli: FederatedCLI) -> list[type]:
    return [type(callback) for callback in cli.trainer.callbacks if isinstance(callback, ProgressBar)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [RoundProgress]),
        (["--trainer.enable_progress_bar=true"], [RoundProgress]),
        (["--trainer.enable_progress_bar=false"], []),
        (["--trainer.barebones=true"], []),
        (["--trainer.callbacks=TQDMProgressBar", "--trainer.callbacks.refresh_rate=5"], [TQDMProgressBar]),
        (["--trainer.callbacks+=RichProgressBar", "--trainer.callbacks.leave=true"], [RichProgressBar]),
        (["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val_loss"], [RoundProgress]),
    ],
)
def test_the_bar_over_rounds_gives_way_to_another_and_can_be_switched_off(arguments: list[str], expected: Any) -> None:
    content = config()
    for option in ("log_every_n_steps", "enable_progress_bar", "enable_model_summary"):  # which barebones refuses
        del content["trainer"][option]
    write(content)
    assert bars(built(*arguments)) == expected


def test_callbacks_of_the_config_of_trainer_defaults_and_of_the_parser() -> None:
    bar = {"class_path": "pytorch_lightning.callbacks.TQDMProgressBar", "init_args": {"refresh_rate": 7}}
    stop = {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitor": "val_loss"}}
    write(config(callbacks=[stop, bar], enable_progress_bar=None))
    cli = built()
    assert bars(cli) == [TQDMProgressBar]
    assert cli.trainer.progress_bar_callback.refresh_rate == 7  # type: ignore[union-attr]
    assert any(isinstance(callback, EarlyStopping) for callback in cli.trainer.callbacks)

    class Own(FederatedCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            parser.add_lightning_class_args(TQDMProgressBar, "bar")

    write(config(enable_progress_bar=None))
    assert bars(built(trainer_defaults={"callbacks": [RichProgressBar()]})) == [RichProgressBar]
    own = Own(["-c", "c.yaml", "--bar.refresh_rate=3"], run=False)
    assert [callback.refresh_rate for callback in own.trainer.callbacks if isinstance(callback, ProgressBar)] == [3]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [True]),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"], [True]),
        (["--trainer.logger=false"], []),
        (["--trainer.barebones=true"], []),
        (["--trainer.callbacks+=lightning_fed.callbacks.Dashboard", "--trainer.callbacks.figures=false"], [False]),
    ],
)
def test_a_dashboard_is_there_unless_nothing_is_logged_or_one_is_given(arguments: list[str], expected: Any) -> None:
    content = config()
    for option in ("log_every_n_steps", "enable_progress_bar", "enable_model_summary"):  # which barebones refuses
        del content["trainer"][option]
    write(content)
    callbacks = built(*arguments).trainer.callbacks  # type: ignore[attr-defined]
    assert [callback.figures for callback in callbacks if isinstance(callback, Dashboard)] == expected


# ---- the Trainer's modes ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_barebones_needs_no_other_option(capsys: pytest.CaptureFixture[str]) -> None:
    content = config(barebones=True)
    for option in ("enable_progress_bar", "enable_model_summary"):
        del content["trainer"][option]
    assert "log_every_n_steps" in content["trainer"]  # as in the configs that come with the package
    write(content)
    cli = fit()
    assert (cli.trainer.global_step, cli.trainer.loggers) == (2, [])
    assert not Path("logs").exists()
    with pytest.raises(SystemExit):
        fit("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv")  # which the user has asked for
    assert "error: `Trainer(barebones=True, logger=<" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [TensorBoardLogger]),
        (["--trainer.logger=true"], [TensorBoardLogger]),
        (["--trainer.logger=false"], []),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv"], [CSVLogger]),
    ],
)
def test_loggers(arguments: list[str], expected: Any) -> None:
    assert [type(logger) for logger in built(*arguments).trainer.loggers] == expected


def test_fast_dev_run_is_one_round_that_leaves_nothing() -> None:
    assert fit("--trainer.fast_dev_run=true").trainer.global_step == 1
    assert not Path("logs").exists()


# ---- configs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["", "=skip_null"])
def test_what_is_printed_runs_as_what_it_was_made_of(how: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--optimizer=SGD", "--optimizer.lr=0.1", f"--model.module={HERE}.NoOptimizer", "--trainer.logger=false")
    with pytest.raises(SystemExit) as left:
        fit(*options, f"--print_config{how}")
    assert left.value.code == 0
    Path("printed.yaml").write_text(capsys.readouterr().out)
    assert torch.equal(weights(FederatedCLI(["fit", "-c", "printed.yaml"])), weights(fit(*options)))


def test_a_later_config_wins_wherever_it_is_named() -> None:
    write({"trainer": {"max_epochs": 1, "logger": False}}, "later.yaml")
    for arguments in (["-c", "later.yaml"], ["--config", "later.yaml"], ["--config=later.yaml"], ["-clater.yaml"]):
        assert fit(*arguments).trainer.max_epochs == 1
    write({"fit": config(max_epochs=1, logger=False)}, "whole.yaml")
    assert FederatedCLI(["-c", "whole.yaml", "fit"]).trainer.max_epochs == 1
    main(["-c", "whole.yaml"])


def test_a_config_as_a_dict() -> None:
    cli = FederatedCLI({"subcommand": "fit", "fit": config(max_epochs=1, logger=False)})
    assert cli.trainer.global_step == 1
    assert FederatedCLI(config(), run=False).trainer.global_step == 0


def test_options_by_the_environment_and_by_default_files(monkeypatch: pytest.MonkeyPatch) -> None:
    write(config(max_epochs=1, logger=False))
    by_file = FederatedCLI(["fit"], parser_kwargs={"fit": {"default_config_files": ["c.yaml"]}})
    assert by_file.trainer.global_step == 1
    monkeypatch.setenv("PL_FIT__CONFIG", "c.yaml")
    monkeypatch.setenv("PL_FIT__SEED_EVERYTHING", "5")
    by_environment = FederatedCLI(["fit", "--trainer.max_epochs=2"], parser_kwargs={"default_env": True})
    assert by_environment.trainer.global_step == 2


def test_options_are_made_for_the_command_that_is_called_alone() -> None:
    """Or for all four, where it is not the first word; a config may be about several of them."""
    made: list[Any] = []

    class Counted(FederatedCLI):
        def add_arguments_to_parser(self, parser: Any) -> None:
            made.append(parser)

    write(config(max_epochs=1, logger=False))
    assert Counted(["fit", "-c", "c.yaml"]).trainer.global_step == 1
    assert len(made) == 1
    write({"fit": config(max_epochs=1, logger=False), "validate": config(max_epochs=7)}, "whole.yaml")
    for given, files, parsers in ((["-c", "whole.yaml", "fit"], [], 4), (["fit"], ["whole.yaml"], 1)):
        made.clear()
        assert Counted(given, parser_kwargs={"default_config_files": files}).trainer.max_epochs == 1
        assert len(made) == parsers


@pytest.mark.parametrize("seed", [7, False])
def test_the_default_of_the_seed(seed: Any) -> None:
    content = config(max_epochs=1, logger=False)
    del content["seed_everything"]
    write(content)
    assert fit(seed_everything_default=seed).config["fit"]["seed_everything"] == seed


def test_building_without_running() -> None:
    cli = built("--trainer.logger=false")
    assert cli.trainer.global_step == 0
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.trainer.global_step == 2


# ---- the record of the config ----------------------------------------------------------------------------------------


def test_the_record_of_a_run_lies_with_its_first_logger_and_runs() -> None:
    csv = {"class_path": "pytorch_lightning.loggers.CSVLogger", "init_args": {"save_dir": "csv", "version": "v"}}
    board = {"class_path": "pytorch_lightning.loggers.TensorBoardLogger", "init_args": {"save_dir": "board"}}
    write(config(logger=[csv, board], enable_checkpointing=False))
    for _ in range(2):  # the second in its place
        cli = fit()
    record = f"{cli.trainer.log_dir}/config.yaml"
    assert record.startswith("csv/")
    again = FederatedCLI(["fit", "-c", record, "--trainer.logger=false"])
    assert torch.equal(weights(again), weights(cli))


def test_another_record_or_none(capsys: pytest.CaptureFixture[str]) -> None:
    class Record(SaveConfigCallback):
        def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            print(f"a record, overwriting={self.overwrite}")

    fit("--trainer.logger=false", save_config_callback=Record)
    assert "a record, overwriting=True" in capsys.readouterr().out
    Path("config.yaml").unlink()
    fit("--trainer.logger=false", save_config_callback=None)
    assert not Path("config.yaml").exists()
    Path("config.yaml").touch()
    with pytest.raises(RuntimeError, match=r"config.yaml is the config of an earlier run and is not replaced"):
        fit("--trainer.logger=false", save_config_kwargs={"overwrite": False})


# ---- a command line of one's own -------------------------------------------------------------------------------------


class Own(FederatedCLI):
    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--rounds", type=int, default=1)
        parser.link_arguments("rounds", "trainer.max_epochs")
        parser.link_arguments("data.cohort_size", "model.min_workers", apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        self.config["fit"]["model"]["module"]["init_args"]["lr"] = 0.125

    def before_fit(self) -> None:
        print("before", self.trainer.global_step)

    def after_fit(self) -> None:
        print("after", self.trainer.global_step)


def test_hooks_and_links_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    content = config(logger=False)
    del content["trainer"]["max_epochs"]
    write(content)
    cli = fit("--rounds=3", cli=Own)
    assert "before 0\n" in (said := capsys.readouterr().out)
    assert "after 3\n" in said
    assert cli.model.min_workers == 2
    assert cli.model.module.hparams["lr"] == 0.125


def test_mistakes_are_answered_under_the_name_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit("--round=3", cli=Own)
    said = capsys.readouterr().err
    assert "error: there is no option '--round'; did you mean '--rounds'?" in said
    assert "own.py fit --help-all lists all options" in said


def test_an_error_in_a_hook_of_ones_own_keeps_its_traceback() -> None:
    class Faulty(FederatedCLI):
        def before_fit(self) -> None:
            raise ValueError("a fault in the user's hook")

    with pytest.raises(ValueError, match="a fault in the user's hook"):
        fit("--trainer.logger=false", cli=Faulty)


# ---- classes of one's own --------------------------------------------------------------------------------------------

MINE = """
from commands import Data, Net


class Mine(Net):
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["a script elsewhere", "python -m"])
def test_classes_in_the_current_folder_and_in_folders_of_it(way: str, tmp_path: Path) -> None:
    """``lightning-fed`` is a script in another folder, which Python takes its modules from."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "net.py").write_text(MINE)
    (tmp_path / "own_data.py").write_text("from commands import Data\n")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "lightning-fed").write_text("from lightning_fed.cli import main\nmain()\n")
    content = config(max_epochs=1, logger=False, enable_checkpointing=False)
    content["model"]["module"]["class_path"] = "parts.net.Mine"
    content["data"]["workers"]["a"]["class_path"] = "own_data.Data"
    write(content)
    program = ["bin/lightning-fed"] if way == "a script elsewhere" else ["-m", "lightning_fed"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"}
    command = [sys.executable, *program, "fit", "-c", "c.yaml", "--model.engine=sequential"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".parts.Net", r"model.module=.parts.Net is no path of a class: begin it with a module of the current folder"),
        ("Mine", r"there is no class 'Mine'; one of your own is given with its module, such as mine.Net"),
    ],
)
def test_a_path_that_is_none(path: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fit(f"--model.module={path}")
    assert message in capsys.readouterr().err


# ---- help ------------------------------------------------------------------------------------------------------------


class WithARate(FederatedCLI):
    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.add_argument("--rate", type=float, default=0.1, help="An option of one's own. More about it.")


def helped(capsys: pytest.CaptureFixture[str], *arguments: str, cli: type[FederatedCLI] = FederatedCLI) -> str:
    with pytest.raises(SystemExit) as left:
        cli(list(arguments), parser_kwargs={"prog": "lightning-fed"})
    assert left.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_is_one_screen_with_an_option_in_a_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, command, "--help")
    lines = said.splitlines()
    assert len(lines) <= 62
    assert lines[0].startswith(f"usage: lightning-fed {command} [-c CONFIG]")
    for option in ("--model.algorithm", "--data.cohort_size", "--ckpt_path", "--data.workers"):
        (line,) = [line for line in lines if line.startswith(f"  {option} ")]
        assert len(line.split()) > 3
    assert sum(line.startswith("  --trainer.") for line in lines) == 12
    assert not re.search(r"\([^)]*$|``", said, re.MULTILINE), "no sentence is cut within parentheses"


def test_what_the_screen_has_no_room_for_is_named() -> None:
    parser = argparse.ArgumentParser()
    for number in range(80):
        parser.add_argument(f"--model.option_{number}", help="One of many.")
    for number in range(10):
        parser.add_argument(f"--data.option_{number}", help="One of some.")
    lines = short_help(parser, "usage: it", "it").splitlines()
    assert len(lines) <= 62
    (also,) = [line for line in lines if line.startswith("  also ")]
    shown = [line.split()[0].lstrip("-") for line in lines if line.startswith("  --")]
    named = also.removeprefix("  also ").split(", ")
    assert [*shown[:-10], *named] == [f"model.option_{number}" for number in range(80)]
    assert shown[-1] == "data.option_9"


def test_help_all_has_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    said = helped(capsys, "fit", "--help-all")
    for option in ("--model.state_dir", "--trainer.limit_val_batches", "--trainer.plugins"):
        assert option in said


def test_help_has_the_options_of_a_command_line_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert re.search(r"  --rate +An option of one's own \(0.1\)\n", helped(capsys, "fit", "-h", cli=WithARate))


# ---- predict ---------------------------------------------------------------------------------------------------------


def test_predict_says_where_the_predictions_are(capsys: pytest.CaptureFixture[str]) -> None:
    saved = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.dirpath=here"]
    fit(*saved, "--trainer.callbacks.filename=it")
    capsys.readouterr()
    predict = ["predict", "-c", "c.yaml", *saved, "--ckpt_path", "here/it.ckpt"]
    FederatedCLI(predict)
    said = capsys.readouterr().out
    assert "The predictions are not written to a file; --trainer.callbacks+=PredictionWriter writes" in said
    FederatedCLI([*predict, "--trainer.callbacks+=PredictionWriter"])
    assert "The predictions are in predictions.pt, by worker\n" in capsys.readouterr().out
    assert list(torch.load("predictions.pt", weights_only=True)) == ["a", "b"]
