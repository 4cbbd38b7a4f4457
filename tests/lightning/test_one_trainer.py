"""One Trainer for a plain module and for the same module in a federation, one after the other."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import EvaluatedRows, Scalar, trainer

from lightning_fed import FederatedDataModule, FederatedModule

VALUES = [1.0, 2.0, 3.0]
"""The squares of their distances to x = 0 have the mean 14/3."""


class Logging(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("square", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        (values,) = batch
        self.log("square", ((self.x - values) ** 2).mean())

    test_step = validation_step


@pytest.mark.parametrize(
    "calls",
    [
        ["plain validate", "federated validate"],
        ["federated test", "plain test"],
        ["plain validate", "plain test", "federated validate"],
        ["federated validate", "federated test", "plain test"],
        ["plain fit", "federated fit", "plain test"],
        ["federated fit", "plain fit", "federated test"],
    ],
)
def test_both_are_evaluated_whatever_ran_before(calls: list[str]) -> None:
    module = Logging(lr=0.0)
    federated = FederatedModule(module)
    run = trainer()
    for call in calls:
        kind, stage = call.split()
        data = EvaluatedRows(VALUES)
        if kind == "plain":
            getattr(run, stage)(module, data)
        else:
            getattr(run, stage)(federated, FederatedDataModule({"bob": data, "alice": EvaluatedRows(VALUES)}))
    assert float(run.callback_metrics["square"]) == pytest.approx(14 / 3)
