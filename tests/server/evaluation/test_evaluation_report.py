"""Results of single workers in Python: what an evaluation gave at each, by hand, and in words."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from processes import run_in_processes
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MaxMetric, MeanSquaredError

from lightning_fed import EvaluationReport, FederatedDataModule, FederatedModule
from lightning_fed.privacy import CentralDP
from lightning_fed.wire import WorkerError


class Measured(Scalar):
    """Logs the share of rows above 2 as an accuracy, and a mean of squares as a loss."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (x,) = batch
        self.log("val_loss", (x**2).mean())
        self.log("val_acc", (x > 2).to(x.dtype).mean())

    test_step = validation_step


WORKERS = {"ann": [1.0, 3.0], "bob": [3.0, 3.0, 3.0, 1.0], "cyd": [1.0, 1.0], "dee": [5.0]}
ACCURACY = {"ann": 0.5, "bob": 0.75, "cyd": 0.0, "dee": 1.0}
LOSS = {"ann": 5.0, "bob": 7.0, "cyd": 1.0, "dee": 25.0}


def federation(**options: Any) -> FederatedDataModule:
    return FederatedDataModule({name: EvaluatedRows(rows, batch_size=3) for name, rows in WORKERS.items()}, **options)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_a_report_by_hand(stage: str) -> None:
    fed = FederatedModule(Measured())
    run = trainer()
    (pooled,) = getattr(run, stage)(fed, federation(), verbose=False)
    report = fed.last_evaluation
    assert {worker: values["val_acc"] for worker, values in report.workers.items()} == ACCURACY
    assert {worker: values["val_loss"] for worker, values in report.workers.items()} == LOSS
    assert report.examples == {"ann": 2, "bob": 4, "cyd": 2, "dee": 1}
    assert report.metrics == pooled == {"val_loss": pytest.approx(65 / 9), "val_acc": pytest.approx(5 / 9)}
    assert (report.round, report.failures) == (None, ())
    # 0, 0.5, 0.75, 1: the tenth part of the way is 0.3 of the way from 0 to 0.5.
    assert report.quantile("val_acc", 0.1) == pytest.approx(0.15)
    assert run.callback_metrics["workers/val_acc/p10"].item() == pytest.approx(0.15)
    assert report.quantile("val_acc", 0.5) == run.callback_metrics["workers/val_acc/median"].item() == 0.625
    assert report.table()[1] == {"worker": "bob", "examples": 4, "val_loss": 7.0, "val_acc": 0.75}
    assert [row["worker"] for row in report.table()] == list(WORKERS)


def test_the_worst_are_those_of_low_accuracy_or_of_high_loss() -> None:
    fed = FederatedModule(Measured())
    trainer().validate(fed, federation(), verbose=False)
    report = fed.last_evaluation
    assert list(report.worst(2).items()) == [("cyd", 0.0), ("ann", 0.5)]
    assert list(report.worst(2, "val_loss").items()) == [("dee", 25.0), ("bob", 7.0)]
    assert report.worst(metric="val_loss", mode="max") == {"cyd": 1.0}
    assert list(report.worst(99)) == ["cyd", "ann", "bob", "dee"]


def test_of_equal_workers_the_first_of_the_population_is_the_worst() -> None:
    report = EvaluationReport({name: {"acc": 0.5} for name in "cab"})
    assert list(report.worst(2)) == ["c", "a"]
    assert list(report.worst(2, mode="min")) == ["c", "a"]


