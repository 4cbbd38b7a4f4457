"""States of torchmetrics objects, merged over processes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_fed.wire.share import MetricState
from lightning_fed.worker.metric_states import merged_state, state_of


class Lowest(Metric):
    """A state that has lost its dimension after one update and has it again after two, as in PearsonCorrCoef (1.3)."""

    low: Tensor

    def __init__(self, numbers: int, reduce: Any) -> None:
        super().__init__()
        self.add_state("low", torch.full((numbers,), 9.0), dist_reduce_fx=reduce)

    def update(self, values: Tensor) -> None:
        self.low = values.min() if self.low.max() == 9 else torch.minimum(self.low, values.min()).reshape(1)

    def compute(self) -> Tensor:
        return self.low.min()


def states(numbers: int, reduce: Any) -> list[MetricState]:
    once, twice = Lowest(numbers, reduce), Lowest(numbers, reduce)
    once.update(torch.tensor([4.0]))
    for value in (3.0, 2.0):
        twice.update(torch.tensor([value]))
    return [state_of(once), state_of(twice)]


@pytest.mark.parametrize(("reduce", "low"), [("min", [2.0]), ("sum", [6.0]), (None, [[4.0], [2.0]])])
def test_a_state_of_one_number_may_have_lost_its_dimension(reduce: Any, low: list[Any]) -> None:
    merged = merged_state(Lowest(1, reduce), states(1, reduce))
    assert (merged.updates, merged.states["low"].tolist()) == (3, low)


def test_states_of_other_numbers_are_no_states_of_one_object() -> None:
    with pytest.raises(RuntimeError, match="stack expects each tensor to be equal size"):
        merged_state(Lowest(2, "min"), states(2, "min"))
