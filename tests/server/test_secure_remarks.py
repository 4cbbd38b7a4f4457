"""What a run says in which the server sees sums only, and what it draws."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, trainer
from torchmetrics import MeanMetric

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import Logger, pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import Scaffold
from lightning_fed.secure import SecureAggregation
from lightning_fed.server import secure_remarks
from lightning_fed.server.secure_remarks import SecureRemarks, secure_scalars
from lightning_fed.wire.cohort_numbers import CohortNumbers
from lightning_fed.wire.report import RoundReport


@dataclass
class Drawn(Logger):  # type: ignore[misc]
    """A logger that keeps all."""

    rows: list[dict[str, float]] = field(default_factory=list)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    name = version = "drawn"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append(metrics)

    def log_hyperparams(self, params: Any, *args: Any) -> None:
        self.hyperparameters.update(params)

    @property
    def all(self) -> dict[str, float]:
        return {name: value for row in self.rows for name, value in row.items()}


class Talkative(Scalar):
    """Logs in every way there is."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = MeanMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch
        self.seen(values)
        self.log("average", values.mean())
        self.log("number", float(len(values)), reduce_fx="sum")
        self.log("largest", values.max(), reduce_fx="max")
        self.log("object", self.seen)
        self.log("huge", 1e9)
        return super().training_step(batch, batch_idx)


