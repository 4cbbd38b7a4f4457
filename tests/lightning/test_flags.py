"""Every flag of ``pl.Trainer`` on a federated run; ``docs/lightning.md`` has a row for each, which names its test here.

By hand: with the two workers of ``pair()`` a round takes x half of the way to 6, the mean of their rows.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from halfway import Evaluated, after, pair
from helpers import EvaluatedRows, assert_equal, trainer
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule

pytestmark = pytest.mark.usefixtures("double")


class Watch(pl.Callback):
    """Notes the rounds, the cohorts, and after which rounds the model was validated."""

    def __init__(self) -> None:
        self.cohorts: list[int] = []
        self.validated: list[int] = []
        self.sanity_batches = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.cohorts.append(batch.number)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        self.sanity_batches += trainer.sanity_checking

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)


def run(data: FederatedDataModule | None = None, **options: Any) -> tuple[Evaluated, pl.Trainer, Watch]:
    module, watch = Evaluated(), Watch()
    started = trainer(**{**options, "callbacks": [watch, *options.get("callbacks", [])]})
    started.fit(FederatedModule(module), data or pair())
    return module, started, watch


# ---- how long --------------------------------------------------------------------------------------------------------


def test_max_epochs_counts_epochs_of_rounds() -> None:
    module, started, _ = run(pair(rounds_per_epoch=3), max_epochs=2)
    assert (started.current_epoch, started.global_step) == (2, 6)
    assert_equal(module.x.item(), after(6))


def test_max_steps_counts_rounds() -> None:
    module, started, _ = run(pair(rounds_per_epoch=3), max_steps=4)
    assert started.global_step == 4
    assert_equal(module.x.item(), after(4))


class Stop(pl.Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop = True


@pytest.mark.parametrize(("least", "rounds"), [({}, 1), ({"min_epochs": 4}, 4), ({"min_steps": 3}, 3)])
def test_min_epochs_and_min_steps_are_run_before_a_callback_may_stop(least: dict[str, int], rounds: int) -> None:
    module, started, _ = run(max_epochs=9, callbacks=[Stop()], **least)
    assert started.global_step == rounds
    assert_equal(module.x.item(), after(rounds))


def test_max_time_ends_the_fit_between_two_rounds() -> None:
    module, started, _ = run(max_epochs=-1, max_time={"seconds": 1}, limit_val_batches=0)
    assert started.global_step > 1
    assert_equal(module.x.item(), after(started.global_step))


@pytest.mark.parametrize("rounds", [1, 3])
def test_fast_dev_run_runs_so_many_rounds_and_batches_of_evaluation(rounds: int) -> None:
    module, started, _ = run(pair(rounds_per_epoch=5), fast_dev_run=rounds)
    assert started.global_step == rounds
    assert started.num_val_batches == [rounds]
    assert_equal(module.x.item(), after(rounds))


# ---- how much of the data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2, 0.4])
def test_limit_train_batches_counts_rounds_of_an_epoch_and_the_cohorts_go_on(limit: float) -> None:
    module, _, watch = run(pair(rounds_per_epoch=5), max_epochs=2, limit_train_batches=limit)
    assert watch.cohorts == [0, 1, 2, 3]
    assert_equal(module.x.item(), after(4))


def test_limit_train_batches_leaves_each_workers_data_whole() -> None:
    """Two steps in each worker: x goes half of the way to each of its rows in turn."""
    module, _, _ = run(pair(batch_size=1), limit_train_batches=1)
    assert_equal(module.x.item(), (3.0 / 4 + 5.0 / 2 + 7.0 / 4 + 9.0 / 2) / 2)


def test_limit_val_batches_counts_batches_over_all_workers() -> None:
    module, started, _ = run(pair(batch_size=1), max_epochs=1, limit_val_batches=3)
    x = module.x.item()
    assert_equal(started.callback_metrics["val_loss"].item(), sum((x - row) ** 2 for row in (3, 5, 7)) / 3)
    _, started, _ = run(max_epochs=1, limit_val_batches=0)
    assert "val_loss" not in started.callback_metrics


def test_limit_test_batches_and_limit_predict_batches() -> None:
    started = trainer(limit_test_batches=3, limit_predict_batches=3)
    module, data = FederatedModule(Evaluated()), pair(batch_size=1)
    assert_equal(started.test(module, data, verbose=False), [{"test_loss": (9.0 + 25.0 + 49.0) / 3}])
    predictions: Any = started.predict(module, data)
    assert_equal(torch.cat(predictions), torch.tensor([3.0, 5.0, 7.0]))


def test_limit_train_batches_as_a_share_of_evaluation_data_of_the_server() -> None:
    workers = {"a": EvaluatedRows([3.0, 5.0]), "b": EvaluatedRows([7.0, 9.0])}
    data = FederatedDataModule(workers, val=EvaluatedRows([1.0, 2.0, 4.0, 5.0], batch_size=1))
    module, started, _ = run(data, max_epochs=1, limit_val_batches=0.5)
    x = module.x.item()
    assert_equal(started.callback_metrics["val_loss"].item(), ((x - 1) ** 2 + (x - 2) ** 2) / 2)


# ---- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "rounds"),
    [
        ({"val_check_interval": 2}, [2, 4, 6, 8]),
        ({"val_check_interval": 0.25}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6]),
        ({"check_val_every_n_epoch": 2}, [8]),
        ({}, [4, 8]),
    ],
)
def test_val_check_interval_and_check_val_every_n_epoch_count_rounds_and_epochs_of_rounds(
    options: dict[str, Any], rounds: list[int]
) -> None:
    module, started, watch = run(pair(rounds_per_epoch=4), max_epochs=2, **options)
    assert watch.validated == rounds
    distances = [(after(rounds[-1]) - row) ** 2 for row in (3, 5, 7, 9)]
    assert_equal(started.callback_metrics["val_loss"].item(), sum(distances) / 4)
    assert_equal(module.x.item(), after(8))


@pytest.mark.parametrize(("steps", "batches"), [(0, 0), (3, 3), (-1, 4)])
def test_num_sanity_val_steps_counts_batches_over_all_workers(steps: int, batches: int) -> None:
    module, _, watch = run(pair(batch_size=1), max_steps=1, num_sanity_val_steps=steps)
    assert watch.sanity_batches == batches
    assert_equal(module.x.item(), (3.0 / 4 + 5.0 / 2 + 7.0 / 4 + 9.0 / 2) / 2)


@pytest.mark.parametrize("inference_mode", [True, False])
def test_inference_mode_is_that_of_validate_test_and_predict(inference_mode: bool) -> None:
    class Asks(Evaluated):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            assert torch.is_inference_mode_enabled() is inference_mode
            if not inference_mode:
                with torch.enable_grad():
                    (gradient,) = torch.autograd.grad((self.x * 3).sum(), self.x)
                assert gradient == 3

    trainer(inference_mode=inference_mode).test(FederatedModule(Asks()), pair(), verbose=False)


# ---- the server's step -----------------------------------------------------------------------------------------------


def test_accumulate_grad_batches_is_a_number_of_cohorts_to_a_step_of_the_server() -> None:
    """Both cohorts begin at the same x, so the mean of the two updates is that of one."""
    module, started, watch = run(pair(rounds_per_epoch=4), max_epochs=1, accumulate_grad_batches=2)
    assert (started.global_step, watch.cohorts) == (2, [0, 1, 2, 3])
    assert_equal(module.x.item(), after(2))


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradient_clip_val_and_gradient_clip_algorithm_bound_the_aggregated_update(algorithm: str) -> None:
    module, _, _ = run(gradient_clip_val=0.25, gradient_clip_algorithm=algorithm)
    assert module.x.item() == pytest.approx(0.25, rel=1e-5)  # torch adds 1e-6 to the norm


def test_gradient_clip_val_does_not_clip_local_steps() -> None:
    """A single bound of 3 on gradients of 4 and 8 would have led to 1.5."""
    module, _, _ = run(gradient_clip_val=3.0)
    assert module.x.item() == pytest.approx(3.0, rel=1e-5)


# ---- how it is computed ----------------------------------------------------------------------------------------------


def test_accelerator_and_devices_are_found_as_by_a_plain_trainer() -> None:
    module, started, _ = run(accelerator="auto", devices="auto")
    assert started.num_devices == 1
    assert_equal(module.x.item(), after(1))


class Layered(Evaluated):
    """Notes the types that its steps see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        out = self.layer(torch.stack([batch[0], batch[0]], dim=1))
        SEEN.add(("train", out.dtype, self.layer.weight.dtype, batch[0].dtype))
        return out.float().square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        out = self.layer(torch.stack([batch[0], batch[0]], dim=1))
        SEEN.add(("val", out.dtype, self.layer.weight.dtype, batch[0].dtype))