def test_a_worker_without_a_number_is_in_neither() -> None:
    report = EvaluationReport({"a": {"auc": math.nan}, "b": {"auc": 1.0}, "c": {"auc": 0.5}, "d": {"f1": 0.1}})
    assert report.quantile("auc", 0.5) == 0.75
    assert report.worst(3) == {"c": 0.5, "b": 1.0}
    assert report.worst(3, "f1") == {"d": 0.1}
    assert math.isnan(EvaluationReport({"a": {"auc": math.nan}}).quantile("auc", 0.5))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda r: r.quantile("val_ac", 0.1),
            KeyError,
            "of 'val_ac', but of 'val_loss', 'val_acc'; did you mean 'val_acc'?",
        ),
        (lambda r: r.worst(1, "zzz"), KeyError, "no worker has a value of 'zzz', but of 'val_loss', 'val_acc'"),
        (lambda r: r.worst(1, 3), KeyError, "no worker has a value of 3, but"),
        (lambda r: r.quantile("val_acc", 1.5), ValueError, "q=1.5 must be at least 0 and at most 1"),
        (lambda r: r.quantile("val_acc", "p10"), TypeError, "q='p10' must be a number, at least 0 and at most 1"),
        (lambda r: r.worst(0), ValueError, "n=0 must be at least 1"),
        (lambda r: r.worst("val_acc"), TypeError, "n='val_acc' must be a whole number of at least 1"),
        (lambda r: r.worst(mode="maxx"), ValueError, "mode='maxx' must be one of 'min', 'max'; did you mean 'max'?"),
    ],
)
def test_what_cannot_be_answered_is_named(call: Any, error: type[Exception], message: str) -> None:
    report = EvaluationReport({"a": {"val_loss": 1.0, "val_acc": 0.5}}, note="")
    with pytest.raises(error, match=re.escape(message)):
        call(report)


def test_a_metric_of_all_together_is_no_metric_of_single_workers() -> None:
    class WithMax(Measured):
        def __init__(self) -> None:
            super().__init__()
            self.largest = MaxMetric()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            super().validation_step(batch, batch_idx)
            self.largest.update(batch[0])
            self.log("largest", self.largest)

    fed = FederatedModule(WithMax())
    trainer().validate(fed, federation(), verbose=False)
    assert fed.last_evaluation.metrics["largest"] == 5.0
    with pytest.raises(KeyError, match="of 'largest', but of 'val_loss', 'val_acc'; it is one of all data together"):
        fed.last_evaluation.quantile("largest", 0.5)
    assert re.search(r"largest +5\n", repr(fed.last_evaluation))


# ---- in words --------------------------------------------------------------------------------------------------------


def test_a_notebook_shows_tables() -> None:
    html = EvaluationReport({"<a>": {"acc": 0.5}, "b": {"acc": 1.0}}, {"<a>": 8, "b": 8}, {"acc": 0.75})._repr_html_()
    assert html.startswith("<p>EvaluationReport: 2 workers, 16 examples</p><table><tr><th>metric</th>")
    assert "<td>&lt;a&gt;</td><td>8</td><td>0.5</td>" in html
    assert "<a>" not in html
    many = EvaluationReport({f"w{i}": {"acc": i / 100} for i in range(100)})._repr_html_()
    assert many.count("<tr>") == 1 + 1 + 1 + 5, "one metric, and those who fare worst"
    assert EvaluationReport()._repr_html_() == "<p>EvaluationReport: nothing has been evaluated yet</p>"


def test_a_report_reads_as_a_table() -> None:
    fed = FederatedModule(Measured())
    assert repr(fed.last_evaluation) == "EvaluationReport: nothing has been evaluated yet"
    trainer().validate(fed, federation(), verbose=False)
    assert repr(fed.last_evaluation).splitlines() == [
        "EvaluationReport: 4 workers, 9 examples",
        "  metric    pooled  min   p10  median    p90  max     std",
        "  val_loss   7.222    1   2.2       6   19.6   25   9.206",
        "  val_acc   0.5556    0  0.15   0.625  0.925    1  0.3698",
        "  worker  examples  val_loss  val_acc",
        "  ann            2         5      0.5",
        "  bob            4         7     0.75",
        "  cyd            2         1        0",
        "  dee            1        25        1",
    ]


def test_of_many_workers_the_worst_are_named() -> None:
    report = EvaluationReport({f"w{i}": {"val_acc": i / 100} for i in range(30)}, metrics={"val_acc": 0.2}, round=7)
    lines = repr(report).splitlines()
    assert lines[0] == "EvaluationReport, after round 7: 30 workers"
    assert lines[-1] == "worst by val_acc (p10 above): w0 0, w1 0.01, w2 0.02, w3 0.03, w4 0.04"
    assert len(lines) == 4