def run(module: pl.LightningModule, secure: SecureAggregation | None, **options: Any) -> tuple[FederatedModule, Drawn]:
    """Workers with the values 0 and 1, 1 and 2, and so on: their updates are 0.5, 1.5, 2.5, 3.5 long at first."""
    logger = Drawn()
    options = {"aggregator": UniformMean(), "engine": "sequential"} | options
    fed = FederatedModule(module, secure_aggregation=secure, **options)
    workers = {f"p{i}": Rows([float(i), i + 1.0]) for i in range(4)}
    trainer(max_steps=2, logger=logger).fit(fed, FederatedDataModule(workers))
    return fed, logger


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said beside warnings."""
    lines: list[str] = []
    monkeypatch.setattr(secure_remarks, "rank_zero_info", lines.append)
    return lines


# ---- at the start ----------------------------------------------------------------------------------------------------


def test_a_simulation_says_what_it_hides(said: list[str]) -> None:
    run(Scalar(), None)
    assert not said
    run(Scalar(), SecureAggregation(clip=10.0))
    run(Scalar(), SecureAggregation(clip=10.0, protocol=True))
    assert said == [
        "SecureAggregation: sums are computed as the protocol would; no keys are exchanged, and this process sees "
        "every update",
        "SecureAggregation: keys and masks are exchanged; as in any simulation, this process sees every update",
    ]


def test_what_workers_remember_is_warned_of() -> None:
    said = r"in a simulation checkpoints hold what each worker remembers \(control\), which no sum hides"
    with pytest.warns(UserWarning, match=said):
        run(Scalar(), SecureAggregation(clip={"delta": 9.0, "control": 9.0}), algorithm=Scaffold())


def test_hyperparameters_and_the_record_say_that_there_are_no_keys(tmp_path: Path) -> None:
    _, logger = run(Scalar(), SecureAggregation(clip=10.0))
    assert logger.hyperparameters["secure_aggregation/protocol"] is False
    assert logger.hyperparameters["secure_aggregation/clip"] == 10.0
    csv = pl.loggers.CSVLogger(tmp_path)
    fed = FederatedModule(Scalar(), secure_aggregation=SecureAggregation(clip=10.0), aggregator=UniformMean())
    workers = {f"p{i}": Rows([float(i)]) for i in range(3)}
    trainer(max_steps=1, logger=csv).fit(fed, FederatedDataModule(workers))
    recorded = json.loads((Path(csv.log_dir) / "run.json").read_text())
    assert recorded["settings"]["secure_aggregation/protocol"] is False
    assert "secure_aggregation/protocol: false" in (Path(csv.log_dir) / "hparams.yaml").read_text()


def test_the_module_in_words() -> None:
    fed = FederatedModule(Scalar(), secure_aggregation=SecureAggregation(clip=3.0), aggregator=UniformMean())
    assert "privacy=None, secure_aggregation=SecureAggregation(clip=3.0, " in repr(fed)
    assert "secure" not in repr(FederatedModule(Scalar()))


# ---- curves and reports ----------------------------------------------------------------------------------------------


def test_curves_are_about_cohorts() -> None:
    """A clip of 2 shortens the updates of two of four in the first round, p2's 2.5 and p3's 3.5."""
    _, logger = run(Scalar(), SecureAggregation(clip=2.0))
    assert [row["secure/clipped"] for row in logger.rows if "secure/clipped" in row] == [0.5, 0.0]
    assert logger.all["secure/metrics_out_of_range"] == 0
    assert logger.all["round/examples"] == 8
    single = ("worker/", "workers/", "update/p10", "update/p90", "update/alignment")
    assert not [name for name in logger.all if name.startswith(single)]
    _, plain = run(Scalar(), None)
    assert {name.partition("/")[0] for name in plain.all} >= {"worker", "workers"}, "which are there otherwise"
    assert not [name for name in plain.all if name.startswith("secure")]


def test_a_report_says_whose_values_it_has() -> None:
    logger_less = FederatedModule(Scalar(), secure_aggregation=SecureAggregation(clip=2.0), aggregator=UniformMean())
    workers = {f"p{i}": Rows([float(i), i + 1.0]) for i in range(4)}
    trainer(max_steps=1).fit(logger_less, FederatedDataModule(workers))
    report = logger_less.last_report
    assert not report.workers
    said = "values are the cohort's, and those of single workers were not to be seen; 50% of the updates were longer"
    assert said in repr(report)
    assert said.replace("'", "&#x27;") in report._repr_html_()


def test_what_is_no_mean_is_left_out_and_said_once(said: list[str]) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fed, logger = run(Talkative(), SecureAggregation(clip=10.0))
    warned = sorted(str(each.message) for each in caught if "SecureAggregation" in str(each.message))
    assert len(warned) == 3, "once each in two rounds"
    assert "4 losses or metrics of a cohort are not in its means" in warned[0]
    assert "logged as 'largest' does not leave the workers: with reduce_fx='max' it is no mean" in warned[1]
    assert "logged as 'number' does not leave the workers: with reduce_fx='sum' it is no mean" in warned[2]
    assert sum("the states of self.seen, which is logged as 'object', do not leave the" in line for line in said) == 1
    assert not logger.all.keys() & {"number", "largest"}
    assert fed.last_report.means()["average"] == pytest.approx(2.0, abs=1e-6)
    assert fed.last_report.means()["object"] == pytest.approx(2.0, abs=1e-6), "of four workers with two values each"
    assert fed.module.seen.update_count == 0
    assert logger.all["secure/metrics_out_of_range"] == 4


# ---- what a round has to say -----------------------------------------------------------------------------------------


def cohort(within: float = 1.0, left_out: int = 0, examples: float = 4.0) -> CohortNumbers:
    return CohortNumbers(examples=examples, weight=2.0, loss=1.0, within=within, left_out=left_out)


def test_a_bound_that_bites_is_warned_of_once() -> None:
    remarks = SecureRemarks()
    remarks.note(RoundReport(cohorts=[cohort(0.5)]))
    with pytest.warns(UserWarning, match="75% of a cohort's updates were longer than clip .* a larger clip"):
        remarks.note(RoundReport(cohorts=[cohort(0.25)]))
    remarks.note(RoundReport(cohorts=[cohort(0.0)]))
    SecureRemarks(promised=True).note(RoundReport(cohorts=[cohort(0.0)]))


def test_learning_rates_are_those_of_the_last_cohort_with_a_sum() -> None:
    summed = cohort()._replace(rates={"lr": 0.1})
    assert RoundReport(cohorts=[summed, cohort(examples=0.0)]).rates == {"lr": 0.1}
    assert RoundReport(cohorts=[summed._replace(rates={"lr": 0.2}), summed]).rates == {"lr": 0.1}
    assert RoundReport(cohorts=[cohort(examples=0.0)]).rates == {}


def test_scalars_of_several_cohorts() -> None:
    """Those of a round without a sum do not count."""
    assert secure_scalars([cohort(1.0, 2), cohort(0.5, 3), cohort(0.0, 9, examples=0.0)]) == {
        "secure/clipped": 0.25,
        "secure/metrics_out_of_range": 5,
        "secure/bytes_up": 0,
    }
    assert secure_scalars([cohort(examples=0.0)]) == secure_scalars([]) == {}


def test_a_bound_that_bites_is_said_in_a_run() -> None:
    with pytest.warns(UserWarning, match="100% of a cohort's updates were longer than clip"):
        fed, _ = run(Scalar(), SecureAggregation(clip=0.1))
    assert torch.allclose(fed.module.x, torch.tensor(0.2), atol=1e-6), "two steps of 0.1"
