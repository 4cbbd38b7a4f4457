"""Whole fits under secure aggregation: equal to those without to the rounding error, with whoever is away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import TRUSTED, Rows, Scalar, fit, trainer
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule, RoundRobin
from lightning_fed._lightning import pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import (
    Algorithm,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    FedPer,
    FedProx,
    FedRep,
    LGFedAvg,
    Scaffold,
)
from lightning_fed.secure import SecureAggregation
from lightning_fed.selection import Availability, Response
from lightning_fed.transforms import ClipNorm
from lightning_fed.wire import RoundError, WorkerError

REMEMBERED = pytest.mark.filterwarnings("ignore:SecureAggregation. in a simulation checkpoints hold")
CLIP = 100.0
EXACT = 2e-6
"""Five workers with 32 bits have a step of 100 / 4.3e8 = 2.3e-7. Rounding moves a mean by less than that for each unit
of the sum of weights, which is at least 4 of 5 here, in each of four rounds: by 1.2e-6."""


class Net(pl.LightningModule):
    """In double, so that the rounding of the ring is the only one to be seen."""

    def __init__(self, normalised: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3) if normalised else nn.Tanh())
        self.head = nn.Linear(3, 1)
        self.phase = nn.Parameter(torch.tensor([1 + 1j, 0.5 - 1j]))
        self.double()
        self.phase.data = self.phase.data.to(torch.complex128)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch
        column = values.double().view(-1, 1)
        turn = (self.phase * column.mean()).abs().square().sum()
        return ((self.head(self.body(column)) - 2 * column) ** 2).mean() + 0.1 * turn

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def data(workers: int = 5, **options: Any) -> FederatedDataModule:
    """Workers with two and three values in turn."""
    values = ([0.2 * i, 0.2 * i + 0.4, 0.1][: 2 + i % 2] for i in range(workers))
    return FederatedDataModule({f"p{i}": Rows(own) for i, own in enumerate(values)}, **options)


def trained(secure: SecureAggregation | None, normalised: bool = False, rounds: int = 4, **options: Any) -> Any:
    """Run a fit, and return its FederatedModule."""
    torch.manual_seed(0)
    given = options.pop("data", None) or data()
    options = {"engine": "sequential"} | options
    fed = FederatedModule(Net(normalised), secure_aggregation=secure, **options)
    fit(fed, given, max_steps=rounds)
    return fed


def assert_alike(one: FederatedModule, other: FederatedModule) -> None:
    states: tuple[Mapping[str, Tensor], ...] = one.module.state_dict(), other.module.state_dict()
    for name, tensor in states[0].items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(states[1][name], tensor, rtol=0.0, atol=EXACT, msg=lambda m, n=name: f"{n}: {m}")


# ---- every algorithm -------------------------------------------------------------------------------------------------


@REMEMBERED
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize(
    ("algorithm", "normalised", "settings"),
    [
        (FedAvg(), False, {"weight_cap": 3}),
        (FedAvg(), True, {"weight_cap": 3, "buffer_clip": CLIP}),
        (FedProx(0.1), False, {"weight_cap": 3}),
        (FedDyn(0.1), False, {}),
        (Scaffold(), False, {"clip": {"delta": CLIP, "control": CLIP}}),
        (Ditto(0.1), True, {"weight_cap": 3, "buffer_clip": CLIP}),
        (FedPer(["head.*"]), False, {"weight_cap": 3}),
        (FedRep(["head.*"]), False, {"weight_cap": 3}),
        (LGFedAvg(["body.*"]), False, {"weight_cap": 3}),
        (FedBN(), True, {"weight_cap": 3}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Algorithm) else None,
)
def test_every_algorithm_of_means(
    algorithm: Algorithm, normalised: bool, settings: dict[str, Any], engine: str
) -> None:
    secure = SecureAggregation(**{"clip": CLIP, **settings})
    with_sums = trained(secure, normalised, algorithm=algorithm, engine=engine)
    without = trained(None, normalised, algorithm=algorithm, engine=engine)
    assert_alike(with_sums, without)
    if algorithm.tables:  # what stays with the workers, too
        for worker in ("p0", "p4"):
            one, other = with_sums.personal_module(worker), without.personal_module(worker)
            assert all(
                torch.allclose(a.to(b.dtype), b, atol=EXACT)
                for a, b in zip(one.parameters(), other.parameters(), strict=True)
            )
    if not algorithm.aggregator().counts_equally:
        assert with_sums.last_report.loss == pytest.approx(without.last_report.loss, abs=EXACT)
    assert with_sums.last_report.examples == without.last_report.examples == 12


def test_transforms_come_before_the_sum() -> None:
    options: dict[str, Any] = {"aggregator": UniformMean(), "transforms": [ClipNorm(0.05)]}
    assert_alike(trained(SecureAggregation(clip=CLIP), **options), trained(None, **options))


def test_cohorts_whose_gradients_are_accumulated() -> None:
    def accumulated(secure: SecureAggregation | None) -> FederatedModule:
        torch.manual_seed(0)
        fed = FederatedModule(Net(), aggregator=UniformMean(), engine="sequential", secure_aggregation=secure)
        fit(fed, data(cohort_size=2, sampler=RoundRobin()), max_steps=3, accumulate_grad_batches=2)
        return fed

    fed = accumulated(SecureAggregation(clip=CLIP))
    assert_alike(fed, accumulated(None))
    assert len(fed.last_report) == 2


@REMEMBERED
@pytest.mark.parametrize("algorithm", [FedAvg(), Scaffold()], ids=lambda algorithm: type(algorithm).__name__)
def test_a_run_that_is_resumed_is_the_same_to_the_bit(algorithm: Algorithm, tmp_path: Any) -> None:
    def run(steps: int, path: str | None = None) -> tuple[FederatedModule, pl.Trainer]:
        torch.manual_seed(0)
        secure = SecureAggregation(clip={"delta": CLIP, "control": CLIP} if algorithm.extra else CLIP)
        fed = FederatedModule(
            Net(), algorithm, aggregator=UniformMean(), engine="sequential", secure_aggregation=secure
        )
        own = trainer(max_steps=steps, default_root_dir=tmp_path)
        own.fit(fed, data(cohort_size=3), ckpt_path=path, **(TRUSTED if path else {}))
        return fed, own

    whole, _ = run(4)
    _, half = run(2)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(4, str(tmp_path / "half.ckpt"))
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], tensor), name
    with pytest.warns(UserWarning, match="secure_aggregation was 'SecureAggregation' and is None"):
        trainer(max_steps=3, default_root_dir=tmp_path).fit(
            FederatedModule(Net(), algorithm, aggregator=UniformMean(), engine="sequential"),
            data(cohort_size=3),
            ckpt_path=tmp_path / "half.ckpt",
            **TRUSTED,
        )


# ---- workers that are away, and that fail ----------------------------------------------------------------------------


class Away(Availability):
    """Some workers are away, the same ones in each round.

    Args:
        outcome: ``"absent"`` or ``"lost"``.
        workers: Their names.
    """

    def __init__(self, outcome: Any, *workers: str) -> None:
        self._outcome = outcome
        self._workers = workers

    def respond(self, worker: str, round: int, seed: int) -> Response:
        return Response(self._outcome) if worker in self._workers else Response("replies")


@pytest.mark.parametrize("protocol", [False, True])
@pytest.mark.parametrize("outcome", ["absent", "lost"])
def test_workers_that_are_away_within_the_threshold(outcome: str, protocol: bool) -> None:
    """A threshold of 0.6 lets two of five go; the sum is that of the other three."""
    options: dict[str, Any] = {"aggregator": UniformMean(), "data": data(availability=Away(outcome, "p1", "p3"))}
    secure = SecureAggregation(clip=CLIP, threshold=0.6, protocol=protocol)
    found = trained(secure, **options)
    assert_alike(found, trained(None, **options))
    report = found.last_report
    assert (len(report), report.dropped, report.examples) == (3, ("p1", "p3"), 6)
    assert report.loss == pytest.approx(trained(None, **options).last_report.loss, abs=EXACT)


@pytest.mark.parametrize("protocol", [False, True])
@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        ("absent", "2 workers take part, and from 3 to 5 were agreed on; it changes nothing"),
        ("lost", "the sum would be of 2 workers, and at least 3 were agreed on; it changes nothing"),
    ],
)
def test_a_round_beyond_the_threshold_changes_nothing_and_says_so(
    outcome: str, said: str, protocol: bool, caplog: pytest.LogCaptureFixture
) -> None:
    before = trained(None, rounds=0)
    secure = SecureAggregation(clip=CLIP, threshold=0.6, protocol=protocol)
    with caplog.at_level(logging.WARNING):
        found = trained(
            secure,
            rounds=2,
            aggregator=UniformMean(),
            server_optimizer=lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
            data=data(availability=Away(outcome, "p1", "p2", "p3")),
        )
    for name, tensor in before.module.state_dict().items():
        assert torch.equal(found.module.state_dict()[name], tensor), name
    assert [record.message for record in caplog.records] == [f"round {r}: {said}" for r in (0, 1)]
    report = found.last_report
    assert (report.examples, report.workers, report.means()) == (0.0, {}, {})
    assert report.loss != report.loss, "nobody has told one"
    assert "loss" not in found.history[-1]


class Failing(Scalar):
    """Fails on data above a bound, and says what it has seen."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if bool((batch[0] > self.bound).any()):
            raise RuntimeError("too large")
        return super().training_step(batch, batch_idx)


def failing(bound: float, drops: Any = "drop", **options: Any) -> FederatedModule:
    """The workers' largest values are 0.4, 0.6, 0.8, 1.0, 1.2."""
    secure = SecureAggregation(clip=CLIP, threshold=0.6)
    fed = FederatedModule(
        Failing(bound),
        aggregator=UniformMean(),
        engine="sequential",
        on_worker_error=drops,
        secure_aggregation=secure,
        **options,
    )
    fit(fed, data(), max_steps=1)
    return fed


def test_workers_that_fail_within_the_threshold_are_left_out() -> None:
    fed = failing(0.9)
    assert fed.module.x.item() == pytest.approx((0.2 + 0.3 + 0.6) / 3, abs=1e-6), "the mean of three means"
    assert [failure.worker for failure in fed.last_report.failures] == ["p3", "p4"]


def test_workers_that_fail_beyond_it() -> None:
    fed = failing(0.7)
    assert fed.module.x.item() == 0.0
    assert fed.last_report.examples == 0
    with pytest.raises(WorkerError, match="worker 'p2' failed in round 0: RuntimeError: too large"):
        failing(0.7, "raise")
    with pytest.raises(RoundError, match="2 workers are left, but min_workers=3"):
        failing(0.7, min_workers=3)
