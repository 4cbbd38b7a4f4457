"""What processes that start afresh are sent: the strategy "ddp_spawn", and loaders with processes of their own."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from runs import run
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Cyclic, Ditto, FedDyn, FedNova, FedProx, QFedAvg, Scaffold
from lightning_fed.datasets import FCUBE, Synthetic
from lightning_fed.engines import Isolated
from lightning_fed.optim import CosineDecay
from lightning_fed.population import Population
from lightning_fed.privacy import CentralDP, LocalDP
from lightning_fed.selection import RandomAvailability, WeightedBySize
from lightning_fed.transforms import ClipNorm


class Validated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", batch[0].mean() - self.x)


SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sequential": {"engine": "sequential"},
    "vectorized": {"engine": "vectorized"},
    **{type(a).__name__: {"algorithm": a} for a in (Cyclic(), Ditto(0.1), FedDyn(0.1), FedNova(), FedProx(0.1))},
    "QFedAvg": {"algorithm": QFedAvg(q=1.0, lr=0.1)},
    "Scaffold": {"algorithm": Scaffold()},
    "CentralDP": {"privacy": CentralDP(clip=1.0, noise_multiplier=1.0, insecure_deterministic_noise=True)},
    "LocalDP": {"privacy": LocalDP(clip=1.0, noise_multiplier=1.0, insecure_deterministic_noise=True)},
    "other parts": {"transforms": [ClipNorm(1.0)], "local_lr_schedule": CosineDecay(10)},
}


@pytest.mark.filterwarnings("ignore:.*NOT private")
@pytest.mark.parametrize("used", [False, True], ids=["new", "after a fit"])
@pytest.mark.parametrize("settings", list(SETTINGS))
def test_the_server_and_its_data_can_be_sent(settings: str, used: bool) -> None:
    fed = FederatedModule(Validated(), **SETTINGS[settings])
    central = EvaluatedRows([5.0]) if "DP" in settings else None
    data = FederatedDataModule({"a": EvaluatedRows([1.0, 2.0]), "b": EvaluatedRows([4.0])}, val=central)
    if used:
        fit(fed, data)
    ForkingPickler.dumps((fed, data))  # by which a process is started; what it gives has the same memory, so:
    sent_fed, sent_data = pickle.loads(pickle.dumps((fed, data)))
    there, here = (fit(f, d, max_epochs=2).callback_metrics for f, d in ((sent_fed, sent_data), (fed, data)))
    torch.testing.assert_close(there, here, rtol=0, atol=0)


def test_an_engine_with_processes_of_its_own_can_be_sent() -> None:
    fed = pickle.loads(pickle.dumps(FederatedModule(Validated(), engine="isolated")))
    assert isinstance(fed.engine, Isolated)


@pytest.mark.parametrize("population", [FCUBE(), Synthetic(1.0, 1.0)], ids=["FCUBE", "Synthetic"])
def test_a_population_can_be_sent(population: Population) -> None:
    data = FederatedDataModule(
        population, cohort_size=2, sampler=WeightedBySize(), availability=RandomAvailability(absent=0.1)
    )
    sent = pickle.loads(ForkingPickler.dumps(data))
    assert list(sent.train_dataloader()) == list(data.train_dataloader())
    ours, theirs = (next(iter(d.pool[d.names[1]].batches))[0] for d in (data, sent))
    assert [batch.shape for batch in ours] == [batch.shape for batch in theirs]


class Spawning(EvaluatedRows):
    def collate(self, rows: Any) -> Any:
        return (torch.stack([row[0] for row in rows]) + self.trainer.max_epochs,)  # type: ignore[union-attr,operator]

    def train_dataloader(self) -> Any:
        return DataLoader(
            TensorDataset(self.values), 2, collate_fn=self.collate, num_workers=1, multiprocessing_context="spawn"
        )

    val_dataloader = train_dataloader


def test_a_loader_whose_processes_start_afresh_gets_the_central_data_without_the_server() -> None:
    run, central = trainer(), Spawning([3.0])
    run.callbacks.append(lambda: None)  # type: ignore[attr-defined]  # as the server, it cannot be pickled
    data = FederatedDataModule({"a": Rows([1.0, 2.0])}, val=central)
    data.trainer = central.trainer = run
    data.val_dataloader()
    assert pickle.loads(pickle.dumps(central.collate)).__self__.trainer.max_epochs == 1


@pytest.mark.slow
@pytest.mark.parametrize("central", [False, True])
def test_loaders_whose_processes_start_afresh_get_the_datamodule(central: bool) -> None:
    data = (
        FederatedDataModule({"a": Rows([1.0, 2.0])}, val=Spawning([3.0]))
        if central
        else FederatedDataModule({"a": Spawning([3.0, 4.0])})
    )
    fed = FederatedModule(Validated(), engine="sequential")
    metrics = trainer(max_epochs=1, num_sanity_val_steps=0)
    if central:
        assert metrics.validate(fed, data, verbose=False) == [{"mean": 4.0}]
    else:
        metrics.fit(fed, data)
        assert fed.module.x.item() == 4.5  # type: ignore[union-attr,operator]


@pytest.mark.slow
def test_ddp_spawn_gives_what_one_process_gives(tmp_path: Path) -> None:
    options = ("--double", "--norm", "--rounds", "3")
    one = run(tmp_path / "one.pt", *options)
    two = run(tmp_path / "two.pt", *options, "--devices", "2", "--strategy", "ddp_spawn")
    # The processes log in float32, torch's default where nobody sets another.
    assert_equal(two["state"], one["state"])
