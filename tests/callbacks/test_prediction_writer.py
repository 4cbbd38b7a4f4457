"""What PredictionWriter writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, trainer
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.callbacks import PredictionWriter


class Tenfold(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return 10 * batch[0]  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def test_predictions_are_written_by_worker(tmp_path: Path) -> None:
    people = {"a": EvaluatedRows([1.0, 2.0, 3.0], batch_size=2), "b": EvaluatedRows([4.0])}
    file = tmp_path / "new" / "found.pt"
    trainer(callbacks=[PredictionWriter(file)]).predict(FederatedModule(Tenfold()), FederatedDataModule(people))
    found = torch.load(file, weights_only=True)
    assert {name: [batch.tolist() for batch in batches] for name, batches in found.items()} == {
        "a": [[10.0, 20.0], [30.0]],
        "b": [[40.0]],
    }
    assert [path.name for path in file.parent.iterdir()] == ["found.pt"]


def test_those_of_central_data_have_no_name(tmp_path: Path) -> None:
    data = FederatedDataModule({"a": EvaluatedRows([1.0])}, val=EvaluatedRows([7.0]))
    trainer(callbacks=[PredictionWriter(str(tmp_path / "it.pt"))]).predict(FederatedModule(Tenfold()), data)
    assert torch.load(tmp_path / "it.pt", weights_only=True)[""][0].tolist() == [70.0]


def test_a_module_that_is_not_federated_is_refused() -> None:
    class Alone(Rows):
        predict_dataloader = Rows.train_dataloader

    with pytest.raises(TypeError, match="PredictionWriter is for a FederatedModule, not Tenfold: wrap it in one"):
        trainer(callbacks=[PredictionWriter()]).predict(Tenfold(), Alone([1.0]))
