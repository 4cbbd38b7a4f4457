"""Layers whose weight a hook computes in every pass: torch's old weight_norm, spectral_norm and prune."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_equal, fit, trainer
from parity import by_worker
from torch import nn
from torch.nn.utils import prune
from zoo import Points

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.engines import Engine, Isolated, Sequential, Vectorized
from lightning_fed.wire import LocalTraining

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated"),
    pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented the batching"),
]


def normed(layer: nn.Linear) -> nn.Module:
    return torch.nn.utils.weight_norm(layer)


def spectral(layer: nn.Linear) -> nn.Module:
    return torch.nn.utils.spectral_norm(layer)


def pruned(layer: nn.Linear) -> nn.Module:
    return prune.l1_unstructured(layer, "weight", amount=2)


class Computed(pl.LightningModule):
    def __init__(self, how: Callable[[nn.Linear], nn.Module]) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layer = how(nn.Linear(8, 3))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return nn.functional.cross_entropy(self.layer(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


HOWS = [normed, spectral, pruned]


@pytest.mark.parametrize("how", HOWS)
def test_one_worker_is_a_plain_trainer(how: Any) -> None:
    plain, federated = Computed(how), Computed(how)
    trainer().fit(plain, Points(1, 12, shuffle=False))
    # Warnings are errors: nothing is said of an attribute that local training changes.
    fit(FederatedModule(federated, engine="sequential"), FederatedDataModule({"bob": Points(1, 12, shuffle=False)}))
    assert_equal(federated.state_dict(), plain.state_dict())


@pytest.mark.parametrize("engine", [pytest.param(Isolated, marks=pytest.mark.slow), Vectorized])
@pytest.mark.parametrize("how", [normed, pruned])
def test_the_engines_agree(how: Any, engine: type[Engine]) -> None:
    workers = {"a": Points(1, 12), "b": Points(2, 12), "c": Points(3, 8)}
    one = by_worker(Sequential(), Computed(how), workers, LocalTraining(epochs=2))
    assert_equal(by_worker(engine(), Computed(how), workers, LocalTraining(epochs=2)), one)


@pytest.mark.parametrize("how", HOWS)
def test_a_fit_after_an_evaluation_goes_on(how: Any) -> None:
    """Evaluation leaves a weight that was computed without gradients."""
    ends = []
    for evaluated in (False, True):
        module = Computed(how)
        fed, data = FederatedModule(module, engine="sequential"), FederatedDataModule({"bob": Points(1, 12)})
        if evaluated:
            module.eval()
            with torch.inference_mode():
                module.layer(torch.ones(1, 8))
            module.train()
        fit(fed, data, max_epochs=2)
        ends.append(module.state_dict())
    assert_equal(*ends)