def test_who_was_left_out_is_said() -> None:
    class Bad(Measured):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            if batch[0].max() == 5:
                raise ValueError("no five")
            super().validation_step(batch, batch_idx)

    fed = FederatedModule(Bad(), on_worker_error="drop")
    with pytest.warns(UserWarning, match="worker 'dee' failed"):
        trainer().validate(fed, federation(), verbose=False)
    report = fed.last_evaluation
    assert list(report.workers) == list(report.examples) == ["ann", "bob", "cyd"]
    assert [failure.worker for failure in report.failures] == ["dee"]
    assert repr(report).splitlines()[-1] == f"left out: {report.failures[0]}"
    assert isinstance(report.failures[0], WorkerError)


def test_central_data_have_no_workers() -> None:
    fed = FederatedModule(Measured())
    data = federation(val=EvaluatedRows([1.0, 5.0]))
    run = trainer()
    run.validate(fed, data, verbose=False)
    report = fed.last_evaluation
    assert (report.workers, report.examples, report.table()) == ({}, {}, [])
    assert report.metrics == {"val_loss": 13.0, "val_acc": 0.5}
    assert not [name for name in run.callback_metrics if name.startswith("workers/")]
    assert repr(report).splitlines() == [
        "EvaluationReport: no workers, the data are central, and no worker's own were evaluated",
        "  metric    pooled",
        "  val_loss      13",
        "  val_acc      0.5",
    ]
    with pytest.raises(KeyError, match="no worker has a value of 'val_acc': the data are central"):
        report.quantile("val_acc", 0.1)
    with pytest.raises(KeyError, match="no worker has a value: the data are central"):
        report.worst()


# ---- within a fit, and what is counted ------------------------------------------------------------------------------


def test_a_validation_in_a_fit_names_its_round() -> None:
    class Rounds(pl.Callback):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            report = pl_module.last_evaluation
            self.seen.append((report.round, report.metrics.get("val_acc")))

    rounds, fed = Rounds(), FederatedModule(Measured())
    fit(fed, federation(rounds_per_epoch=2), max_epochs=2, callbacks=[rounds], num_sanity_val_steps=0)
    assert rounds.seen == [(1, pytest.approx(5 / 9)), (3, pytest.approx(5 / 9))]
    trainer().test(fed, federation(), verbose=False)  # another Trainer
    assert fed.last_evaluation.round == 3


def test_a_sanity_check_is_no_evaluation() -> None:
    fed = FederatedModule(Measured())
    run = fit(fed, federation(), num_sanity_val_steps=2, check_val_every_n_epoch=9)
    assert repr(fed.last_evaluation) == "EvaluationReport: nothing has been evaluated yet"
    assert "workers/val_acc/p10" not in run.callback_metrics


def test_a_prediction_is_no_evaluation() -> None:
    fed = FederatedModule(Measured())
    fed.module.predict_step = lambda batch, batch_idx: batch[0]
    trainer().validate(fed, federation(), verbose=False)
    report = fed.last_evaluation
    trainer().predict(fed, federation())
    assert fed.last_evaluation is report


