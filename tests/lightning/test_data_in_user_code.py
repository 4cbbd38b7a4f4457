"""What the user's code finds about data on the Trainer: on the server, and on a worker."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader

from lightning_fed import FederatedDataModule, FederatedModule


def test_an_attribute_of_the_workers_datamodules_is_looked_for_where_it_is() -> None:
    data = FederatedDataModule({"bob": Rows([1.0], batch_size=3)})
    says = (
        "the server's trainer.datamodule is the FederatedDataModule, which has no 'batch_size'; a worker's datamodule "
        r"is trainer.datamodule.workers\['bob'\], .* self.trainer.datamodule"
    )
    with pytest.raises(AttributeError, match=says):
        data.batch_size  # noqa: B018
    assert data.workers["bob"].batch_size == 3  # type: ignore[attr-defined]
    assert getattr(data, "batch_size", None) is None
    for other in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert list(other.names) == ["bob"]
        assert len(pickle.loads(pickle.dumps(other.train_dataloader()))) == 1
    central = FederatedDataModule({"bob": EvaluatedRows([1.0])}, val=EvaluatedRows([1.0]))
    assert len(copy.copy(central.val_dataloader())) == 1
    assert len(list(copy.copy(FederatedDataModule({"bob": EvaluatedRows([1.0])}).val_dataloader()))) == 1


def test_the_loader_of_all_workers_says_where_that_of_one_is() -> None:
    data = FederatedDataModule({"bob": EvaluatedRows([1.0])})
    with pytest.raises(AttributeError, match=r"all workers' batches has no 'dataset'; .*data.workers\[name\]"):
        data.val_dataloader().dataset  # noqa: B018
    with pytest.raises(
        AttributeError, match=r"one batch of the server is a cohort, .* has no 'dataset'; .*on a worker"
    ):
        data.train_dataloader().dataset  # noqa: B018


def test_a_central_loader_has_what_the_users_loader_has() -> None:
    data = FederatedDataModule({"bob": Rows([1.0])}, val=EvaluatedRows([1.0, 2.0], batch_size=1))
    run = trainer()
    run.validate(FederatedModule(Evaluated()), data, verbose=False)
    assert len(run.val_dataloaders.dataset) == 2
    assert (run.val_dataloaders.batch_size, len(run.val_dataloaders), run.num_val_batches) == (1, 2, [2])


class Evaluated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", batch[0].mean())


@pytest.mark.parametrize("argument", ["workers", "val"])
def test_a_loader_in_place_of_a_datamodule_is_refused_with_the_fix(argument: str) -> None:
    loader = Rows([1.0]).train_dataloader()
    arguments: dict[str, Any] = {"workers": {"bob": Rows([1.0])}, argument: {"bob": loader}}
    if argument == "val":
        arguments["val"] = loader
    place = r"workers\['bob'\]" if argument == "workers" else "val"
    with pytest.raises(
        TypeError, match=rf"^{place} is a DataLoader, .*; give a .* LightningDataModule.from_datasets\("
    ):
        FederatedDataModule(**arguments)


def test_training_on_loaders_one_after_another_is_refused_as_by_lightning() -> None:
    class Sequential(Rows):
        def train_dataloader(self) -> Any:
            loader: DataLoader[Any] = super().train_dataloader()
            return CombinedLoader([loader, loader], "sequential")

    with pytest.raises(ValueError, match="does not support the `CombinedLoader"):
        trainer().fit(Scalar(), Sequential([1.0]))
    with pytest.raises(
        RuntimeError, match=r"'bob' .* CombinedLoader\(mode=\"sequential\"\), which no Trainer trains on"
    ):
        fit(FederatedModule(Scalar()), FederatedDataModule({"bob": Sequential([1.0])}))
