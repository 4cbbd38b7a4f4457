"""What is logged while workers train in lockstep; ``tests/engines/vectorized/test_engine.py`` compares whole rounds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_fed.engines.vectorized.recorder import StackedRecorder
from lightning_fed.worker.recorder import Recorder


@pytest.mark.parametrize("value", [torch.zeros(2), torch.zeros(0), "three", None, [1.0]])
def test_what_cannot_be_logged_is_named_as_for_one_worker(value: Any) -> None:
    says = []
    for recorder in (Recorder(), StackedRecorder()):
        with pytest.raises(TypeError, match=r"^self\.log\('it', ...\): ") as error:
            recorder.log("it", value)
        says.append(str(error.value))
    assert says[0] == says[1]


def test_a_number_and_a_tensor_of_one_element_leave_the_step_without_a_dimension() -> None:
    recorder = StackedRecorder()
    recorder.begin_step()
    for value in (2, 2.5, True, torch.tensor([[3.0]], requires_grad=True)):
        recorder.log("it", value)
    assert [(output.shape, output.item(), output.requires_grad) for output in recorder.outputs] == [
        ((), value, False) for value in (2.0, 2.5, 1.0, 3.0)
    ]
