"""Evaluation in two processes gives what it gives in one, whatever the workers of each log, or fail at."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, trainer
from processes import Ended, run_in_processes
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanSquaredError, Metric, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import MulticlassAUROC, MulticlassPrecision

from lightning_fed import FederatedDataModule, FederatedModule

pytestmark = pytest.mark.usefixtures("double")


class Logging(Scalar):
    """Logs plain values of every reduction, some of them about some batches only, and torchmetrics objects."""

    def __init__(self) -> None:
        super().__init__()
        self.mse = MeanSquaredError()
        self.largest = MaxMetric()
        self.pearson = PearsonCorrCoef()  # states that torchmetrics stacks
        self.seldom = MeanSquaredError()
        self.both = MetricCollection({"a": MeanSquaredError(), "b": MeanSquaredError(squared=False)})
        self.auroc = MulticlassAUROC(3)  # lists of matrices
        self.precision = MulticlassPrecision(3)
        self.computed = MeanSquaredError()  # by hand, at the end
        self.seen: list[float] = []

    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        self.log("mean", x.mean(), prog_bar=True)
        self.log("sum", x.sum(), reduce_fx="sum")
        self.log("least", x.min(), reduce_fx=min)
        self.log("most", x.max(), reduce_fx="max", sync_dist=True)
        self.log("forked", x.mean(), on_step=True, on_epoch=True)
        if x.max() > 50:
            self.log("large only", x.max())
            self.seldom(x, torch.zeros_like(x))
            self.log("seldom", self.seldom)
        self.mse(x, torch.zeros_like(x))
        self.largest.update(x)
        self.pearson.update(x, x**2)
        self.both.update(x, torch.zeros_like(x))
        labels = x.long() % 3
        logits = torch.stack([x % 2, x % 5, -x], dim=1)
        self.auroc.update(logits, labels)
        self.precision.update(logits, labels)
        self.log_dict({"mse": self.mse, "largest": self.largest, "pearson": self.pearson, "auroc": self.auroc})
        self.log("precision", self.precision)
        self.log_dict(self.both)
        self.computed.update(x, torch.ones_like(x))
        return x.sum()

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return batch[0] + self.x

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("after", outputs / len(batch[0]))

    def on_validation_epoch_end(self) -> None:
        self.log("computed", self.computed.compute())
        self.seen.append(self.trainer.callback_metrics["mean"].item())
        self.computed.reset()


def rows(seed: int, n: int, kind: type[Rows] = EvaluatedRows, factor: float = 10.0) -> Rows:
    values = torch.rand(n, generator=torch.Generator().manual_seed(seed)) * factor
    return kind(values, batch_size=4)


POPULATIONS: dict[str, Callable[[], FederatedDataModule]] = {
    "one process has no evaluation data": lambda: FederatedDataModule({"a": rows(0, 9), "b": rows(1, 5, Rows)}),
    "other numbers of batches": lambda: FederatedDataModule({"a": rows(0, 30), "b": rows(1, 3), "c": rows(2, 11)}),
    "one process logs more": lambda: FederatedDataModule({"a": rows(0, 9), "b": rows(1, 9, factor=100.0)}),
    "a process without workers": lambda: FederatedDataModule({"a": rows(0, 9)}),
    "central, other numbers of batches": lambda: FederatedDataModule(
        {"a": rows(0, 4), "b": rows(1, 4)}, val=rows(3, 9)
    ),
}


class Everything(pl.Callback):
    """Keeps what a callback can see, from the hook in which callbacks look first."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.seen.append(numbers(trainer))


def numbers(run: pl.Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in run.callback_metrics.items()}


def fit(data: Callable[[], FederatedDataModule], devices: int, **options: Any) -> Any:
    torch.manual_seed(0)
    see, module = Everything(), Logging()
    run = trainer(
        strategy="auto" if devices == 1 else "ddp",
        devices=devices,
        max_epochs=2,
        callbacks=[see],
        num_sanity_val_steps=-1,
    )
    fed = FederatedModule(module, **options)
    run.fit(fed, data())
    left = {path: metric.update_count for path, metric in module.named_modules() if isinstance(metric, Metric)}
    settings = {metric.sync_on_compute for metric in module.modules() if isinstance(metric, Metric)}
    assert (set(left.values()), settings) == ({0}, {True})
    return numbers(run), see.seen, module.seen, fed.last_evaluation.workers


