from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.algorithms import FedAvg, QFedAvg

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])


@engines
def test_one_round_by_hand(engine: Any) -> None:
    """Losses ½ and 4½, lr ½, so L = 2, and L (w - w_k) = -1 and -3; q = 1."""
    # Delta = (½·-1, 4½·-3), h = (1·1 + 2·½, 1·9 + 2·4½) = (2, 18)
    module = Scalar(lr=0.5)
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])})
    fit(FederatedModule(module, algorithm=QFedAvg(q=1.0, lr=0.5), engine=engine), data)
    assert module.x.item() == pytest.approx((0.5 + 13.5) / (2 + 18))


@engines
def test_numbers_of_examples_stand_in_both_sums(engine: Any) -> None:
    module = Scalar(lr=0.5)
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0] * 3)})
    fit(FederatedModule(module, algorithm=QFedAvg(q=1.0, lr=0.5), engine=engine), data)
    assert module.x.item() == pytest.approx((0.25 * 0.5 + 0.75 * 13.5) / (0.25 * 2 + 0.75 * 18))


@engines
def test_the_loss_is_that_of_the_global_model_on_all_data(engine: Any) -> None:
    """Over a whole pass, whatever the length of local training, and before it."""
    # Worker a has values 1 and 3: F = (½ + 4½)/2 = 2½. One step of one batch of a, of either value.
    module = Scalar(lr=0.5)
    workers = {"a": Rows([1.0, 3.0], batch_size=1)}
    federated = FederatedModule(module, algorithm=QFedAvg(q=2.0, lr=0.5), local_steps=1, engine=engine)
    fit(federated, FederatedDataModule(workers))
    # Step 1 goes to ½; L (w - w_k) = -1; Delta = -F²; h = 2 F + 2 F²
    f = 2.5
    assert module.x.item() == pytest.approx(f**2 / (2 * f + 2 * f**2))


@engines
def test_q_zero_is_fedavg(engine: Any) -> None:
    ends = []
    for algorithm in (FedAvg(), QFedAvg(q=0.0, lr=0.1)):
        module = Scalar(lr=0.1)
        workers = {"a": Rows([1.0, 5.0], batch_size=1), "b": Rows([-2.0] * 5, batch_size=2), "c": Rows([0.0])}
        fit(FederatedModule(module, algorithm=algorithm, engine=engine), FederatedDataModule(workers), max_steps=5)
        ends.append(module.x.item())
    assert_equal(ends[0], ends[1])


def test_the_larger_q_the_more_alike_are_the_losses() -> None:
    workers = {"many": Rows([0.0] * 9), "few": Rows([4.0])}
    spreads = []
    for q in (0.0, 0.5, 2.0, 10.0):
        module = Scalar(lr=0.5)
        fit(FederatedModule(module, algorithm=QFedAvg(q, lr=0.5)), FederatedDataModule(workers), max_steps=60)
        x = module.x.item()
        spreads.append(abs(x**2 / 2 - (x - 4) ** 2 / 2))
    assert spreads[0] == pytest.approx(abs(0.4**2 - 3.6**2) / 2, rel=1e-3)  # FedAvg goes to the mean of all examples
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < spreads[0] / 4


def test_the_fixed_point_is_that_of_its_objective() -> None:
    """Where ``Σ p_k F_k^q F_k' = 0``; with q = 1, 0.9 x³ = 0.1 (4 - x)³."""
    module = Scalar(lr=0.5)
    data = FederatedDataModule({"many": Rows([0.0] * 9), "few": Rows([4.0])})
    fit(FederatedModule(module, algorithm=QFedAvg(1.0, lr=0.5)), data, max_steps=100)
    ratio = 9 ** (1 / 3)
    assert module.x.item() == pytest.approx(4 / (1 + ratio), rel=1e-4)


def test_a_loss_of_zero_is_no_division_by_zero() -> None:
    module = Scalar(lr=0.5)
    data = FederatedDataModule({"there": Rows([0.0]), "far": Rows([1.0])})
    fit(FederatedModule(module, algorithm=QFedAvg(q=0.1, lr=0.5)), data)
    assert 0 < module.x.item() < 1


class Negative(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) - 10 * (batch[0] > 5).float().mean()


def test_a_negative_loss_is_refused_by_name() -> None:
    data = FederatedDataModule({"good": Rows([1.0]), "bad": Rows([6.0, 6.0])})
    with pytest.raises(WorkerError, match="worker 'bad' failed in round 0: its loss is -8, but q-FedAvg needs one"):
        fit(FederatedModule(Negative(lr=0.5, x=4.0), algorithm=QFedAvg(1.0, lr=0.5)), data)


def test_a_worker_that_fails_is_reported_once() -> None:
    data = FederatedDataModule({"good": Rows([1.0]), "bad": Rows([float("nan")])})
    federated = FederatedModule(Scalar(lr=0.5), algorithm=QFedAvg(1.0, lr=0.5), on_worker_error="drop")
    fit(federated, data)
    assert [failure.worker for failure in federated.last_report.failures] == ["bad"]


def test_measuring_leaves_no_trace() -> None:
    """Neither in the model, nor in its buffers, nor in what is reported."""

    class Counting(Scalar):
        def __init__(self) -> None:
            super().__init__(lr=0.5)
            self.register_buffer("batches", torch.tensor(0))

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches += 1
            self.log("batches", self.batches.float(), reduce_fx="max")
            return super().training_step(batch, batch_idx)

    module = Counting()
    federated = FederatedModule(module, algorithm=QFedAvg(1.0, lr=0.5))
    fit(federated, FederatedDataModule({"a": Rows([1.0] * 3, batch_size=1)}))
    assert module.batches.item() == 3
    assert federated.last_report.workers["a"].metrics["batches"] == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [({"q": -1.0, "lr": 0.1}, "q=-1.0 must be at least 0"), ({"q": 1.0, "lr": 0.0}, "lr=0.0 must be the workers'")],
)
def test_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QFedAvg(**options)
