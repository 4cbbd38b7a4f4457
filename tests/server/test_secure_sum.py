"""Secure aggregation in a round: the same sums with keys and without, whoever is away."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import UniformMean
from lightning_fed.core.processes import Processes
from lightning_fed.engines.sequential import Sequential
from lightning_fed.secure import AbortError, SecureAggregation
from lightning_fed.selection import Availability, Response
from lightning_fed.server.secure_sum import SecureSum
from lightning_fed.server.session_choice import sessions
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates
from lightning_fed.worker.sealing import Sealing

N = 8


class Logs(Scalar):
    """Logs a metric."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(batch, batch_idx)
        self.log("seen", batch[0].mean())
        return loss


class SomeLog(Scalar):
    """Logs a metric at some of its workers only."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if float(batch[0].mean()) > 2:
            self.log("large", batch[0].mean())
        return super().training_step(batch, batch_idx)  # type: ignore[no-any-return]


class Away(Availability):
    """Some workers are absent in each cohort, and some are lost."""

    def __init__(self, absent: int = 0, lost: int = 0) -> None:
        self.absent = absent
        self.lost = lost

    def respond(self, worker: str, number: int, seed: int) -> Response:
        place = (int(worker[1:]) + number) % N
        outcome = "absent" if place < self.absent else "lost" if place < self.absent + self.lost else "replies"
        return Response(outcome)


def run(secure: SecureAggregation | None, rounds: int = 4, availability: Availability | None = None, **options: Any):  # type: ignore[no-untyped-def]
    module = options.pop("module", None) or Logs()
    fed = FederatedModule(module, secure_aggregation=secure, **{"aggregator": UniformMean(), **options})
    data = {f"w{i}": Rows([float(i), i + 1.0]) for i in range(N)}
    t = trainer(max_steps=rounds, max_epochs=-1)
    t.fit(fed, FederatedDataModule(data, availability=availability))
    return module.state_dict(), {name: float(value) for name, value in t.callback_metrics.items()}, fed


def same(one: Any, other: Any) -> None:
    assert one[0].keys() == other[0].keys()
    for name, tensor in one[0].items():
        assert torch.equal(tensor, other[0][name]), name
    assert one[1] == pytest.approx(other[1], rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize(
    ("engine", "away"),
    [
        *((engine, away) for engine in ("sequential", "vectorized") for away in (Away(), Away(1, 1), Away(lost=3))),
        pytest.param("isolated", Away(1, 1), marks=pytest.mark.slow, id="isolated-1 absent, 1 lost"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.absent} absent, {value.lost} lost",
)
def test_keys_and_masks_change_no_bit(engine: str, away: Away) -> None:
    secure = {"clip": 50.0, "threshold": 0.7, "least": 3}
    plain = run(SecureAggregation(**secure), availability=away, engine=engine)
    keyed = run(SecureAggregation(**secure, protocol=True), availability=away, engine=engine)
    same(plain, keyed)
    for which in ("bytes_down", "bytes_up"):
        assert getattr(plain[2].last_report, which) == getattr(keyed[2].last_report, which), which
    moved = not torch.equal(plain[0]["x"], Logs().x)
    assert moved is (away.lost < 3), "with three of eight lost, five shares are fewer than six"


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_a_graph_of_neighbours_changes_no_sum(engine: str) -> None:
    away = Away(lost=1)
    options: dict[str, Any] = {"availability": away, "engine": engine}
    graph = {"clip": 50.0, "threshold": 0.51, "least": 3, "neighbours": 4}
    whole = run(SecureAggregation(clip=50.0, threshold=0.51, least=3), **options)
    same(whole, run(SecureAggregation(**graph), **options))
    same(whole, run(SecureAggregation(**graph, protocol=True), **options))


def test_the_mean_is_that_of_those_who_stay() -> None:
    """By hand: each worker goes to its mean, 0.5, 1.5, ... or 7.5; without the first two the mean of these is 5."""
    module, _, fed = run(SecureAggregation(clip=50.0, protocol=True), rounds=1, availability=Away(absent=1, lost=1))
    assert module["x"].item() == pytest.approx(5.0, abs=1e-6)
    assert fed.last_report is not None
    assert len(fed.last_report) == 6


def test_metrics_are_those_of_the_workers_that_log_them() -> None:
    secure = SecureAggregation(clip=50.0, protocol=True)
    _, metrics, _ = run(secure, rounds=1, module=SomeLog(), engine="sequential")
    assert metrics["large"] == pytest.approx((2.5 + 3.5 + 4.5 + 5.5 + 6.5 + 7.5) / 6, abs=1e-6)
    assert set(metrics) == {"large", "loss"}, "and nothing of single workers"


def test_a_round_that_is_given_up_says_why_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lightning_fed"):
        module, metrics, _ = run(SecureAggregation(clip=50.0, protocol=True), rounds=1, availability=Away(lost=3))
    assert torch.equal(module["x"], Logs().x)
    assert not any(name.startswith("workers/") for name in metrics)
    assert "round 0: the sum would be of 5 workers, and at least 6 were agreed on; it changes nothing" in caplog.text


def test_a_worker_that_fails_is_as_one_that_was_away() -> None:
    class Fails(Logs):
        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if float(batch[0][0]) in (3.0, 4.0):
                raise RuntimeError("no such data")
            return super().training_step(batch, batch_idx)

    def fit(protocol: bool) -> torch.Tensor:
        module = Fails()
        secure = SecureAggregation(clip=50.0, least=3, protocol=protocol)
        fed = FederatedModule(module, secure_aggregation=secure, aggregator=UniformMean(), on_worker_error="drop")
        data = {f"w{i}": Rows([float(i)]) for i in range(N)}
        trainer(max_steps=2, max_epochs=-1).fit(fed, FederatedDataModule(data))
        return module.x.detach()

    assert fit(False).item() == fit(True).item()
    assert fit(True).item() == pytest.approx((0 + 1 + 2 + 5 + 6 + 7) / 6, abs=1e-6)


def test_the_bytes_of_a_round_by_hand() -> None:
    """Of the protocol alone: what is left of the updates, with names of metrics, crosses as ever."""
    numbers = run(SecureAggregation(clip=50.0), rounds=1, availability=Away(lost=2))[2].last_report.cohorts[0]
    n, k, scalars = 8, 7, 12
    roster = 8 + 4 + sum(2 + len(name) for name in SCALARS) + 4 + n * (2 + 2 + 64)
    assert len(SCALARS) == scalars
    assert numbers.bytes_down == n * (89 + roster) + n * (1 + 82 * k) + 6 * 1
    assert numbers.bytes_up == n * 64 + n * (32 + 82 * k) + 6 * (8 * scalars + 4) + 6 * 38 * (k + 1)
    assert numbers.protocol_bytes_up == numbers.bytes_up - 6 * 4


SCALARS = (
    *("workers", "within", "weight", "examples", "steps", "left out", "loss", "weight of loss"),
    *("metric/seen", "weight of metric/seen", "rate/lr-SGD", "weight of rate/lr-SGD"),
)


def test_no_worker_is_no_sum() -> None:
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(())}), LocalTraining())
    for protocol in (False, True):
        sealing = Sealing(SecureAggregation(clip=1.0, protocol=protocol), cohort=3)
        summing = SecureSum(UniformMean(), sealing, sessions(sealing, Sequential()))
        with pytest.raises(AbortError, match="0 workers take part, and from 3 to 3 were agreed on"):
            summing.finish(summing.fold(list[Updates](), job), Processes())
