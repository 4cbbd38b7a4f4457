"""What is said once when a fit begins."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
from torch import nn

from lightning_fed.server.remarks import size_of


class Net(pl.LightningModule):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([], "Net has 0 parameters"),
        ([nn.Linear(1, 1, bias=False)], "Net has 1 parameter"),
        ([nn.Linear(1000, 2)], "Net has 2,002 parameters"),
        ([nn.Linear(3, 1), nn.Linear(2, 1).requires_grad_(False)], "Net has 7 parameters, 4 of them trained"),
        ([nn.Linear(3, 1), nn.BatchNorm1d(2)], "Net has 8 parameters"),  # buffers are none
    ],
)
def test_the_size_of_a_module_in_words(layers: list[nn.Module], says: str) -> None:
    assert size_of(Net(*layers)) == says


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_parameters_without_a_shape_are_not_counted() -> None:
    assert size_of(Net(nn.LazyLinear(1), nn.Linear(3, 1))) == "Net has 4 parameters"
