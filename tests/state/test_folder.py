"""Files go when no checkpoint refers to them any more, and no earlier."""

from __future__ import annotations

import copy
import gc
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Scaffold
from lightning_fed.testing.workload import memory

WORKERS = 6

# Lightning's own, about a run that goes on
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in ("Be aware that when using", "Checkpoint directory", "The dirpath has changed")
]


class Wide(Scalar):
    """Rows of 1 MB: one fits the memory, the others lie in files."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.x = torch.nn.Parameter(torch.zeros(2**18))


def run(root: Path, rounds: int, ckpt: Path | None = None, **options: Any) -> FederatedModule:
    fed = FederatedModule(Wide(), algorithm=Scaffold(), state_memory_mb=1)
    data = FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(WORKERS)}, cohort_size=2)
    options = {"callbacks": [keep(root, 1)], **options}
    fit = trainer(default_root_dir=root, max_steps=rounds, enable_checkpointing=True, limit_val_batches=0, **options)
    fit.fit(fed, data, ckpt_path=ckpt)
    return fed


def keep(root: Path, number: int, **options: Any) -> pl.Callback:
    """A ModelCheckpoint that keeps the newest ones."""
    return pl.callbacks.ModelCheckpoint(
        root / "ck", every_n_train_steps=1, save_top_k=number, monitor="step", mode="max", filename="{step}", **options
    )


def files(root: Path) -> set[str]:
    return {path.name for path in (root / "lightning_fed_state" / "process-0").glob("*.safetensors")}


def referred(*checkpoints: Path) -> set[str]:
    parts = [torch.load(path, weights_only=True)["lightning_fed"]["state"]["workers"] for path in checkpoints]
    return {Path(file).name for part in parts for table in part.values() for file in table["files"]}


def live(fed: FederatedModule) -> set[str]:
    return {path.name for path in fed._outbox.own.files}


@pytest.mark.parametrize("kept", [1, 2])
def test_files_of_checkpoints_that_the_trainer_has_deleted_go(tmp_path: Path, kept: int) -> None:
    fed = run(tmp_path, 12, callbacks=[keep(tmp_path, kept)])
    checkpoints = list((tmp_path / "ck").iterdir())
    assert len(checkpoints) == kept
    assert files(tmp_path) == referred(*checkpoints) | live(fed)


def test_what_an_overwritten_checkpoint_had_goes_too(tmp_path: Path) -> None:
    class Saves(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "ck" / "mine.ckpt")

    fed = run(tmp_path, 12, callbacks=[Saves()])
    assert files(tmp_path) == referred(tmp_path / "ck" / "mine.ckpt") | live(fed)


def test_all_that_is_kept_can_be_gone_back_to(tmp_path: Path) -> None:
    whole = run(tmp_path, 8, callbacks=[keep(tmp_path, -1)])
    for checkpoint in sorted((tmp_path / "ck").iterdir()):
        again = run(tmp_path, 8, checkpoint, callbacks=[])
        torch.testing.assert_close(memory(again), memory(whole), rtol=0, atol=0)


def test_what_a_killed_process_left_over_goes(tmp_path: Path) -> None:
    """It had spilled since its last checkpoint, and was in the middle of a file, and of deleting a checkpoint."""
    fed = run(tmp_path, 6, callbacks=[keep(tmp_path, 2)])
    older, last = sorted((tmp_path / "ck").iterdir())
    folder = fed._outbox.own.folder
    orphan = folder.new_file("control")
    shutil.copy(fed._outbox.own.files[0], orphan)
    unfinished = orphan.with_name(orphan.name + ".unfinished")
    unfinished.write_bytes(b"half")
    folder.leaving(str(older))
    older.unlink()
    del fed, folder
    gc.collect()  # as if the process had ended
    fed = run(tmp_path, 7, last)
    assert not orphan.exists()
    assert not unfinished.exists()
    assert files(tmp_path) == referred(*(tmp_path / "ck").iterdir()) | live(fed)


def test_a_checkpoint_that_other_hands_have_moved_keeps_its_files(tmp_path: Path) -> None:
    fed = run(tmp_path, 6, callbacks=[keep(tmp_path, -1)])
    whole = memory(fed)
    checkpoints = sorted((tmp_path / "ck").iterdir())
    (tmp_path / "elsewhere").mkdir()
    moved = checkpoints[2].rename(tmp_path / "elsewhere" / "moved.ckpt")
    del fed
    gc.collect()
    run(tmp_path, 6, checkpoints[-1], callbacks=[keep(tmp_path, 1)])
    torch.testing.assert_close(memory(run(tmp_path, 6, moved, callbacks=[])), whole, rtol=0, atol=0)


def test_two_runs_of_one_folder_leave_each_others_files(tmp_path: Path) -> None:
    """They begin apart, or from the same checkpoint, at the same time."""
    first = run(tmp_path, 6)
    (checkpoint,) = (tmp_path / "ck").iterdir()
    kept = shutil.copy(checkpoint, tmp_path / "kept.ckpt")
    second = run(tmp_path, 9, kept, callbacks=[keep(tmp_path / "second", 1)])
    third = run(tmp_path, 9, callbacks=[keep(tmp_path / "third", 1)])
    runs = {fed._outbox.own.folder.run for fed in (first, second, third)}
    assert len(runs) == 3
    before = memory(first)
    run(tmp_path, 12, kept, callbacks=[keep(tmp_path / "fourth", 1)])
    torch.testing.assert_close(memory(first), before, rtol=0, atol=0)
    assert live(first) | live(second) | live(third) <= files(tmp_path)


def test_a_moved_run_folder_goes_on(tmp_path: Path) -> None:
    """And one that was copied goes on from its own copy of the state, also while the other is still there."""
    whole = memory(run(tmp_path / "whole", 8))
    run(tmp_path / "old", 5)
    shutil.copytree(tmp_path / "old", tmp_path / "copied")
    (checkpoint,) = (tmp_path / "copied" / "ck").iterdir()
    copied = run(tmp_path / "copied", 8, checkpoint)
    assert all(tmp_path / "copied" in path.parents for path in copied._outbox.own.files)
    torch.testing.assert_close(memory(copied), whole, rtol=0, atol=0)
    (tmp_path / "old").rename(tmp_path / "new")
    (checkpoint,) = (tmp_path / "new" / "ck").iterdir()
    elsewhere = tmp_path / "elsewhere"  # the run that goes on has another root
    torch.testing.assert_close(memory(run(elsewhere, 8, checkpoint)), whole, rtol=0, atol=0)


def test_a_full_disk_that_takes_no_notes_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fed = run(tmp_path, 6)
    folder = fed._outbox.own.folder
    with monkeypatch.context() as patched:

        def full(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        patched.setattr("lightning_fed.state.folder.write_whole", full)
        folder.hand_out(fed._outbox.own.files)
    assert not list(folder.path.glob("*.json"))  # so that nobody deletes by notes that are wrong
    for file in fed._outbox.own.files:
        folder.let_go(file)
    assert live(fed) <= files(tmp_path)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_copy_of_the_state_keeps_the_files_of_the_original(tmp_path: Path, copied: Any) -> None:
    """As callbacks copy that average weights."""
    fed = run(tmp_path, 6)
    own = fed._outbox.own
    own.folder._place = tmp_path.absolute
    twin = copied(own)
    assert twin.folder.run != own.folder.run
    before = twin.kept()["control"]
    own.begin(10, 9)
    own.stage("control", [f"w{i}" for i in range(WORKERS)], torch.zeros(WORKERS, 2**18))
    own.settle(10)
    torch.testing.assert_close(twin.kept()["control"], before, rtol=0, atol=0)
