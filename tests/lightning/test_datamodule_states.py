"""``state_dict()`` and ``load_state_dict()`` of datamodules, and their other hooks: asked as by a plain Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from processes import run_in_processes

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.privacy import CentralDP
from lightning_fed.wire import WorkerError


class Counting(EvaluatedRows):
    """Counts how often its training batches are gone through, and keeps the number."""

    def __init__(self, values: Any = (1.0,), calls: list[str] | None = None) -> None:
        super().__init__(values)
        self.passes = 0
        self.calls = [] if calls is None else calls

    def setup(self, stage: str) -> None:
        self.calls.append("setup")

    def train_dataloader(self) -> Any:
        self.calls.append(f"train_dataloader at {self.passes}")
        return super().train_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer is None or self.trainer.training:
            self.passes += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"passes": self.passes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.calls.append("load_state_dict")
        self.passes = state_dict["passes"]


class Evaluated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass


class Lazy(Mapping[str, pl.LightningDataModule]):
    """Makes a datamodule whenever it is asked for one."""

    def __init__(self, names: str) -> None:
        self.names = names
        self.made: list[Counting] = []

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Any:
        return iter(self.names)

    def __getitem__(self, name: str) -> Counting:
        self.made.append(Counting())
        return self.made[-1]


def saved(path: Path) -> Any:
    return torch.load(path, weights_only=True).get("FederatedDataModule")


def test_a_workers_state_is_kept_and_restored_as_by_a_plain_trainer(tmp_path: Path) -> None:
    plain, resumed_plain = Counting(), Counting()
    run = trainer(max_epochs=2)
    run.fit(Evaluated(), plain)
    run.save_checkpoint(tmp_path / "plain.ckpt")
    trainer(max_epochs=3).fit(Evaluated(), resumed_plain, ckpt_path=tmp_path / "plain.ckpt")

    ours, other, resumed = Counting(), Rows([1.0]), Counting()
    run = fit(
        FederatedModule(Evaluated(), engine="sequential"),
        FederatedDataModule({"bob": ours, "ann": other}),
        max_epochs=2,
    )
    run.save_checkpoint(tmp_path / "ours.ckpt")
    assert saved(tmp_path / "ours.ckpt") == {"workers": {"bob": {"passes": plain.passes}}}
    fed = FederatedModule(Evaluated(), engine="sequential")
    data = FederatedDataModule({"bob": resumed, "ann": Rows([1.0])})
    trainer(max_epochs=3).fit(fed, data, ckpt_path=tmp_path / "ours.ckpt")
    assert ours.passes == plain.passes == 2
    assert resumed.passes == resumed_plain.passes == 3
    assert resumed.calls == resumed_plain.calls == ["setup", "load_state_dict", "train_dataloader at 2"]


@pytest.mark.parametrize("cached", [1, 10])
def test_a_worker_that_was_torn_down_has_its_state_back(tmp_path: Path, cached: int) -> None:
    def run(epochs: int, **options: Any) -> Lazy:
        workers = Lazy("abc")
        fed = FederatedModule(Evaluated(), engine="sequential")
        run = trainer(max_epochs=epochs, num_sanity_val_steps=0, limit_val_batches=0)
        run.fit(fed, FederatedDataModule(workers, cached_workers=cached), **options)
        run.save_checkpoint(tmp_path / "last.ckpt")
        return workers

    run(3)
    assert saved(tmp_path / "last.ckpt") == {"workers": {name: {"passes": 3} for name in "abc"}}
    run(4, ckpt_path=tmp_path / "last.ckpt")
    assert saved(tmp_path / "last.ckpt") == {"workers": {name: {"passes": 4} for name in "abc"}}


def test_a_checkpoint_of_datamodules_without_state_has_none(tmp_path: Path) -> None:
    run = fit(FederatedModule(Evaluated()), FederatedDataModule({"bob": Rows([1.0])}, val=EvaluatedRows([1.0])))
    run.save_checkpoint(tmp_path / "none.ckpt")
    assert saved(tmp_path / "none.ckpt") is None


def test_the_central_datamodule_is_asked_as_well(tmp_path: Path) -> None:
    central, again = Counting(), Counting()
    central.passes = 7
    run = fit(FederatedModule(Evaluated()), FederatedDataModule({"bob": Rows([1.0])}, val=central))
    run.save_checkpoint(tmp_path / "central.ckpt")
    assert saved(tmp_path / "central.ckpt") == {"val": {"passes": 7}}
    data = FederatedDataModule({"bob": Rows([1.0])}, val=again)
    trainer(max_epochs=2).fit(FederatedModule(Evaluated()), data, ckpt_path=tmp_path / "central.ckpt")
    assert again.passes == 7
    assert again.calls == ["setup", "load_state_dict"]


@pytest.mark.filterwarnings("ignore:.*NOT private")
@pytest.mark.parametrize("how", [pytest.param("isolated", marks=pytest.mark.slow), "private", "two processes"])
def test_where_no_state_is_kept_that_is_said(how: str, tmp_path: Path) -> None:
    says = {
        "isolated": "engine='isolated', it is another process that trains",
        "private": "no noise covers what they say; release_metrics=True accepts that",
        "two processes": "with several processes, each has a datamodule of it",
    }[how]

    def work() -> None:
        options: dict[str, Any] = {"isolated": {"engine": "isolated"}}.get(how, {})
        if how == "private":
            options = {"privacy": CentralDP(clip=1.0, noise_multiplier=1.0, insecure_deterministic_noise=True)}
        workers = {name: Counting() for name in "abcd"}
        data = FederatedDataModule(workers, cohort_size=2, val=EvaluatedRows([1.0, 2.0], batch_size=1))
        run = trainer(max_steps=1, **({"devices": 2, "strategy": "ddp"} if how == "two processes" else {}))
        run.fit(FederatedModule(Evaluated(), **options), data)
        if how == "two processes":
            assert run.datamodule.state_dict() == {}  # type: ignore[attr-defined]
            return
        with pytest.warns(
            UserWarning, match=rf"worker 'a': Counting.state_dict\(\) is not kept in checkpoints: .*{says}"
        ):
            run.save_checkpoint(tmp_path / "last.ckpt")
        assert saved(tmp_path / "last.ckpt") is None

    if how == "two processes":
        assert [ended.error for ended in run_in_processes(work)] == [None, None]
    else:
        work()


def test_a_state_that_cannot_be_told_or_taken_names_the_worker(tmp_path: Path) -> None:
    class Untold(Counting):
        def state_dict(self) -> dict[str, Any]:
            raise OSError("disk gone")

    class Untaken(Counting):
        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            raise KeyError("count")

    run = fit(FederatedModule(Evaluated()), FederatedDataModule({"bob": Untold()}))
    with pytest.raises(
        WorkerError, match=r"worker 'bob' .*: state_dict\(\) of its datamodule raised OSError: disk gone"
    ):
        run.save_checkpoint(tmp_path / "untold.ckpt")
    run = fit(FederatedModule(Evaluated()), FederatedDataModule({"bob": Counting()}))
    run.save_checkpoint(tmp_path / "told.ckpt")
    data = FederatedDataModule({"bob": Untaken()})
    with pytest.raises(
        ValueError, match=r"load_state_dict\(\) of worker 'bob''s datamodule raised KeyError: 'count' about"
    ):
        trainer(max_epochs=2).fit(FederatedModule(Evaluated()), data, ckpt_path=tmp_path / "told.ckpt")


def test_the_central_datamodule_hears_of_an_exception() -> None:
    heard: list[str] = []

    class Hearing(EvaluatedRows):
        def on_exception(self, exception: BaseException) -> None:
            heard.append(str(exception))

    class Failing(Evaluated):
        def on_train_epoch_end(self) -> None:
            raise OSError("power cut")

    class Ending(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            raise OSError("power cut")

    data = FederatedDataModule({"bob": Rows([1.0])}, val=Hearing([1.0]))
    with pytest.raises(OSError, match="power cut"):
        fit(FederatedModule(Evaluated()), data, callbacks=[Ending()])
    assert heard == ["power cut"]
