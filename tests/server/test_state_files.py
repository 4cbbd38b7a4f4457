"""Workers' state in several processes: it is found after the run was moved, and where no disk is shared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, assert_equal
from processes import run_in_processes

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Scaffold

pytestmark = pytest.mark.usefixtures("double")


class Wide(pl.LightningModule):
    """400 kB of parameters, so that the state of six workers does not fit into 1 MB."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.nn.Parameter(torch.zeros(50_000))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return ((self.x - batch[0].mean() * torch.linspace(0, 1, 50_000)) ** 2).sum() / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.3)


def fit(
    root: Path, rounds: int, devices: int, nodes: int = 1, ckpt: Path | None = None, state_dir: Path | None = None
) -> Any:
    module = Wide()
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    run = pl.Trainer(
        max_steps=rounds,
        max_epochs=-1,
        accelerator="cpu",
        devices=devices,
        num_nodes=nodes,
        strategy="auto" if devices * nodes == 1 else "ddp",
        default_root_dir=root,
        callbacks=[pl.callbacks.ModelCheckpoint(root, "last", every_n_train_steps=3, save_on_train_epoch_end=False)],
        **quiet,  # type: ignore[arg-type]
    )
    fed = FederatedModule(module, Scaffold(), state_memory_mb=1, state_dir=state_dir)
    workers = {f"w{i}": Rows([float(i), i / 2.0], batch_size=1) for i in range(6)}
    run.fit(fed, FederatedDataModule(workers, cohort_size=4, rounds_per_epoch=9), ckpt_path=ckpt)
    (rows,) = fed.own_state.values()
    return module.x.detach(), {name: row[::1000] for name, row in rows.items()}


@pytest.mark.parametrize("shared", [True, False], ids=["moved", "no disk in common"])
def test_two_processes_go_on_from_a_checkpoint(tmp_path: Path, shared: bool) -> None:
    expected = fit(tmp_path / "one", 6, 1)

    nodes = 1 if shared else 2

    def first() -> None:
        fit(tmp_path / "here" / "run", 3, 2 // nodes, nodes)

    assert [end.error for end in run_in_processes(first, nodes=nodes)] == [None, None]
    ckpt = tmp_path / "last.ckpt"  # a file that all can read, as Lightning needs it
    shutil.copy(tmp_path / "here" / "run" / "last.ckpt", ckpt)
    (tmp_path / "here").rename(tmp_path / "there")
    shutil.rmtree(tmp_path / "there" / "run" / "lightning_fed_state" / "process-1")

    def second() -> Any:
        alone = not shared and os.environ["NODE_RANK"] == "1"
        return fit(tmp_path / ("elsewhere" if alone else "there/run"), 6, 2 // nodes, nodes, ckpt)

    for ended in run_in_processes(second, nodes=nodes):
        assert ended.error is None, ended.trace
        assert_equal(ended.result, expected)


def test_a_file_that_no_process_has_is_told_by_all(tmp_path: Path) -> None:
    def first() -> None:
        fit(tmp_path / "run", 3, 2)

    assert [end.error for end in run_in_processes(first)] == [None, None]
    shutil.rmtree(tmp_path / "run" / "lightning_fed_state")
    for ended in run_in_processes(lambda: fit(tmp_path / "run", 6, 2, ckpt=tmp_path / "run" / "last.ckpt")):
        assert str(ended.error).startswith("FileNotFoundError: the state of workers in ")


def test_a_folder_in_which_one_process_cannot_write_is_told_by_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    states = {"0": tmp_path / "state", "1": file / "state"}

    def work() -> None:
        fit(tmp_path / "run", 3, 2, state_dir=states[os.environ["LOCAL_RANK"]])

    first, second = run_in_processes(work)
    assert str(second.error).startswith(f"OSError: nothing can be written to {file}")
    assert str(first.error).startswith("ProcessError: process 1 of 2 failed: OSError: nothing can be written to ")
    assert not states["0"].exists()
