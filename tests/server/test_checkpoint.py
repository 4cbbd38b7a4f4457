"""What a checkpoint holds, and who can open it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import fit

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Cyclic
from lightning_fed.datasets import ToyDataModule
from lightning_fed.models import LinearRegression
from lightning_fed.server.checkpoint import KEY, VERSION

# The Trainers that load have no ModelCheckpoint of their own.
pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def toy() -> FederatedDataModule:
    return FederatedDataModule({"bob": ToyDataModule(rows=[0, 1]), "alice": ToyDataModule(rows=[2, 3])})


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, LinearRegression]:
    model = LinearRegression(2, 1, lr=0.07)
    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
    fit(FederatedModule(model), toy(), max_epochs=2, callbacks=[save], enable_checkpointing=True)
    return tmp_path / "last.ckpt", model


def test_it_opens_in_the_users_own_class_with_its_hyperparameters(saved: tuple[Path, LinearRegression]) -> None:
    path, model = saved
    opened = LinearRegression.load_from_checkpoint(path)
    assert opened.hparams == {"in_features": 2, "out_features": 1, "lr": 0.07}
    assert torch.equal(opened.linear.weight, model.linear.weight)


def test_the_federated_part_lies_under_one_key(saved: tuple[Path, LinearRegression]) -> None:
    content = torch.load(saved[0], weights_only=True)
    plain = {"epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks"}
    plain |= {"hyper_parameters", "hparams_name", "optimizer_states", "lr_schedulers"}
    assert set(content) - plain == {KEY}
    assert content["optimizer_states"] == content["lr_schedulers"] == []  # a plain Trainer takes up none
    part = content[KEY]
    assert part.pop("optimizer_states")[0]["param_groups"][0]["lr"] == 1.0  # the server's: plain averaging
    del part["settings"]  # see test_settings.py
    assert part.pop("record").keys() == {"last", "best", "loss", "bytes", "seconds"}  # for the values at the end
    assert part["state"].pop("validated").keys() == {"val_loss", "val_mse"}  # what plateaus at the workers go by
    assert all(part["state"].pop("traffic"))  # what has travelled down and up
    assert part["state"].pop("took_part").tolist() == [0b11]  # a bit for each worker
    assert part == {
        "version": VERSION,
        "algorithm": "FedAvg",
        "engine": "vectorized",
        "state": {
            "server": {},
            "workers": {},
            "last_cohort": 1,
            "failed_cohorts": [],
            "moved": [],
            "trained": ["linear.weight", "linear.bias"],
        },
        "cohort": 2,
        "lr_schedulers": [],
    }
    assert set(content["state_dict"]) == {"linear.weight", "linear.bias"}


def trainer(**options: Any) -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return pl.Trainer(accelerator="cpu", **quiet, **options)


def test_the_wrapper_evaluates_it_and_one_of_the_plain_module(
    saved: tuple[Path, LinearRegression], tmp_path: Path
) -> None:
    path, model = saved
    federated = trainer().validate(FederatedModule(LinearRegression(2, 1)), toy(), ckpt_path=path, verbose=False)
    plain = trainer()
    plain.strategy.connect(model)
    plain.save_checkpoint(tmp_path / "plain.ckpt", weights_only=True)
    again = trainer().validate(
        FederatedModule(LinearRegression(2, 1)), toy(), ckpt_path=tmp_path / "plain.ckpt", verbose=False
    )
    assert federated == again
    assert federated == trainer().validate(FederatedModule(model), toy(), verbose=False)


def test_going_on_with_another_algorithm_is_said(saved: tuple[Path, LinearRegression]) -> None:
    federated = FederatedModule(LinearRegression(2, 1), algorithm=Cyclic())
    with pytest.warns(UserWarning, match="written by a run with FedAvg, and this one uses Cyclic"):
        trainer().validate(federated, toy(), ckpt_path=saved[0], verbose=False)


def test_one_of_a_newer_release_is_refused(saved: tuple[Path, LinearRegression], tmp_path: Path) -> None:
    content = torch.load(saved[0], weights_only=True)
    content[KEY]["version"] = VERSION + 1
    torch.save(content, tmp_path / "newer.ckpt")
    with pytest.raises(ValueError, match="newer lightning_fed"):
        trainer().validate(
            FederatedModule(LinearRegression(2, 1)), toy(), ckpt_path=tmp_path / "newer.ckpt", verbose=False
        )


def test_a_fit_does_not_take_a_plain_fits_optimizer_for_the_servers(tmp_path: Path) -> None:
    plain = trainer(max_epochs=1)
    plain.fit(LinearRegression(2, 1), ToyDataModule())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(
        ValueError, match=r"is one of the module alone.*load_from_checkpoint\(path\)\) without ckpt_path"
    ):
        trainer(max_epochs=2).fit(FederatedModule(LinearRegression(2, 1)), toy(), ckpt_path=tmp_path / "plain.ckpt")


def as_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """The same in the first format: Lightning held the next cohort and the states of the server's optimizer."""
    part = content[KEY]
    content |= {name: part.pop(name) for name in ("optimizer_states", "lr_schedulers")}
    content["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [{"completed": part.pop("cohort")}]
    part["version"] = 1
    return content


def test_one_of_the_first_format_goes_on_too(saved: tuple[Path, LinearRegression], tmp_path: Path) -> None:
    torch.save(as_version_1(torch.load(saved[0], weights_only=True)), tmp_path / "old.ckpt")
    ends, data = [], toy()
    for path in (saved[0], tmp_path / "old.ckpt"):
        model = LinearRegression(2, 1)
        trainer(max_epochs=3, log_every_n_steps=1).fit(FederatedModule(model), data, ckpt_path=path)
        assert data.position.next == 3
        ends.append(model.linear.weight)
    assert torch.equal(*ends)


def test_one_of_the_first_format_without_a_cohort_is_refused(
    saved: tuple[Path, LinearRegression], tmp_path: Path
) -> None:
    content = as_version_1(torch.load(saved[0], weights_only=True))
    del content["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"older lightning_fed \(format 1\) and does not say which cohort is the next"):
        trainer(max_epochs=3).fit(FederatedModule(LinearRegression(2, 1)), toy(), ckpt_path=tmp_path / "old.ckpt")


def test_one_whose_part_of_ours_is_incomplete_is_refused(saved: tuple[Path, LinearRegression], tmp_path: Path) -> None:
    path, content = tmp_path / "torn.ckpt", torch.load(saved[0], weights_only=True)
    del content[KEY]["state"]
    torch.save(content, path)
    with pytest.raises(ValueError, match="does not say what the server and the workers remember"):
        trainer(max_epochs=3).fit(FederatedModule(LinearRegression(2, 1)), toy(), ckpt_path=path)
    for part in ("text", {"version": VERSION}, {"algorithm": "FedAvg"}):
        torch.save(content | {KEY: part}, path)
        with pytest.raises(ValueError, match="part of lightning_fed is damaged: it does not say what wrote it"):
            trainer().validate(FederatedModule(LinearRegression(2, 1)), toy(), ckpt_path=path)


def test_the_users_own_checkpoint_hooks_see_a_plain_checkpoint(tmp_path: Path) -> None:
    class Keeps(pl.LightningModule):
        seen: list[Any] = []  # noqa: RUF012

        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            return ((self.linear(batch[0]) - batch[1]) ** 2).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = 1
            self.seen.append(sorted(checkpoint["state_dict"]))

        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            assert checkpoint["mine"] == 1
            self.seen.append(sorted(checkpoint["state_dict"]))

    save = pl.callbacks.ModelCheckpoint(tmp_path, filename="last")
    workers = {"bob": ToyDataModule(rows=[0, 1])}
    quiet = {"callbacks": [save], "enable_checkpointing": True, "limit_val_batches": 0}
    fit(FederatedModule(Keeps()), train_only(workers), max_epochs=1, **quiet)
    later = trainer(max_epochs=2, log_every_n_steps=1)
    later.fit(FederatedModule(Keeps()), train_only(workers), ckpt_path=tmp_path / "last.ckpt")
    assert Keeps.seen == [["linear.bias", "linear.weight"]] * 2


def train_only(workers: dict[str, Any]) -> FederatedDataModule:
    class TrainOnly(pl.LightningDataModule):
        def __init__(self, source: Any) -> None:
            super().__init__()
            self.source = source

        def train_dataloader(self) -> Any:
            self.source.setup("fit")
            return self.source.train_dataloader()

    return FederatedDataModule({name: TrainOnly(source) for name, source in workers.items()})
