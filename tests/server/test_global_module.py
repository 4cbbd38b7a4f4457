"""What becomes of a module that the server's code changes while a fit runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, fit, trainer
from pytorch_lightning.callbacks import ModelPruning
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm, FedAvg, FedPer

pytestmark = pytest.mark.filterwarnings("ignore:the attribute .* of Net was changed on the server")


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].unsqueeze(1)
        return (self.net(x) - 2 * x).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Evaluated(Net):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", self.net(batch[0].unsqueeze(1)).mean())


class Changes(pl.Callback):
    def __init__(self, change: Callable[[Any], Any]) -> None:
        self._change = change

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self._change(pl_module)


CHANGES: dict[str, tuple[Callable[[], pl.Callback], str]] = {
    "pruned": (lambda: Changes(lambda m: prune.l1_unstructured(m.net, "weight", amount=1)), "net.weight_orig"),
    "ModelPruning": (lambda: ModelPruning("l1_unstructured", amount=1), "net.bias_orig"),
    "parametrized": (
        lambda: Changes(lambda m: parametrizations.weight_norm(m.net)),
        "net.parametrizations.weight.original0",
    ),
    "a layer more": (lambda: Changes(lambda m: setattr(m, "head", nn.Linear(1, 1))), "head.bias"),
    "another layer": (lambda: Changes(lambda m: setattr(m, "net", nn.Sequential(nn.Linear(1, 1)))), "net.0.bias"),
}


@pytest.mark.parametrize("engine", ["auto", "sequential"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_parameter_that_comes_in_during_a_fit_is_refused(engine: Any, change: str) -> None:
    """No worker's fault, so it is none of a worker's errors; the model is that of the round before."""
    callback, parameter = CHANGES[change]
    data = FederatedDataModule({"a": Rows([1.0, 2.0]), "b": Rows([3.0])})
    fed = FederatedModule(Net(), engine=engine, on_worker_error="drop")
    said = f"the parameter '{parameter}' was put into Net during the fit, by pruning"
    with pytest.raises(ValueError, match=said):
        fit(fed, data, max_epochs=3, callbacks=[callback()])
    assert all(bool(parameter.isfinite().all()) for parameter in fed.parameters())


@pytest.mark.parametrize("engine", ["auto", "sequential"])
def test_a_module_that_is_pruned_before_is_trained_where_it_is_not(engine: Any) -> None:
    module = Net()
    prune.l1_unstructured(module.net, "bias", amount=1)
    fit(FederatedModule(module, engine=engine), FederatedDataModule({"a": Rows([1.0, 2.0])}), max_epochs=9)
    with torch.no_grad():
        assert module.net(torch.zeros(1, 1)).item() == 0.0
    assert module.net.weight.item() == pytest.approx(2.0, abs=0.1)


@pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")
@pytest.mark.parametrize("algorithm", [FedAvg(), FedPer(["net.bias"])], ids=["FedAvg", "FedPer"])
def test_a_module_may_be_changed_after_a_fit(algorithm: Algorithm) -> None:
    data = FederatedDataModule({"a": EvaluatedRows([1.0, 2.0]), "b": EvaluatedRows([3.0])})
    fed = FederatedModule(module := Evaluated(), algorithm)
    fit(fed, data)
    module.head = nn.Linear(1, 1)
    trainer().test(fed, data, verbose=False)
    if not algorithm.tables:  # else what workers remember is about the module as it was
        fit(fed, data)
