"""What a module finds on itself and on its Trainer, and the profilers and plugins of a Trainer, on a federated run.

``docs/lightning.md`` has rows for them; by hand, a round takes x half of the way to 6 (``halfway``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from halfway import Evaluated, after, pair
from helpers import EvaluatedRows, assert_equal, trainer
from pytorch_lightning import profilers
from pytorch_lightning.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from pytorch_lightning.plugins.precision import DoublePrecision, MixedPrecision, Precision
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule

pytestmark = pytest.mark.usefixtures("double")


# ---- what a module finds ---------------------------------------------------------------------------------------------


SEEN: list[Any] = []  # outside of the module and its class, since what training changes on them is set back


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    SEEN.clear()


OF_A_WORKER = {
    *("callback_metrics", "logged_metrics", "progress_bar_metrics", "strategy"),
    "current_epoch", "estimated_stepping_batches", "global_step", "is_global_zero", "is_last_batch", "lightning_module",
    "lr_scheduler_configs", "max_epochs", "max_steps", "min_epochs", "min_steps", "model", "num_devices", "num_nodes",
    "num_training_batches", "optimizers", "predict_dataloaders", "test_dataloaders", "train_dataloader",
    "val_dataloaders", "world_size",
}  # fmt: skip


def test_a_worker_finds_what_is_not_its_own_of_the_server() -> None:
    names = sorted(n for n, v in vars(pl.Trainer).items() if isinstance(v, property) and n not in OF_A_WORKER)
    server: dict[str, Any] = {}

    class Asks(Evaluated):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            SEEN.append({name: getattr(self.trainer, name) for name in names if name[0] != "_"})
            SEEN.append((self.current_epoch, self.global_step, self.trainer.current_epoch, self.trainer.global_step))
            SEEN.append((self.global_rank, self.local_rank, self.logger, self.loggers))
            return super().training_step(batch, batch_idx)

    class Looks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            server.update({name: getattr(trainer, name) for name in names if name[0] != "_"})

    module = FederatedModule(Asks(), engine="sequential")
    trainer(max_epochs=2, callbacks=[Looks()], limit_val_batches=0).fit(module, pair(rounds_per_epoch=2))
    assert SEEN[-3].keys() == server.keys()
    same = {name for name, value in server.items() if SEEN[-3][name] is value or SEEN[-3][name] == value}
    assert same == server.keys()
    assert SEEN[1::3] == [(n // 2, n, n // 2, n) for n in range(4) for _ in "ab"]
    assert SEEN[2] == (0, 0, None, [])


def test_of_the_module_what_lightning_has_for_others_is_empty() -> None:
    class Asks(Evaluated):
        def on_fit_start(self) -> None:
            SEEN.append((self.fabric, self.device_mesh))

    trainer().fit(FederatedModule(Asks()), pair())
    assert SEEN == [(None, None)]


def test_hyperparameters_are_those_of_the_module() -> None:
    fed = FederatedModule(Evaluated(lr=0.25))
    assert fed.hparams == {"lr": 0.25, "x": 0.0}
    assert fed.hparams_initial["lr"] == 0.25


def test_print_goes_where_it_does_with_a_plain_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    class Prints(Evaluated):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.print("worker")
            return super().training_step(batch, batch_idx)

        def on_train_end(self) -> None:
            self.print("server")
            self.trainer.print("trainer")

    trainer().fit(FederatedModule(Prints(), engine="sequential"), pair())
    assert capsys.readouterr().out.split() == ["worker", "worker", "server", "trainer"]


def test_data_of_the_module_itself_are_not_used_and_that_is_said() -> None:
    class Loads(Evaluated):
        def train_dataloader(self) -> Any:
            raise AssertionError("nobody asks")

    module = Loads()
    with pytest.warns(
        UserWarning, match=r"Loads\.train_dataloader\(\) is not used: training data comes from the workers"
    ):
        trainer().fit(FederatedModule(module), pair())
    assert_equal(module.x.item(), after(1))


def test_init_module_is_for_the_module_that_is_wrapped() -> None:
    run = trainer(precision="64-true")
    torch.set_default_dtype(torch.float32)
    with run.init_module():
        module = Evaluated()
    assert module.x.dtype == torch.float64
    run.fit(FederatedModule(module), FederatedDataModule({"a": EvaluatedRows([6.0])}))
    assert_equal(module.x.item(), after(1))


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true")  # by from_datasets itself
def test_from_datasets_makes_a_worker() -> None:
    def worker(*rows: float) -> pl.LightningDataModule:
        data = TensorDataset(torch.tensor(rows))
        return pl.LightningDataModule.from_datasets(data, val_dataset=data, batch_size=2)

    module = Evaluated()
    data = FederatedDataModule({"a": worker(3.0, 5.0), "b": worker(7.0, 9.0)})
    trainer().fit(FederatedModule(module), data)
    assert_equal(module.x.item(), after(1))


# ---- profilers -------------------------------------------------------------------------------------------------------


class Own(profilers.Profiler):
    """Counts the actions of each name."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    def start(self, action_name: str) -> None:
        self.started.append(action_name)

    def stop(self, action_name: str) -> None:
        """Nothing is measured."""


