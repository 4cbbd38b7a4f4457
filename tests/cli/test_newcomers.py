"""What a newcomer's commands meet: packages that are missing, names alone, modules and checkpoints elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from commands import quiet_and_restored
from lightning_utilities.core.imports import RequirementCache

from lightning_fed.cli import FederatedCLI, main
from lightning_fed.record import read

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*JSONARGPARSE"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:.* directory .* exists and is not empty"),
]
ROOT = Path(__file__).parents[2]
QUICK = ("--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")


@pytest.fixture(autouse=True)
def _quiet_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with quiet_and_restored():
        yield


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The sentence with which a command is refused."""
    with pytest.raises(SystemExit) as left:
        main([*words])
    assert left.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


WANDB = ("--trainer.logger=WandbLogger", "loggers.wandb._WANDB_AVAILABLE", "WandbLogger needs ")
RICH = (
    "--trainer.callbacks+=RichProgressBar",
    "callbacks.progress.rich_progress._RICH_AVAILABLE",
    "RichProgressBar needs ",
)


@pytest.mark.parametrize(
    ("given", "requirement", "needs"),
    [
        (WANDB, RequirementCache(module="nosuch"), "nosuch: pip install nosuch"),
        (WANDB, RequirementCache("no-such>=1.0"), "no-such>=1.0: pip install 'no-such>=1.0'"),
        (RICH, RequirementCache(module="nosuch"), "rich: pip install rich"),
    ],
)
def test_a_package_that_is_missing_is_named(
    given: tuple[str, str, str],
    requirement: RequirementCache,
    needs: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    option, flag, says = given
    monkeypatch.setattr(f"pytorch_lightning.{flag}", requirement)
    assert refused(capsys, "fit", "-c", "toy", *QUICK, option) == f"error: {says}{needs}"


@pytest.mark.parametrize("name", ["toy", "digits"])
def test_every_class_of_ours_is_found_by_its_name_alone(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "configs" / f"{name}.yaml").read_text()
    short = re.sub(r"(class_path: )lightning_fed\.[\w.]+\.(\w+)", r"\1\2", text)
    assert short != text
    Path("short.yaml").write_text(short)
    printed = []
    for path in (ROOT / "configs" / f"{name}.yaml", "short.yaml"):
        with pytest.raises(SystemExit) as left:
            main(["fit", "-c", str(path), "--print_config"])
        assert left.value.code == 0, capsys.readouterr().err
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0]["model"]["module"] == printed[1]["model"]["module"]


def test_a_module_beside_its_config_is_said_to_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    Path("project").mkdir()
    Path("project/their_own.py").touch()
    text = (ROOT / "configs" / "toy.yaml").read_text()
    Path("project/it.yaml").write_text(text.replace("lightning_fed.models.LinearRegression", "their_own.Net"))
    said = refused(capsys, "fit", "-c", "project/it.yaml")
    assert "there is no module 'their_own', for their_own.Net" in said
    assert "modules are looked for in the current folder, and their_own.py lies in project" in said


def test_last_without_a_last_checkpoint_is_refused_with_the_newest(capsys: pytest.CaptureFixture[str]) -> None:
    first = "error: ckpt_path=last: this run has no last checkpoint; give the path of one"
    assert refused(capsys, "fit", "-c", "toy", *QUICK, "--ckpt_path=last") == first
    main(["fit", "-c", "toy", *QUICK])
    (checkpoint,) = Path().glob("logs/toy/*/checkpoints/*.ckpt")
    again = refused(capsys, "fit", "-c", "toy", *QUICK, "--ckpt_path=last")
    assert again == f"{first}; the newest of its neighbours is --ckpt_path {checkpoint}"
    assert refused(capsys, "validate", "-c", "toy", *QUICK, "--ckpt_path=last").startswith(first)


def test_last_is_taken_where_runs_share_a_folder_of_checkpoints() -> None:
    keep = {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "kept", "save_last": True}}
    options = ("-c", "toy", "-c", yaml.safe_dump({"trainer": {"callbacks": [keep]}}), *QUICK)
    main(["fit", *options])
    cli = FederatedCLI(["fit", *options, "--trainer.max_steps=2", "--ckpt_path=last"])
    assert cli.trainer.global_step == 2
    assert str(cli.trainer.ckpt_path).endswith("last.ckpt")


@pytest.mark.parametrize(
    ("monitor", "says"),
    [("workers/val_loss/p09", "; did you mean 'workers/val_loss/p90'\\?"), ("nothing", "; there are .*val_loss.*")],
)
def test_a_metric_to_stop_by_that_there_is_not(monitor: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    stop = ("--trainer.callbacks+=EarlyStopping", f"--trainer.callbacks.monitor={monitor}")
    said = refused(capsys, "fit", "-c", "toy", *QUICK, *stop)
    assert re.fullmatch(f"error: EarlyStopping: there is no metric '{monitor}'{says}", said), said


def test_the_config_lies_where_the_record_is(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(ROOT / "tests" / "cli" / "shared_folder_logger.py", "shared_folder_logger.py")
    run = ["-c", "toy", *QUICK[:2], "--trainer.logger=shared_folder_logger.SharedFolderLogger"]
    for number in range(2):
        main(["fit", *run, f"--trainer.logger.id={number}"])
        folder = Path("all/project") / str(number)
        record = read(folder)
        assert record.run["config"] == "config.yaml"
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["trainer"]["logger"]["init_args"]["id"] == str(number)
        assert f" · logs in {folder} · " in capsys.readouterr().out
    assert not Path("all/config.yaml").exists()
