"""What is logged in two processes is what is logged in one."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import EvaluatedRows, Scalar, trainer
from processes import run_in_processes
from torch import Tensor
from torchmetrics import MaxMetric, SumMetric

from lightning_fed import FederatedDataModule, FederatedModule

pytestmark = pytest.mark.usefixtures("double")


class Logging(Scalar):
    """Logs values of every reduction, and from "the first process" too; its objects are read on the server."""

    def __init__(self) -> None:
        super().__init__(lr=0.5)
        self.total, self.most = SumMetric(), MaxMetric()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        for name in ("mean", "sum", "min", "max"):
            self.log(name, loss, reduce_fx=name, on_epoch=True, sync_dist=True)
        self.log("only at the end", loss, on_step=False, on_epoch=True)
        if batch[0].max() > 5:
            self.log("some", loss, prog_bar=True, on_epoch=True)
        if self.trainer.is_global_zero and self.global_rank == 0:
            self.log("first", loss, rank_zero_only=True, on_epoch=True)
        self.total.update(batch[0])
        self.most.update(batch[0])
        self.log("object", self.total, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", batch[0].mean())

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log_dict({"read/total": self.total.compute(), "read/most": self.most.compute()}, sync_dist=True)


def shown(**options: Any) -> tuple[dict[str, float], ...]:
    data = FederatedDataModule(
        {f"w{i}": EvaluatedRows([float(i), 2.0 * i, 1.0], batch_size=2) for i in range(5)}, rounds_per_epoch=3
    )
    run = trainer(max_epochs=2, num_sanity_val_steps=0, **options)
    run.fit(FederatedModule(Logging()), data)
    tables: Any = (run.callback_metrics, run.logged_metrics, run.progress_bar_metrics)
    return tuple({name: float(value) for name, value in table.items()} for table in tables)


@pytest.mark.filterwarnings("ignore")
def test_two_processes_show_what_one_shows() -> None:
    alone = shown()
    assert {"first_epoch", "some_step", "sum_epoch", "object_epoch", "read/total", "only at the end"} <= set(alone[0])
    # 3 rounds of the rows i, 2 i and 1 of five workers, in the second epoch: 3 (3 (0 + 1 + 2 + 3 + 4) + 5).
    assert alone[0]["read/total"] == 105.0
    for ended in run_in_processes(lambda: shown(strategy="ddp", devices=2)):
        assert ended.error is None, ended.trace
        for theirs, ours in zip(ended.result, alone, strict=True):
            assert theirs == pytest.approx(ours, rel=1e-9)