class Tagged:
    """A batch without a tensor that Lightning would find."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = torch.stack([row[0] for row in rows])


class TaggedRows(Rows):
    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.values), batch_size=2, collate_fn=Tagged)


@pytest.mark.parametrize("given", [False, True])
def test_batches_without_a_size_are_counted_if_the_module_says_it(given: bool) -> None:
    class Sized(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.mse = MeanSquaredError()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mse(batch.rows, torch.zeros_like(batch.rows))
            self.log("mse", self.mse, batch_size=len(batch.rows) if given else None)

    fed = FederatedModule(Sized())
    trainer().validate(fed, FederatedDataModule({"a": TaggedRows([1.0, 2.0, 3.0])}), verbose=False)
    assert fed.last_evaluation.workers == {"a": {"mse": pytest.approx(14 / 3)}}
    assert fed.last_evaluation.examples == ({"a": 3} if given else {})
    assert fed.last_evaluation.table() == [
        {"worker": "a", **({"examples": 3} if given else {}), "mse": pytest.approx(14 / 3)}
    ]


def test_examples_of_several_loaders_add_up() -> None:
    class Two(EvaluatedRows):
        def val_dataloader(self) -> Any:
            return [super().val_dataloader(), DataLoader(TensorDataset(self.values[:1]))]

    class Indexed(Scalar):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("val/acc", batch[0].mean())

    fed, run = FederatedModule(Indexed()), trainer()
    data = FederatedDataModule({"a": Two([1.0, 3.0]), "b": Two([5.0, 7.0, 9.0])})
    run.validate(fed, data, verbose=False)
    assert fed.last_evaluation.examples == {"a": 3, "b": 4}
    assert run.callback_metrics["workers/val/acc/dataloader_idx_0/max"] == 7.0
    assert run.callback_metrics["workers/val/acc/dataloader_idx_1/max"] == 5.0
    assert fed.last_evaluation.worst(1, "val/acc/dataloader_idx_1") == {"a": 1.0}


def test_metrics_named_as_the_columns_of_a_table_are_kept_apart() -> None:
    report = EvaluationReport({"a": {"examples": 0.5, "worker": 1.0}}, {"a": 3})
    assert report.table() == [{"worker": "a", "examples": 3, "logged/examples": 0.5, "logged/worker": 1.0}]


# ---- several processes, and a promise --------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_two_processes_have_the_report_of_one() -> None:
    def report(devices: int) -> Any:
        fed = FederatedModule(Measured())
        run = trainer(strategy="ddp" if devices > 1 else "auto", devices=devices, max_epochs=2)
        run.fit(fed, federation())
        shown = {name: value.item() for name, value in run.callback_metrics.items()}
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in fed.history]
        report = fed.last_evaluation
        text = repr(report)
        return (
            list(report.workers.items()),
            report.examples,
            report.metrics,
            report.round,
            text,
            shown,
            rows,
        )

    expected = report(1)
    assert "workers/val_acc/p10" in expected[5]
    for ended in run_in_processes(lambda: report(2)):
        assert ended.error is None, ended.trace
        assert list(ended.result[0]) == list(expected[0])
        assert_equal(ended.result[5], expected[5])
        assert_equal(ended.result[6], expected[6])
        assert ended.result[1:5] == expected[1:5]


def private(release: bool) -> FederatedModule:
    return FederatedModule(
        Measured(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, release_metrics=release)
    )


@pytest.mark.filterwarnings("ignore:CentralDP")
def test_a_promise_hides_single_workers() -> None:
    fed = private(False)
    hides = "EvaluationReport: CentralDP hides the results of single workers"
    assert repr(fed.last_evaluation) == hides
    run = fit(fed, federation(val=EvaluatedRows([1.0, 5.0])), max_epochs=2)
    report = fed.last_evaluation
    assert (report.workers, report.examples, report.metrics) == ({}, {}, {"val_loss": 13.0, "val_acc": 0.5})
    assert repr(report).startswith("EvaluationReport, after round 1: no workers, CentralDP hides the results of single")
    assert not [name for name in run.callback_metrics if name.startswith("worker")]
    rows = [{name: value for name, value in row.items() if name != "bytes_down"} for row in fed.history]
    planned = 4 * 4  # bytes that four workers are asked for, a float32 each
    shown = {"bytes_up": planned, "val_loss": 13.0, "val_acc": 0.5}
    assert rows == [{"round": 0, "epoch": 0, **shown}, {"round": 1, "epoch": 1, **shown}]


@pytest.mark.filterwarnings("ignore:CentralDP")
def test_a_promise_that_releases_metrics_shows_them() -> None:
    fed = private(True)
    run = fit(fed, federation())
    assert fed.last_evaluation.worst() == {"cyd": 0.0}
    assert {"workers/val_acc/p10", "workers/loss/p90"} <= set(run.callback_metrics)
    assert {"loss", "examples", "workers/val_acc/p10"} <= set(fed.history[0])
