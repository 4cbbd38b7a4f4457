from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import FedAvg, QFedAvg
from lightning_fed.selection import CohortSampler, Uniform, WeightedBySize

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
@pytest.mark.parametrize(("weighted", "end"), [(False, 13.5 / 22), (True, 40 / 60)])
def test_three_workers_by_hand(engine: Any, weighted: bool, end: float) -> None:
    """Losses ½, 4½ and ½, sizes 1, 3 and 2; lr ½, so L = 2, and L (w - w_k) = -1, -3 and 1; q = 1."""
    # Delta = (-½, -13½, ½), h = (1 + 1, 9 + 9, 1 + 1); with p_k: -½ - 3·13½ + 2·½ = -40 and 2 + 3·18 + 2·2 = 60
    module = Scalar(lr=0.5)
    data = FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0] * 3), "c": Rows([-1.0] * 2)})
    fit(FederatedModule(module, algorithm=QFedAvg(q=1.0, lr=0.5, weighted=weighted), engine=engine), data)
    assert module.x.item() == pytest.approx(end, rel=1e-12)


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


@engines
def test_q_zero_with_plain_sums_is_the_uniform_mean(engine: Any) -> None:
    ends = []
    for options in (
        {"algorithm": FedAvg(), "aggregator": UniformMean()},
        {"algorithm": QFedAvg(q=0.0, lr=0.1, weighted=False)},
        {"algorithm": QFedAvg(q=0.0, lr=0.1)},
    ):
        module = Scalar(lr=0.1)
        workers = {"a": Rows([1.0, 5.0], batch_size=1), "b": Rows([-2.0] * 5, batch_size=2), "c": Rows([0.0])}
        fit(FederatedModule(module, engine=engine, **options), FederatedDataModule(workers), max_steps=5)
        ends.append(module.x.item())
    assert_equal(ends[0], ends[1])
    assert abs(ends[2] - ends[1]) > 0.1


class Plane(Scalar):
    """A point (x, y) that moves towards the mean of the data, so that a norm is one over several parameters."""

    def __init__(self, lr: float) -> None:
        super().__init__(lr)
        self.y = torch.nn.Parameter(torch.tensor(0.0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (points,) = batch
        return ((self.x - points[:, 0]) ** 2 + (self.y - points[:, 1]) ** 2).mean() / 2


POINTS = {
    "a": [[1.0, 0.0]],
    "b": [[3.0, 1.0], [2.0, -1.0], [4.0, 0.5]],
    "c": [[-1.0, 2.0]] * 2,
    "d": [[0.5, -3.0], [1.5, -2.0]],
    "e": [[5.0, 5.0]] * 6,
}


def authors(sampler: CohortSampler, q: float, lr: float, epochs: int, rounds: int) -> list[float]:
    """The rule of the authors' ``qffedavg.py`` and ``aggregate2`` in a plain loop; cohorts of two."""
    at, data = np.zeros(2), [np.array(points) for points in POINTS.values()]
    sampler.prepare(lambda: [len(points) for points in data])
    for number in range(rounds):
        deltas, hs = [], []
        for worker in sampler.sample(len(data), 2, number, seed=0):
            loss = ((at - data[worker]) ** 2).sum(axis=1).mean() / 2 + 1e-10
            new = at.copy()
            for _ in range(epochs):
                new -= lr * (new - data[worker].mean(axis=0))
            gradient = (at - new) / lr
            deltas.append(loss**q * gradient)
            hs.append(q * loss ** (q - 1) * (gradient**2).sum() + loss**q / lr)
        at = at - sum(deltas) / sum(hs)
    return [float(each) for each in at]


@engines
@pytest.mark.parametrize("sampler", [Uniform, WeightedBySize], ids=lambda kind: kind.__name__)
def test_plain_sums_are_the_authors_loop(sampler: Any, engine: Any) -> None:
    """With workers drawn by size the paper's algorithm 2; with uniform cohorts that of their code."""
    module = Plane(lr=0.2)
    algorithm = QFedAvg(q=1.5, lr=0.2, weighted=False)
    workers = {name: Rows(torch.tensor(points)) for name, points in POINTS.items()}
    data = FederatedDataModule(workers, cohort_size=2, sampler=sampler(), seed=0)
    fit(FederatedModule(module, algorithm=algorithm, local_epochs=3, engine=engine), data, max_steps=6)
    assert_equal([module.x.item(), module.y.item()], authors(sampler(), q=1.5, lr=0.2, epochs=3, rounds=6))


def test_whether_numbers_of_examples_count_is_said() -> None:
    assert QFedAvg(q=1.0, lr=0.1).counts_examples
    assert not QFedAvg(q=1.0, lr=0.1, weighted=False).counts_examples
    assert repr(QFedAvg(q=1.0, lr=0.1, weighted=False)) == "QFedAvg(q=1.0, lr=0.1, weighted=False)"


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


def test_with_plain_sums_all_workers_count_alike_in_its_objective() -> None:
    """Where ``Σ F_k^q F_k' = 0``, whatever the sizes: halfway between two workers."""
    module = Scalar(lr=0.5)
    data = FederatedDataModule({"many": Rows([0.0] * 9), "few": Rows([4.0])})
    fit(FederatedModule(module, algorithm=QFedAvg(1.0, lr=0.5, weighted=False)), data, max_steps=100)
    assert module.x.item() == pytest.approx(2.0, rel=1e-4)


def test_a_loss_of_zero_is_no_division_by_zero() -> None:
    module = Scalar(lr=0.5)
    data = FederatedDataModule({"there": Rows([0.0]), "far": Rows([1.0])})
    fit(FederatedModule(module, algorithm=QFedAvg(q=0.1, lr=0.5)), data)
    assert 0 < module.x.item() < 1


class Skipping(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if (batch[0] > 50).any() else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("weighted", [True, False])
def test_a_worker_that_has_learned_nothing_does_not_count(weighted: bool) -> None:
    """Its one local step is skipped, and its loss over all its data is not."""
    ends = []
    for others in ({}, {"idle": Rows([99.0, 2.0], batch_size=1)}):
        module = Skipping(lr=0.5)
        algorithm = QFedAvg(q=1.0, lr=0.5, weighted=weighted)
        federated = FederatedModule(module, algorithm=algorithm, local_steps=1, engine="sequential")
        fit(federated, FederatedDataModule({"busy": Rows([1.0]), **others}))
        ends.append(module.x.item())
    assert ends == [0.5 / 2] * 2  # Delta = -½, h = 1·1 + 2·½


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
