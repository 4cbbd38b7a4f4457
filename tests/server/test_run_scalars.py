"""Curves about a run beside those of single rounds: totals, coverage, learning rates, time, the rest of a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from private import job
from pytorch_lightning.loggers.logger import DummyLogger

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin
from lightning_fed.privacy import CentralDP
from lightning_fed.selection import RandomAvailability
from lightning_fed.server.run_scalars import server_rate
from lightning_fed.server.traffic import Traffic, planned
from lightning_fed.wire.codec import job_bytes


class Everything(DummyLogger):
    """Keeps all curves."""

    def __init__(self) -> None:
        super().__init__()
        self.curves: dict[str, dict[int, float]] = {}

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        for name, value in metrics.items():
            self.curves.setdefault(name, {})[step or 0] = float(value)


TOTALS = ("comm/megabytes_down_total", "comm/megabytes_up_total")


def data(workers: int = 5, size: int | None = 2, **options: Any) -> FederatedDataModule:
    rows = {f"w{i}": Rows([float(i)]) for i in range(workers)}
    return FederatedDataModule(rows, cohort_size=size, sampler=RoundRobin(), rounds_per_epoch=6, **options)


def curves(fed: FederatedModule, data: FederatedDataModule, **options: Any) -> dict[str, dict[int, float]]:
    logger = Everything()
    fit(fed, data, logger=logger, **options)
    return logger.curves


def test_coverage_grows_to_everyone() -> None:
    """Five workers, two at a time, in turn."""
    drawn = curves(FederatedModule(Scalar()), data(), max_steps=4)
    assert drawn["round/coverage"] == pytest.approx({0: 0.4, 1: 0.8, 2: 1.0, 3: 1.0})


def test_a_worker_that_was_away_has_not_taken_part() -> None:
    drawn = curves(FederatedModule(Scalar()), data(availability=RandomAvailability(absent=0.99)), max_steps=3)
    assert set(drawn["round/coverage"].values()) == {0.0}


def test_totals_are_sums_of_all_rounds_also_of_those_that_are_not_drawn() -> None:
    all_of_them = curves(FederatedModule(Scalar()), data(), max_steps=6)
    some = curves(FederatedModule(Scalar()), data(), max_steps=6, log_every_n_steps=3)
    for total, each in zip(TOTALS, ("comm/bytes_down", "comm/bytes_up"), strict=True):
        assert some[total].keys() == {2, 5}
        for step, value in some[total].items():
            assert value == pytest.approx(sum(all_of_them[each][s] for s in range(step + 1)) / 1e6)
    assert some["round/coverage"] == pytest.approx({2: 1.0, 5: 1.0})


def test_gradients_accumulated_over_cohorts_count_each_of_them() -> None:
    drawn = curves(FederatedModule(Scalar()), data(), max_steps=1, accumulate_grad_batches=3)
    (coverage,), (total,) = drawn["round/coverage"].values(), drawn[TOTALS[0]].values()
    assert (coverage, total) == pytest.approx((1.0, drawn["comm/bytes_down"][0] / 1e6))


def test_a_resumed_run_goes_on_with_totals_and_coverage(tmp_path: Path) -> None:
    whole = curves(FederatedModule(Scalar()), data(), max_steps=4)
    fit(FederatedModule(Scalar()), data(), max_steps=2).save_checkpoint(tmp_path / "two.ckpt")
    logger, fed = Everything(), FederatedModule(Scalar())
    trainer(max_steps=4, logger=logger).fit(fed, data(), ckpt_path=str(tmp_path / "two.ckpt"))
    for name in (*TOTALS, "round/coverage"):
        assert logger.curves[name] == pytest.approx({step: whole[name][step] for step in (2, 3)})


def test_a_second_fit_begins_anew() -> None:
    fed, logger = FederatedModule(Scalar()), Everything()
    first = curves(fed, data(), max_steps=3)
    fit(fed, data(), max_steps=1, logger=logger)
    assert logger.curves["round/coverage"] == {0: pytest.approx(0.4)}
    assert logger.curves[TOTALS[0]][0] == pytest.approx(first[TOTALS[0]][0])


def test_both_learning_rates_have_curves_of_their_own() -> None:
    def halved(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    fed = FederatedModule(
        Scalar(lr=0.1), server_optimizer=lambda p: torch.optim.Adam(p, lr=0.4), server_lr_scheduler=halved
    )
    drawn = curves(fed, data(), max_steps=3)
    assert drawn["server/lr"] == pytest.approx({0: 0.4, 1: 0.2, 2: 0.1})
    assert set(drawn["local/lr"].values()) == {0.1}


def test_an_optimizer_without_a_learning_rate_has_no_such_curve() -> None:
    class Bare:
        param_groups = ({"params": []},)

    assert server_rate([Bare()]) == {}


class Steps(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_mean", batch[0].mean())


def test_an_evaluation_draws_its_seconds() -> None:
    workers = {f"w{i}": EvaluatedRows([float(i)]) for i in range(2)}
    drawn = curves(FederatedModule(Steps()), FederatedDataModule(workers), max_epochs=2)
    assert drawn["time/evaluate"].keys() == {0, 1}
    assert min(drawn["time/evaluate"].values()) > 0


def test_a_promise_hides_all_that_is_about_workers() -> None:
    fed = FederatedModule(Scalar(), privacy=CentralDP(1.0, 1.0, insecure_deterministic_noise=True))
    with pytest.warns(UserWarning, match="NOT private"):
        drawn = curves(fed, FederatedDataModule({f"w{i}": Rows([1.0]) for i in range(5)}, cohort_size=2), max_steps=3)
    beside = {"epoch", "privacy/epsilon", "privacy/clip", "server/update_norm", "server/lr"}
    assert set(drawn) == beside | set(TOTALS)
    # Two workers of one float32 each, whoever has replied
    assert drawn[TOTALS[1]] == pytest.approx({step: (step + 1) * 2 * 4 / 1e6 for step in range(3)})


def test_a_budget_stands_beside_what_is_spent_and_how_many_rounds_are_left() -> None:
    fed = FederatedModule(
        Scalar(), privacy=CentralDP(1.0, epsilon=3.0, accountant="rdp", insecure_deterministic_noise=True)
    )
    with pytest.warns(UserWarning, match="NOT private"):
        drawn = curves(fed, FederatedDataModule({f"w{i}": Rows([1.0]) for i in range(5)}, cohort_size=2), max_steps=4)
    assert set(drawn["privacy/epsilon_budget"].values()) == {3.0}
    assert list(drawn["privacy/rounds_left"].values()) == [3.0, 2.0, 1.0, 0.0]  # calibrated for four


def test_planned_traffic_is_the_job_and_the_vectors_of_the_answer() -> None:
    to = job(5, extra=("control",))
    assert planned(to) == Traffic(job_bytes(to), 5 * 4 * 2)
