"""``--seed_everything`` decides cohorts, and with ``--vary_partition`` how data are dealt out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import yaml
from commands import HERE, config, quiet_and_restored

from lightning_fed.cli import FederatedCLI

DEALT = {
    "class_path": "lightning_fed.datasets.PartitionedPopulation",
    "init_args": {
        "source": {"class_path": f"{HERE}.Data"},
        "partition": {"class_path": "lightning_fed.datasets.LogNormal", "init_args": {"workers": 5, "sigma": 0.5}},
    },
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", ["own.py"])
    write(workers=DEALT, cohort_size=2, val={"class_path": f"{HERE}.Data"})
    with quiet_and_restored():
        yield


def write(**data: Any) -> None:
    Path("c.yaml").write_text(yaml.safe_dump({**config(max_epochs=-1, max_steps=6), "data": data}))


def build(*arguments: str) -> FederatedCLI:
    return FederatedCLI(["-c", "c.yaml", *arguments], run=False)


class Sizes(pl.Callback):
    def __init__(self) -> None:
        self.examples: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, fed: Any, *_: Any) -> None:
        self.examples.append(fed.last_report.examples)


def examples(*arguments: str) -> list[float]:
    cli, sizes = build(*arguments), Sizes()
    cli.trainer.callbacks.append(sizes)
    cli.trainer.fit(cli.model, cli.datamodule)
    return sizes.examples


def test_round_examples_differ_by_the_seed_and_not_if_the_data_have_one_of_their_own() -> None:
    one, two = (examples("--seed_everything", seed) for seed in ("1", "2"))
    assert one != two
    assert one == examples("--seed_everything", "1")
    fixed = [examples("--seed_everything", seed, "--data.seed", "0") for seed in ("1", "2")]
    assert fixed[0] == fixed[1]


def partition_seeds(*arguments: str) -> tuple[int, int]:
    cli = build(*arguments)
    return cli.datamodule.workers.seed, cli.datamodule.seed


def test_the_partition_has_a_switch_of_its_own() -> None:
    assert partition_seeds("--seed_everything", "3") == (0, 3)
    assert partition_seeds("--seed_everything", "3", "--vary_partition", "true") == (3, 3)
    assert partition_seeds("--seed_everything", "3", "--vary_partition", "true", "--data.seed", "4") == (3, 4)


def test_the_config_of_the_run_has_the_seed_of_its_partition() -> None:
    cli = build("--seed_everything", "3", "--vary_partition", "true")
    assert cli.config.data.workers.init_args.partition.init_args.seed == 3
    Path("again.yaml").write_text(cli.parser.dump(cli.config))
    again = FederatedCLI(["-c", "again.yaml"], run=False)
    assert (again.datamodule.workers.seed, again.datamodule.seed) == (3, 3)


@pytest.mark.parametrize("given", ["init_args.partition.init_args.seed", "partition.seed"])
def test_a_partition_whose_seed_is_given_varies_not_and_that_is_said(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--seed_everything", "3", f"--data.workers.{given}", "5")
    assert partition_seeds(*arguments) == (5, 3)
    with pytest.raises(SystemExit):
        build(*arguments, "--vary_partition", "true")
    assert "vary_partition=true varies nothing: data.workers.init_args.partition.init_args.seed=5 is given" in (
        capsys.readouterr().err
    )


def test_what_datamodules_hold_out_does_not_vary() -> None:
    """The central test data are those of a second datamodule, and the two must not mix."""
    cli = build("--seed_everything", "3", "--vary_partition", "true")
    assert cli.config.data.workers.init_args.source.init_args.seed == 0


def test_populations_that_draw_vary() -> None:
    write(workers={"class_path": "lightning_fed.datasets.FCUBE"}, val={"class_path": f"{HERE}.Data"})
    assert partition_seeds("--seed_everything", "3", "--vary_partition", "true") == (3, 3)


def test_without_a_seed_nothing_can_vary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build("--seed_everything", "false", "--vary_partition", "true")
    assert "vary_partition=true needs a seed to follow; give one" in capsys.readouterr().err


NATURAL = {"class_path": "lightning_fed.datasets.NaturalIds"}


@pytest.mark.parametrize(
    "workers",
    [
        config()["data"]["workers"],
        {**DEALT, "init_args": {**DEALT["init_args"], "partition": NATURAL}},
    ],
    ids=["datamodules by name", "people as they are"],
)
def test_without_a_partition_by_a_seed_nothing_varies_and_that_is_said(
    workers: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    write(workers=workers, val={"class_path": f"{HERE}.Data"})
    with pytest.raises(SystemExit):
        build("--vary_partition", "true")
    assert "vary_partition=true varies nothing: data.workers has no partition with a seed" in capsys.readouterr().err