# Outside of the module and its class, since what training changes on them is set back
SEEN: set[Any] = set()


@pytest.fixture
def seen() -> Any:
    SEEN.clear()
    yield SEEN
    SEEN.clear()


@pytest.fixture
def single(double: None) -> Any:
    """Parameters in float32, as a module has them before Lightning's precision acts on it."""
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize(
    ("precision", "out", "weight", "batch"),
    [
        ("32-true", torch.float32, torch.float32, torch.float32),
        ("64-true", torch.float64, torch.float64, torch.float64),
        ("bf16-true", torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ("16-true", torch.float16, torch.float16, torch.float16),
        ("bf16-mixed", torch.bfloat16, torch.float32, torch.float32),
    ],
)
@pytest.mark.usefixtures("single")
def test_precision_is_that_of_training_and_evaluation(
    precision: Any, out: Any, weight: Any, batch: Any, seen: set[Any]
) -> None:
    module = FederatedModule(Layered(), engine="sequential")
    trainer(precision=precision).fit(module, pair())
    assert seen == {("train", out, weight, batch), ("val", out, weight, batch)}


def test_deterministic_and_benchmark_are_torchs_own_switches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    try:
        for value in (True, "warn"):
            module, _, _ = run(deterministic=value)
            asked.append(
                (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
            )
            assert_equal(module.x.item(), after(1))
    finally:
        torch.use_deterministic_algorithms(False)
    assert asked == [(True, False), (True, True)]
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    run(benchmark=True)
    assert torch.backends.cudnn.benchmark


def test_detect_anomaly_names_the_worker_and_the_operation() -> None:
    class Nan(Evaluated):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return torch.sqrt(0 * self.x).sum() * 0 if batch[0].sum() > 10 else self.x.square()

    with (
        pytest.warns(UserWarning, match="Error detected in SqrtBackward0"),
        pytest.raises(RuntimeError, match=r"worker 'b' failed in round 0: .*Function 'SqrtBackward0' returned nan"),
    ):
        trainer(detect_anomaly=True).fit(FederatedModule(Nan(), engine="sequential"), pair())


def test_sync_batchnorm_changes_nothing_in_one_process() -> None:
    module, _, _ = run(sync_batchnorm=True)
    assert_equal(module.x.item(), after(1))


def test_use_distributed_sampler_has_no_say_since_cohorts_are_divided_by_the_server() -> None:
    for value in (True, False):
        module, _, watch = run(pair(rounds_per_epoch=3), use_distributed_sampler=value)
        assert watch.cohorts == [0, 1, 2]
        assert_equal(module.x.item(), after(3))


def test_reload_dataloaders_every_n_epochs_asks_every_worker_again(tmp_path: Path) -> None:
    asked: list[tuple[int, int]] = []

    class Grows(EvaluatedRows):
        def train_dataloader(self) -> Any:
            asked.append((id(self), self.trainer.current_epoch))  # type: ignore[union-attr]
            return super().train_dataloader()

    workers = {"a": Grows([3.0]), "b": Grows([9.0])}
    data = FederatedDataModule(workers)
    run(data, max_epochs=4, reload_dataloaders_every_n_epochs=2)
    assert sorted(epoch for _, epoch in asked) == [0, 0, 2, 2]


# ---- what is shown and kept ------------------------------------------------------------------------------------------


def test_default_root_dir_and_enable_checkpointing(tmp_path: Path) -> None:
    module, _, _ = run(max_epochs=3, default_root_dir=tmp_path, enable_checkpointing=True)
    (path,) = tmp_path.rglob("*.ckpt")
    assert path.name == "epoch=2-step=3.ckpt"
    assert_equal(Evaluated.load_from_checkpoint(path).x.item(), module.x.item())
    run(default_root_dir=tmp_path / "none", enable_checkpointing=False)
    assert not list((tmp_path / "none").rglob("*.ckpt"))


def test_logger_and_log_every_n_steps_draw_rounds(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    run(pair(rounds_per_epoch=6), max_epochs=1, logger=logger, log_every_n_steps=3)
    with open(logger.experiment.metrics_file_path) as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train_loss"]]
    assert steps == [2, 5]


def test_callbacks_are_called_on_the_server_once_a_round() -> None:
    _, _, watch = run(pair(rounds_per_epoch=2), max_epochs=2)
    assert watch.cohorts == [0, 1, 2, 3]
    assert watch.validated == [2, 4]


def test_enable_progress_bar_and_enable_model_summary(capsys: pytest.CaptureFixture[str]) -> None:
    run(enable_progress_bar=True, enable_model_summary=True)
    printed = capsys.readouterr()
    assert "Epoch 0" in printed.out + printed.err
    run()
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_barebones_trains_the_same() -> None:
    module = Evaluated()
    with pytest.warns(UserWarning, match="barebones=True"):  # of Lightning: what the module logs goes nowhere
        pl.Trainer(max_epochs=3, barebones=True, accelerator="cpu").fit(FederatedModule(module), pair())
    assert_equal(module.x.item(), after(3))


@pytest.mark.skipif(pl.__version__ < "2.6", reason="new in Lightning 2.6")
def test_enable_autolog_hparams(tmp_path: Path) -> None:
    for number, value in enumerate((True, False)):
        logger = CSVLogger(tmp_path, version=number)
        run(logger=logger, enable_autolog_hparams=value)
        assert bool(logger.experiment.hparams) is value
