"""A promise holds in the record too: nothing in it tells who took part, how many examples there are, or how it went."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import Rows, Scalar, fit
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.population import Population
from lightning_fed.privacy import CentralDP, LocalDP
from lightning_fed.record import read

NAMES = ("alice", "bob", "carol", "dora")


class Sized(Population):
    """Workers whose sizes are an argument."""

    def __init__(self, sizes: dict[str, int], rate: float) -> None:
        self.sizes = sizes
        self.rate = rate

    def __len__(self) -> int:
        return len(self.sizes)

    def name(self, position: int) -> str:
        return NAMES[position]

    def num_examples(self, name: str) -> int:
        return self.sizes[name]

    def has_loader(self, kind: Any) -> bool:
        return False

    def __getitem__(self, name: str) -> pl.LightningDataModule:
        return Rows([1.0] * self.sizes[name])


def record(folder: Path, privacy: Any) -> Any:
    data = FederatedDataModule(Sized(dict(zip(NAMES, (711, 722, 733, 744), strict=True)), rate=0.5), cohort_size=2)
    logger = TensorBoardLogger(str(folder), name="", version="run", default_hp_metric=False)
    fit(FederatedModule(Scalar(), privacy=privacy), data, max_epochs=2, logger=logger)
    return read(folder / "run")


@pytest.mark.filterwarnings("ignore:.*NOT private")
@pytest.mark.parametrize(
    "privacy",
    [CentralDP(1.0, 1.0, delta=1e-3, accountant="rdp"), LocalDP(1.0, 1.0, delta=1e-3, accountant="rdp")],
    ids=["central", "local"],
)
def test_nothing_of_workers_is_written(tmp_path: Path, privacy: Any) -> None:
    run = record(tmp_path, privacy)
    assert [set(line) for line in run.rounds] == [{"fit", "round", "epoch"}] * 4
    written = [path.read_bytes() for path in (tmp_path / "run").iterdir() if not path.name.startswith("privacy-ledger")]
    for secret in (*NAMES, "711", "722", "2910"):
        assert not [content for content in written if secret.encode() in content], secret
    assert run.run["data"] == {"population": 4, "cohort_size": 2}
    assert run.settings["population/rate"] == 0.5
    promise = run.run["promise"]
    assert (promise["name"], promise["bound"], promise["delta"]) == (type(privacy).__name__, 1.0, 1e-3)
    assert promise["epsilon"] > 0
    assert (tmp_path / "run" / run.run["ledger"]).is_file()


def test_without_a_promise_it_is(tmp_path: Path) -> None:
    run = record(tmp_path, None)
    assert run.run["data"]["sizes"] == {"total": 2910, "min": 711, "median": 727.5, "max": 744}
    assert "711" in str(run.settings["population/sizes"])
    assert (run.run["promise"], run.run["ledger"], run.settings["privacy"]) == (None, None, None)


class Failing(Rows):
    def train_dataloader(self) -> Any:
        raise OSError("of alice")


def test_what_ended_a_private_run_is_not_told_by_name(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    data = FederatedDataModule({"alice": Failing([1.0]), "bob": Rows([1.0])})
    with pytest.raises(RuntimeError, match="alice"):
        fit(FederatedModule(Scalar(), privacy=CentralDP(1.0, 1.0, delta=1e-3, accountant="rdp")), data, logger=logger)
    run = read(tmp_path / "run").run
    assert (run["outcome"], run["error"]) == ("failed", None)