class Layered(Evaluated):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.layer(batch[0][:, None]).square().mean() + super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:The PyTorch Profiler default schedule will be overridden")
def test_profilers_see_rounds_and_what_is_done_in_them(tmp_path: Path) -> None:
    given: dict[str, Any] = {"dirpath": tmp_path, "filename": "it"}
    expected = {
        profilers.SimpleProfiler(**given): "run_training_batch",
        profilers.AdvancedProfiler(**given): "training_step",
        profilers.PyTorchProfiler(**given, export_to_chrome=False): "aten::",
    }
    for profiler, named in expected.items():
        for path in tmp_path.iterdir():
            path.unlink()
        run = trainer(max_epochs=2, profiler=profiler, limit_val_batches=0)
        run.fit(FederatedModule(module := Layered()), pair())
        (path,) = tmp_path.glob("fit-it*.txt")
        assert named in path.read_text()
        assert_equal(module.x.item(), after(2))


def test_profilers_of_ones_own_and_none() -> None:
    own = Own()
    trainer(max_epochs=3, profiler=own).fit(FederatedModule(Evaluated()), pair())
    assert own.started.count("run_training_batch") == 3
    trainer(profiler=profilers.PassThroughProfiler()).fit(FederatedModule(module := Evaluated()), pair())
    assert_equal(module.x.item(), after(1))


# ---- plugins ---------------------------------------------------------------------------------------------------------


class OwnIO(TorchCheckpointIO):
    """Notes what it writes."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        self.written.append(Path(path).name)
        super().save_checkpoint(checkpoint, path, storage_options)


@pytest.mark.parametrize("kind", [TorchCheckpointIO, AsyncCheckpointIO, OwnIO])
def test_checkpoint_plugins_write_what_a_run_goes_on_from(kind: type[Any], tmp_path: Path) -> None:
    plugin = kind()
    save = pl.callbacks.LambdaCallback(on_train_end=lambda run, _: run.save_checkpoint(tmp_path / "a.ckpt"))
    trainer(max_epochs=3, plugins=[plugin], callbacks=[save]).fit(FederatedModule(Evaluated()), pair())
    assert_equal(Evaluated.load_from_checkpoint(tmp_path / "a.ckpt").x.item(), after(3))
    again = trainer(max_epochs=5, plugins=[kind()])
    again.fit(FederatedModule(module := Evaluated()), pair(), ckpt_path=tmp_path / "a.ckpt")
    assert_equal(module.x.item(), after(5))
    if isinstance(plugin, OwnIO):
        assert plugin.written == ["a.ckpt"]


@pytest.mark.parametrize(
    ("plugin", "dtype"),
    [
        (Precision(), torch.float32),
        (DoublePrecision(), torch.float64),
        (MixedPrecision("bf16-mixed", "cpu"), torch.bfloat16),
    ],
    ids=lambda x: type(x).__name__,
)
def test_precision_plugins_are_those_of_local_training(plugin: Any, dtype: torch.dtype) -> None:
    class Asks(Layered):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            SEEN.append(self.layer(batch[0][:, None]).dtype)
            return super().training_step(batch, batch_idx)

    torch.set_default_dtype(torch.float32)
    trainer(plugins=[plugin]).fit(FederatedModule(Asks(), engine="sequential"), pair())
    assert set(SEEN) == {dtype}