def results(ended: list[Ended]) -> list[Any]:
    assert [end.error for end in ended] == [None] * len(ended), ended[0].trace + ended[-1].trace
    return [end.result for end in ended]


@pytest.mark.parametrize("population", list(POPULATIONS))
def test_two_processes_log_what_one_logs(population: str) -> None:
    data = POPULATIONS[population]
    expected = fit(data, 1)
    assert {"mean", "mse", "computed", "after", "auroc", "forked_epoch"} <= set(expected[0])
    for result in results(run_in_processes(lambda: fit(data, 2))):
        assert_equal(result, expected)


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("population", list(POPULATIONS)[:3])
def test_an_evaluation_on_its_own_gives_what_one_process_gives(stage: str, population: str) -> None:
    def evaluate(devices: int) -> Any:
        run = trainer(strategy="auto" if devices == 1 else "ddp", devices=devices)
        return getattr(run, stage)(FederatedModule(Logging()), POPULATIONS[population](), verbose=False)

    expected = evaluate(1)
    for result in results(run_in_processes(lambda: evaluate(2))):
        assert_equal(result, expected)


def test_three_processes_and_a_limit_on_each() -> None:
    def evaluate() -> Any:
        run = trainer(strategy="ddp", devices=3, limit_val_batches=2)
        data = FederatedDataModule({f"w{i}": rows(i, 4 * i + 1) for i in range(5)})
        (metrics,) = run.validate(FederatedModule(Logging()), data, verbose=False)
        return metrics

    # Of each process two batches: w0 and w3 have 1 and 4, w1 and w4 have 2 and 5, w2 has 3; the first of each are read.
    parts = [rows(0, 1).values, rows(3, 13).values[:4], rows(1, 5).values, rows(2, 9).values[:8]]
    for metrics in results(run_in_processes(evaluate, processes=3)):
        assert_equal(metrics["mean"], torch.cat(parts).mean().item())


def test_predictions_of_a_process_are_those_of_its_workers() -> None:
    def predict() -> Any:
        data = FederatedDataModule({"a": rows(0, 3), "b": rows(1, 3, Rows), "c": rows(2, 3)})
        predicted = trainer(strategy="ddp", devices=2).predict(FederatedModule(Logging()), data)
        return [tensor.tolist() for tensor in predicted or []]

    first, second = results(run_in_processes(predict))
    assert (len(first), second) == (2, [])


# ---- central data ----------------------------------------------------------------------------------------------------


class Several(Rows):
    def val_dataloader(self) -> Any:
        whole, head = TensorDataset(self.values), TensorDataset(self.values[:6])
        return [DataLoader(whole, batch_size=self.batch_size), DataLoader(head, batch_size=3)]


class Indexed(Scalar):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("mean", batch[0].mean())
        if dataloader_idx == 1:
            self.log("second", batch[0].mean(), add_dataloader_idx=False)


def test_several_central_loaders_are_told_apart() -> None:
    def evaluate(devices: int) -> Any:
        run = trainer(strategy="auto" if devices == 1 else "ddp", devices=devices)
        data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0])}, val=rows(0, 13, Several))
        run.validate(FederatedModule(Indexed()), data, verbose=False)
        return numbers(run)

    expected = evaluate(1)
    assert set(expected) == {"mean/dataloader_idx_0", "mean/dataloader_idx_1", "second"}
    for result in results(run_in_processes(lambda: evaluate(2))):
        assert_equal(result, expected)


def test_one_object_for_several_loaders_is_refused() -> None:
    class Shared(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.mse = MeanSquaredError()

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.mse(batch[0], torch.zeros_like(batch[0]))
            self.log("mse", self.mse)

    def evaluate() -> None:
        data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0])}, val=rows(0, 13, Several))
        trainer(strategy="ddp", devices=2).validate(FederatedModule(Shared()), data, verbose=False)

    for ended in run_in_processes(evaluate):
        assert str(ended.error).startswith("ValueError: one torchmetrics object is logged as 'mse/dataloader_idx_1'")


def test_an_error_about_central_data_leaves_no_process_waiting() -> None:
    class Failing(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if batch[0].max() > 8:
                raise OSError("mine")

    def evaluate() -> None:
        data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0])}, val=EvaluatedRows([1.0, 9.0], batch_size=1))
        trainer(strategy="ddp", devices=2).validate(FederatedModule(Failing()), data, verbose=False)

    first, second = run_in_processes(evaluate)
    assert second.error == "OSError: mine"
    assert first.error == "ProcessError: process 1 of 2 failed: OSError: mine"


