"""Evaluation, prediction and what workers show are on a GPU what they are on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from halfway import Evaluated, pair
from helpers import assert_equal, fit, trainer

from lightning_fed import FederatedModule


class Counting(Evaluated):
    """Logs numbers, which are on no device, beside tensors that are on the GPU."""

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.log("index", batch_idx)
        self.log("largest", batch[0].max(), reduce_fx="max")
        self.log("half", torch.tensor(0.5))
        return super().training_step(batch, batch_idx)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_numbers_are_logged_beside_tensors(engine: str) -> None:
    run = fit(FederatedModule(Counting(), engine=engine), pair(batch_size=1), accelerator="gpu")
    logged = {name: float(run.callback_metrics[name]) for name in ("index", "largest", "half")}
    assert_equal(logged, {"index": 0.5, "largest": 9.0, "half": 0.5})


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_it_gives_the_same(engine: str) -> None:
    def everything(accelerator: str) -> dict[str, Any]:
        fed = FederatedModule(Evaluated(), engine=engine)
        run = fit(fed, pair(), max_epochs=3, accelerator=accelerator)
        report = fed.last_evaluation
        assert report is not None
        other = trainer(accelerator=accelerator)
        return {
            "logged": {n: float(v) for n, v in run.callback_metrics.items() if "time" not in n},
            "workers": {name: dict(metrics) for name, metrics in report.workers.items()},
            "history": {name: [row[name] for row in fed.history] for name in ("train_loss",)},
            "tested": other.test(fed, pair(), verbose=False),
            "predicted": torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, other.predict(fed, pair())),
        }

    assert_equal(everything("gpu"), everything("cpu"))
