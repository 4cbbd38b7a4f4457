"""How long a pass over a worker's loader is: as long as the loader says, as a Trainer has it, or until it ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Scalar, assert_equal, trainer
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler, SequentialSampler, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__` defined"),  # said to a plain Trainer
]


FAR = 60  # stands for no end, so that what goes on is red and does not hang


class Endless(IterableDataset[Any]):
    """0, 1, 2 and so on, of which it says that it has five: in a pass, not in all."""

    def __iter__(self) -> Iterator[Any]:
        return ((torch.tensor(float(n)),) for n in range(FAR))

    def __len__(self) -> int:
        return 5


class Around(Sampler[int]):
    """Goes round five rows without end, and says that it has seven."""

    def __iter__(self) -> Iterator[int]:
        return (n % 5 for n in range(FAR))

    def __len__(self) -> int:
        return 7


class AroundInBatches(BatchSampler):
    """Begins anew after the last batch."""

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(FAR):
            yield from super().__iter__()


class Unsaid(Sampler[int]):
    """Five rows, and no length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(5))


class Batches:
    """Batches without end, of which four are a pass."""

    def __iter__(self) -> Iterator[Any]:
        return ([torch.full((2,), float(n))] for n in range(FAR))

    def __len__(self) -> int:
        return 4


def five() -> TensorDataset:
    return TensorDataset(torch.arange(5.0))


LOADERS = {
    "an endless stream": lambda: DataLoader(Endless(), batch_size=2),
    "an endless stream from processes": lambda: DataLoader(Endless(), batch_size=2, num_workers=1),
    "processes that persist": lambda: DataLoader(Endless(), batch_size=2, num_workers=1, persistent_workers=True),
    "an endless sampler": lambda: DataLoader(five(), batch_size=2, sampler=Around()),
    "an endless batch sampler": lambda: DataLoader(
        five(), batch_sampler=AroundInBatches(SequentialSampler(range(5)), 2, drop_last=False)
    ),
    "a sampler without a length": lambda: DataLoader(five(), batch_size=2, sampler=Unsaid()),
    "no DataLoader": Batches,
    "a stream beside rows": lambda: [DataLoader(Endless(), batch_size=2), DataLoader(five(), batch_size=1)],
}


UNSAID = "a sampler without a length"


class Data(pl.LightningDataModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def train_dataloader(self) -> Any:
        return LOADERS[self.kind]()

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


class Steps(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch[-1] if isinstance(batch[0], list) else batch
        self.log("seen", values.sum(), batch_size=len(values))
        return ((self.x - values) ** 2).mean() / 2

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("sum", batch[0].sum(), reduce_fx="sum", batch_size=1)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return batch[0]


@pytest.mark.parametrize(
    ("kind", "engine"),
    [
        (kind, engine)
        for kind in LOADERS
        for engine in ("sequential", "vectorized")
        if (kind, engine[0]) != (UNSAID, "v")
    ],
)
def test_a_pass_is_as_long_as_a_plain_trainers_epoch(kind: str, engine: Any) -> None:
    plain = Steps(lr=0.1)
    trainer(max_epochs=2, limit_val_batches=0).fit(plain, Data(kind))
    fed = FederatedModule(Steps(lr=0.1), local_epochs=2, engine=engine)
    trainer(limit_val_batches=0).fit(fed, FederatedDataModule({"ann": Data(kind)}))
    torch.testing.assert_close(fed.module.x, plain.x, rtol=0, atol=1e-12)


def test_a_pass_without_a_known_length_is_left_to_those_that_train_alone() -> None:
    fed = FederatedModule(Steps(lr=0.1), engine="vectorized")
    with pytest.raises(WorkerError, match="the number of batches of worker 'ann' is not known beforehand"):
        trainer(limit_val_batches=0).fit(fed, FederatedDataModule({"ann": Data(UNSAID)}))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("kind", LOADERS)
def test_an_evaluation_is_as_long_as_a_plain_trainers(kind: str, stage: str) -> None:
    def evaluated(module: pl.LightningModule, data: pl.LightningDataModule) -> Any:
        return getattr(trainer(), stage)(module, data, **({} if stage == "predict" else {"verbose": False}))

    ours = evaluated(FederatedModule(Steps()), FederatedDataModule({"ann": Data(kind)}))
    assert_equal(ours, evaluated(Steps(), Data(kind)))
