"""Checkpoints on the disk: whole or not there, and errors that name the file."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TRUSTED, Rows, Scalar, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Scaffold
from lightning_fed.testing.workload import memory

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")


def fit() -> pl.Trainer:
    run = trainer(max_steps=2)
    run.fit(FederatedModule(Scalar(0.1)), FederatedDataModule({"a": Rows([1.0])}))
    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "empty": (lambda path: os.truncate(path, 0), "is empty; go on from another one"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size // 2), "is damaged, or no checkpoint"),
    "a large one, truncated": (
        lambda path: path.write_bytes(path.read_bytes()[:-100].ljust(50_000, b"\0")),
        "is damaged, or no checkpoint .*Invalid argument",
    ),
    "a flipped bit": (flip, "is damaged, or no checkpoint .*checksum"),
    "text": (lambda path: path.write_text("hello " * 99), "is damaged, or no checkpoint"),
    "a tensor": (lambda path: torch.save(torch.zeros(1), path), "is damaged, or no checkpoint .it holds a Tensor"),
    "other numbers": (
        lambda path: torch.save({"a": 1}, path),
        "is damaged, or no checkpoint .it has no .state_dict., so no Trainer wrote it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("how", ["fit", "validate"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, damage: str, how: str) -> None:
    path = tmp_path / "c.ckpt"
    fit().save_checkpoint(path)
    change, message = DAMAGES[damage]
    change(path)

    class Validated(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    class Central(Rows):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    data = FederatedDataModule({"a": Rows([1.0])}, val=Central([1.0]))
    begin = partial(
        trainer(max_steps=4).fit if how == "fit" else trainer().validate, FederatedModule(Validated()), data
    )
    with pytest.raises(ValueError, match=message) as raised:
        begin(ckpt_path=path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_cannot_be_opened_is_not_said_to_be_damaged(tmp_path: Path) -> None:
    begin = partial(trainer().fit, FederatedModule(Scalar()), FederatedDataModule({"a": Rows([1.0])}))
    with pytest.raises(FileNotFoundError, match=f"Checkpoint file not found: {tmp_path}/c.ckpt"):
        begin(ckpt_path=tmp_path / "c.ckpt")
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        begin(ckpt_path=tmp_path)


class Note:
    """An object of a user's class, which a checkpoint may hold."""


@pytest.mark.skipif(not TRUSTED, reason="torch 2.4 reads any object, and Lightning 2.5 lets nobody choose")
def test_of_a_whole_checkpoint_with_more_than_numbers_torch_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "c.ckpt"
    fit().save_checkpoint(path)
    torch.save(torch.load(path) | {"note": Note()}, path)
    begin = partial(trainer(max_steps=4).fit, FederatedModule(Scalar(0.1)), FederatedDataModule({"a": Rows([1.0])}))
    with pytest.raises(pickle.UnpicklingError, match=r"weights_only.*\n[\s\S]*Note"):
        begin(ckpt_path=path)
    begin(ckpt_path=path, **TRUSTED)


@pytest.mark.parametrize("step", ["torch.save", "os.fsync", "pathlib.Path.replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    run = fit()
    run.save_checkpoint(tmp_path / "last.ckpt")
    before = (tmp_path / "last.ckpt").read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(step, full)
    with pytest.raises(OSError, match=r"checkpoint .*last.ckpt could not be written \(.*No space.*MB are free there\)"):
        run.save_checkpoint(tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


class Wide(Scalar):
    """Rows of 1 MB, so that workers' state spills; and a training step that goes elsewhere."""

    def __init__(self, elsewhere: str | None = None) -> None:
        super().__init__(lr=0.1)
        self.x = torch.nn.Parameter(torch.zeros(2**18))
        self.elsewhere = elsewhere

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.elsewhere is not None:
            os.chdir(self.elsewhere)
        return super().training_step(batch, batch_idx)


def spilling(
    rounds: int, state_dir: str | Path | None, elsewhere: str | None = None, ckpt: Path | None = None, **options: Any
) -> tuple[pl.Trainer, FederatedModule]:
    fed = FederatedModule(Wide(elsewhere), algorithm=Scaffold(), state_memory_mb=1, state_dir=state_dir)
    data = FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(4)}, cohort_size=2)
    run = trainer(max_steps=rounds, **options)
    run.fit(fed, data, ckpt_path=ckpt)
    return run, fed


@pytest.mark.parametrize("state_dir", ["state", None])
def test_a_worker_that_changes_the_folder_does_not_move_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state_dir: str | None
) -> None:
    """Paths are relative to where the run began."""
    (tmp_path / "here").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    whole = memory(spilling(6, tmp_path / "whole")[1])
    with pytest.warns(UserWarning, match=r"changes a setting of the whole process \(os.chdir\)"):
        run, _ = spilling(4, state_dir, str(tmp_path / "elsewhere"), default_root_dir=".")
    monkeypatch.chdir(tmp_path / "here")
    run.save_checkpoint("c.ckpt")
    assert not list((tmp_path / "elsewhere").iterdir())
    monkeypatch.chdir(tmp_path)
    _, fed = spilling(6, state_dir, ckpt=tmp_path / "here" / "c.ckpt", default_root_dir="another")
    torch.testing.assert_close(memory(fed), whole, rtol=0, atol=0)


def test_a_folder_that_takes_no_file_is_found_before_the_first_round(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"nothing can be written to .*file.*what Scaffold remembers about 4 workers may"):
        spilling(1, tmp_path / "file" / "state")
    fed = FederatedModule(Scalar(0.1), algorithm=Scaffold(), state_dir=tmp_path / "file" / "state")
    trainer(max_steps=1).fit(fed, FederatedDataModule({"a": Rows([1.0])}))  # it will not be needed


def test_an_unwritable_folder_leaves_no_trace(tmp_path: Path) -> None:
    spilling(1, tmp_path / "new")
    assert not list((tmp_path).rglob("probe*"))