# ---- a worker that fails ---------------------------------------------------------------------------------------------


class FailingLoader(EvaluatedRows):
    def val_dataloader(self) -> Any:
        raise OSError("its disk is gone")


class FailingSetup(EvaluatedRows):
    def setup(self, stage: str) -> None:
        if self.trainer is not None and not self.trainer.training:
            raise OSError("its disk is gone")


class FailingRow(EvaluatedRows):
    def val_dataloader(self) -> Any:
        def read(row: int) -> Any:
            if row > 5:
                raise OSError("its disk is gone")
            return (self.values[row],)

        return DataLoader(
            range(len(self.values)), batch_size=4, collate_fn=lambda r: (torch.stack([read(i)[0] for i in r]),)
        )  # type: ignore[arg-type]


class FailingTransfer(EvaluatedRows):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if self.trainer is not None and not self.trainer.training:
            raise OSError("its disk is gone")
        return batch


class OddRows(EvaluatedRows):
    """Rows that the step, or a hook, stumbles over, in the second batch."""

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.cat([self.values[:4], -self.values[4:]])), batch_size=4)


class FailingStep(Logging):
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        output = super().validation_step(batch, batch_idx)
        if batch[0].min() < 0:
            raise OSError("its disk is gone")
        return output


class EndingStep(Logging):
    def validation_step(self, batch: Any, batch_idx: int) -> Tensor:
        if batch[0].min() < 0:
            sys.exit("its disk is gone")
        return super().validation_step(batch, batch_idx)


class EndingLoader(EvaluatedRows):
    def val_dataloader(self) -> Any:
        sys.exit("its disk is gone")


class FailingHook(Logging):
    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        if batch[0].min() < 0:
            raise OSError("its disk is gone")
        super().on_validation_batch_end(outputs, batch, batch_idx, dataloader_idx)


ENDING = "its code raised SystemExit: its disk is gone, as if to end the whole program; raise an error that says what"
FAULTS: dict[str, tuple[type[Rows], type[Logging], str]] = {
    "loader": (FailingLoader, Logging, "its val_dataloader raised OSError: its disk is gone"),
    "setup": (FailingSetup, Logging, "its val_dataloader raised OSError: its disk is gone"),
    "row": (FailingRow, Logging, "its val_dataloader raised OSError: its disk is gone"),
    "transfer": (FailingTransfer, Logging, "to transfer its batch raised OSError: its disk is gone"),
    "step": (OddRows, FailingStep, "validation_step() on its data raised OSError: its disk is gone"),
    "exit in loader": (EndingLoader, Logging, f"its val_dataloader: {ENDING} is wrong"),
    "exit in step": (OddRows, EndingStep, f"validation_step() on its data: {ENDING} is wrong"),
    "hook": (OddRows, FailingHook, "on_validation_batch_end() on its data raised OSError: its disk is gone"),
}


def evaluate_with(fault: str, on_worker_error: Any, devices: int, bad: bool = True) -> Any:
    kind, module, _ = FAULTS[fault]
    workers = {"a": rows(0, 9), "bad": rows(1, 12, kind), "c": rows(2, 5), "d": rows(3, 7)}
    if not bad:
        del workers["bad"]
    run = trainer(strategy="auto" if devices == 1 else "ddp", devices=devices)
    fed = FederatedModule(module(), on_worker_error=on_worker_error)
    (metrics,) = run.validate(fed, FederatedDataModule(workers), verbose=False)
    report = fed.last_evaluation
    return [str(failure) for failure in report.failures], metrics, report.workers


@pytest.mark.filterwarnings("ignore:worker 'bad' failed")
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_worker_that_fails_is_dropped_as_if_it_were_not_there(fault: str, devices: int) -> None:
    _, *expected = evaluate_with(fault, "drop", 1, bad=False)
    if devices == 1:
        ended = [evaluate_with(fault, "drop", 1)]
    else:
        ended = results(run_in_processes(lambda: evaluate_with(fault, "drop", 2)))
    for failures, *result in ended:
        assert failures == [f"worker 'bad' failed in round 0: {FAULTS[fault][2]}"]
        assert_equal(result, expected)


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_worker_that_fails_ends_all_processes_by_the_same_error(fault: str) -> None:
    message = f"WorkerError: worker 'bad' failed in round 0: {FAULTS[fault][2]}"
    assert [end.error for end in run_in_processes(lambda: evaluate_with(fault, "raise", 2))] == [message] * 2
