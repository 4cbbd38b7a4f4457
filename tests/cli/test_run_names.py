"""The folders of runs: ``logs/<config>/<algorithm>-<number>``, unless the user names another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from lightning_fed.cli import FederatedCLI
from lightning_fed.cli.run_names import take_back
from lightning_fed.record import next_version, read

pytestmark = [
    pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.* directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
]
TOY = Path(__file__).parents[2] / "configs" / "toy.yaml"
QUICK = ("--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false")

PROX = ("--model.algorithm=FedProx", "--model.algorithm.mu=0.1")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOY, "mine.yaml")


def run(*options: str, command: str = "fit") -> Path:
    """The folder of a run, below the current one."""
    cli = FederatedCLI([command, *QUICK, "--trainer.enable_model_summary=false", *options])
    return Path(cli.trainer.loggers[0].log_dir).absolute().relative_to(Path.cwd())


def test_of_a_config_and_an_algorithm_with_the_next_number() -> None:
    assert run("-c", "mine.yaml") == Path("logs/mine/FedAvg-0")
    assert run("-c", "mine.yaml") == Path("logs/mine/FedAvg-1")
    prox = run("-c", "mine.yaml", *PROX)
    assert prox == Path("logs/mine/FedProx-0")
    record = read(prox)
    assert (record.name, record.settings["algorithm/mu"]) == ("mine/FedProx-0", 0.1)
    assert record.run["config"] == "config.yaml"
    assert (prox / "config.yaml").is_file()
    (checkpoint,) = prox.glob("checkpoints/*.ckpt")
    evaluated = run("-c", "mine.yaml", *PROX, f"--ckpt_path={checkpoint}", command="validate")
    assert evaluated == Path("logs/mine/FedProx-validate-0")


def test_a_run_again_from_the_config_in_its_folder_lies_beside_it() -> None:
    first = run("-c", "mine.yaml")
    assert run("-c", str(first / "config.yaml")) == Path("logs/mine/FedAvg-1")


def test_several_configs_and_none(tmp_path: Path) -> None:
    Path("more.yaml").write_text("trainer:\n  max_epochs: 1\n")
    assert run("-c", "mine.yaml", "-c", "more.yaml") == Path("logs/mine+more/FedAvg-0")
    content = yaml.safe_load(TOY.read_text())
    assert run("-c", yaml.safe_dump(content)) == Path("logs/lightning_fed/FedAvg-0")


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (["--trainer.logger.save_dir=out"], "out/mine/FedAvg-0"),
        (["--trainer.logger.name=own"], "logs/own/version_0"),
        (["--trainer.logger.version=own"], "logs/lightning_fed/own"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv"], "csv/mine/FedAvg-0"),
        (["--trainer.logger=CSVLogger"], "logs/mine/FedAvg-0"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.name=own"], "logs/own/version_0"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.version=7"], "logs/lightning_fed/version_7"),
        (["--trainer.logger=true"], "lightning_logs/version_0"),
        (["--trainer.logger.default_hp_metric=true"], "logs/mine/FedAvg-0"),
    ],
)
def test_what_the_user_says_of_the_logger_wins(options: list[str], folder: str) -> None:
    assert run("-c", "mine.yaml", *options) == Path(folder)


def test_the_next_number_is_above_all_that_are_there(tmp_path: Path) -> None:
    for name in ("FedAvg-0", "FedAvg-7", "FedAvg-test-9", "FedAvgM-8", "FedAvg-x"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert next_version(tmp_path / "runs", "FedAvg") == "FedAvg-8"
    assert next_version(tmp_path / "none", "FedAvg") == "FedAvg-0"


def test_a_run_that_was_refused_leaves_no_folder_and_takes_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("-c", "mine.yaml", "--model.min_workers=99")
    assert "min_workers=99" in capsys.readouterr().err
    assert not Path("logs/mine/FedAvg-0").exists()
    assert run("-c", "mine.yaml") == Path("logs/mine/FedAvg-0")


def test_what_is_not_of_a_start_stays(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "FedAvg-0"
    folder.mkdir(parents=True)
    for name in ("config.yaml", "run.json"):
        (folder / name).touch()
    take_back(folder)
    assert (folder / "config.yaml").exists()
    (folder / "run.json").unlink()
    take_back(folder)
    take_back(folder)
    assert not folder.exists()
