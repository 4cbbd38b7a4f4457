"""What every algorithm must do, on every engine. Made to be used for algorithms of your own: extend ``ALGORITHMS``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import (
    Algorithm,
    Cyclic,
    Ditto,
    FedAvg,
    FedBN,
    FedDyn,
    FedNova,
    FedPer,
    FedProx,
    FedRep,
    LGFedAvg,
    QFedAvg,
    Scaffold,
)

ALGORITHMS: dict[str, Callable[[], Algorithm]] = {
    "FedAvg": FedAvg,
    "Cyclic": Cyclic,
    "FedProx": lambda: FedProx(0.1),
    "FedNova": lambda: FedNova(momentum=0.5),
    "FedNova, proximal": lambda: FedNova(momentum=0.5, mu=0.1, lr=0.1),
    "Scaffold": Scaffold,
    "FedDyn": lambda: FedDyn(alpha=0.05),
    "QFedAvg": lambda: QFedAvg(q=1.0, lr=0.1),
    "Ditto": lambda: Ditto(lam=0.1),
    "FedPer": lambda: FedPer(["net.4.*"]),
    "LGFedAvg": lambda: LGFedAvg(["net.0.*"]),
    "FedBN": FedBN,
    "FedRep": lambda: FedRep(["net.4.*"]),
}

each = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)


class Net(pl.LightningModule):
    """A small classifier with BatchNorm and dropout, trained with momentum and weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)


class Points(pl.LightningDataModule):
    """Random points of one worker, more of them for some."""

    def __init__(self, worker: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(worker)
        n = 4 + 2 * worker  # no batch of one, which BatchNorm refuses
        self.points = TensorDataset(torch.randn(n, 4, generator=generator), torch.randint(3, (n,), generator=generator))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.points, batch_size=4, shuffle=True)


def trained(algorithm: Algorithm, engine: str, rounds: int = 3) -> tuple[Net, FederatedModule]:
    torch.manual_seed(0)
    net = Net()
    federated = FederatedModule(net, algorithm=algorithm, engine=engine)  # type: ignore[arg-type]
    fit(federated, FederatedDataModule({f"w{i}": Points(i) for i in range(6)}, cohort_size=5), max_steps=rounds)
    return net, federated


@each
def test_engines_agree(algorithm: Callable[[], Algorithm]) -> None:
    one_by_one, report = trained(algorithm(), "sequential")
    together, other = trained(algorithm(), "vectorized")
    torch.testing.assert_close(together.state_dict(), one_by_one.state_dict(), rtol=1e-5, atol=1e-5)
    assert other.last_report.loss == pytest.approx(report.last_report.loss, rel=1e-4)


@each
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_an_optimum_that_all_share_is_a_fixed_point(algorithm: Callable[[], Algorithm], engine: Any) -> None:
    module = Scalar(lr=0.1, x=2.0)
    workers = {str(i): Rows([2.0] * (i + 1), batch_size=1) for i in range(4)}
    fit(FederatedModule(module, algorithm=algorithm(), engine=engine), FederatedDataModule(workers), max_steps=3)
    assert module.x.item() == 2.0


@each
def test_a_round_learns(algorithm: Callable[[], Algorithm]) -> None:
    first, last = (trained(algorithm(), "sequential", rounds)[1].last_report.loss for rounds in (1, 25))
    assert last < first


@each
def test_what_was_given_is_not_changed_by_a_run(algorithm: Callable[[], Algorithm]) -> None:
    given = algorithm()
    before = copy.deepcopy(vars(given))
    trained(given, "sequential")
    assert vars(given) == before


@each
def test_a_worker_that_fails_is_named(algorithm: Callable[[], Algorithm]) -> None:
    workers = {"good": Rows([1.0]), "bad": Rows([float("nan")])}
    module = Scalar()
    with pytest.raises(Exception, match="worker 'bad' failed in round 0"):
        fit(FederatedModule(module, algorithm=algorithm()), FederatedDataModule(workers))
    assert module.x.item() == 0.0
