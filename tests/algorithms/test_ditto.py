from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from toy import Turns

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Ditto, FedAvg
from lightning_fed.testing import Points, trained
from lightning_fed.testing.workload import layered, memory
from lightning_fed.wire import RoundError

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])


def personal(federated: FederatedModule, worker: str) -> float:
    return float(federated.own_state["personal"][worker])


@engines
def test_two_rounds_by_hand(engine: Any) -> None:
    """Optima 1 and -1, two steps of lr 0.1, lam = 1; the global model stays at 0 in between."""
    # v: 0 -> 0.1 -> 0.1 - 0.1 (-0.9 + 0.1) = 0.18; round 2: 0.18 - 0.1 (-0.82 + 0.18) = 0.244
    # -> 0.244 - 0.1 (-0.756 + 0.244) = 0.2952
    for rounds, expected in ((1, 0.18), (2, 0.2952)):
        module = Scalar(lr=0.1)
        federated = FederatedModule(module, algorithm=Ditto(lam=1.0), local_steps=2, engine=engine)
        fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([-1.0])}), max_steps=rounds)
        assert module.x.item() == pytest.approx(0.0, abs=1e-7)
        assert personal(federated, "a") == pytest.approx(expected)
        assert personal(federated, "b") == pytest.approx(-expected)


@engines
def test_it_is_pulled_to_the_global_model_of_the_round(engine: Any) -> None:
    """After round 1 the global model has moved to 0.19, and that is what a personal one is pulled to in round 2."""
    module = Scalar(lr=0.1)
    federated = FederatedModule(module, algorithm=Ditto(lam=1.0), local_steps=2, engine=engine)
    fit(federated, FederatedDataModule({"a": Rows([1.0])}), max_steps=2)
    v = 0.18
    for _ in range(2):
        v -= 0.1 * ((v - 1) + (v - 0.19))
    assert personal(federated, "a") == pytest.approx(v)
    assert module.x.item() == pytest.approx(1 - 0.9**4)


@pytest.mark.parametrize("lam", [0.0, 0.5])
@engines
def test_the_global_model_is_fedavgs_to_the_last_bit(lam: float, engine: Any) -> None:
    """With dropout, shuffling and batch norm: personal training leaves no trace in it."""
    ditto, fedavg = (trained(algorithm, 4, engine=engine) for algorithm in (Ditto(lam), FedAvg()))
    torch.testing.assert_close(ditto.module.state_dict(), fedavg.module.state_dict(), rtol=0, atol=0)
    mine, theirs = ditto.last_report, fedavg.last_report
    assert (mine.workers, mine.bytes_down, mine.bytes_up) == (theirs.workers, theirs.bytes_down, theirs.bytes_up)


class InOrder(pl.LightningDataModule):
    """All of a worker's points in one batch, so that there is no randomness."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        self.points = Points(worker)

    def train_dataloader(self) -> Any:
        return DataLoader(self.points.examples, batch_size=100)


@engines
def test_without_a_pull_personal_models_are_purely_local(engine: Any) -> None:
    workers = {f"w{i}": InOrder(i) for i in range(3)}
    options: dict[str, Any] = {"engine": engine, "local_epochs": 3}
    together = trained(Ditto(lam=0.0), 4, layered(dropout=0.0).double(), workers, None, **options)
    for name, data in workers.items():
        alone = trained(FedAvg(), 4, layered(dropout=0.0).double(), {name: data}, None, **options).module
        own = together.personal_module(name)
        assert_equal(dict(own.named_parameters()), dict(alone.named_parameters()))
        assert_equal(dict(own.named_buffers()), dict(alone.named_buffers()))


def test_the_harder_the_pull_the_closer_they_are() -> None:
    distances = []
    for lam in (0.0, 0.5, 2.0, 8.0):
        module = Scalar(lr=0.1)
        federated = FederatedModule(module, algorithm=Ditto(lam))
        fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([-1.0])}), max_steps=80)
        # The optimum of ½(v - 1)² + lam/2 (v - 0)²
        assert personal(federated, "a") == pytest.approx(1 / (1 + lam), rel=1e-2)
        distances.append(abs(personal(federated, "a") - module.x.item()))
    assert distances == sorted(distances, reverse=True)


def test_a_worker_goes_on_from_its_own_model_after_rounds_without_it() -> None:
    module = Scalar(lr=0.1)
    federated = FederatedModule(module, algorithm=Ditto(lam=0.0))
    workers = {"a": Rows([1.0]), "b": Rows([5.0]), "c": Rows([5.0])}
    fit(federated, FederatedDataModule(workers, cohort_size=1, sampler=Turns()), max_steps=7)
    assert personal(federated, "a") == pytest.approx(1 - 0.9**3)  # rounds 0, 3 and 6


class Tires(Rows):
    """A worker whose data can be gone through only so often."""

    def __init__(self, values: list[float], passes: int) -> None:
        super().__init__(values)
        self.left = passes

    def train_dataloader(self) -> Any:
        owner = self

        class Loader(DataLoader[Any]):
            def __iter__(self) -> Any:
                owner.left -= 1
                if owner.left < 0:
                    raise OSError("no more")
                return super().__iter__()

        def collate(rows: list[tuple[Tensor]]) -> list[Tensor]:
            return [torch.stack([row[0] for row in rows])]

        return Loader(super().train_dataloader().dataset, batch_size=10, collate_fn=collate)


@pytest.mark.parametrize("passes", [2, 3])
def test_a_worker_that_fails_in_either_half_remembers_nothing_of_the_round(passes: int) -> None:
    """In round 2, while it trains its own model (2) or the global one (3)."""
    federated = FederatedModule(Scalar(lr=0.1), algorithm=Ditto(lam=0.0), on_worker_error="drop", engine="sequential")
    data = FederatedDataModule({"a": Rows([1.0]), "tired": Tires([1.0], passes)})
    fit(federated, data, max_steps=2)
    assert [failure.worker for failure in federated.last_report.failures] == ["tired"]
    assert personal(federated, "a") == pytest.approx(1 - 0.9**2)
    assert personal(federated, "tired") == pytest.approx(1 - 0.9)


def test_it_remembers_own_buffers() -> None:
    rows = memory(trained(Ditto(lam=0.1), 2))["workers"]
    assert rows.keys() == {"personal", "personal_buffers"}
    assert not torch.equal(rows["personal_buffers"]["w1"], rows["personal_buffers"]["w2"])


def test_out_of_range() -> None:
    with pytest.raises(ValueError, match="lam=-1 must be at least 0"):
        Ditto(-1)


class AtFirst(TensorDataset):
    """Can be read once."""

    reads = 0

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        if self.reads > len(self):
            raise OSError("disk")
        return super().__getitem__(index)


def test_a_worker_that_fails_alone_after_its_own_training_remembers_nothing() -> None:
    class Once(Rows):
        def train_dataloader(self) -> Any:
            return DataLoader(AtFirst(self.values))

    federated = FederatedModule(Scalar(), algorithm=Ditto(lam=1.0), engine="sequential", on_worker_error="drop")
    with pytest.raises(RoundError, match="worker 'a' failed in round 0: OSError: disk"):
        fit(federated, FederatedDataModule({"a": Once([1.0])}))
    assert federated.own_state == {}
