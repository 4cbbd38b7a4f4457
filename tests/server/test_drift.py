"""How long a cohort's updates are, and how far they point the way of their aggregate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, fit
from private import job, updates
from processes import run_in_processes
from pytorch_lightning.loggers import CSVLogger
from spy import Spy
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Median, WeightedMean
from lightning_fed.core.processes import Processes
from lightning_fed.engines import Sequential, Vectorized
from lightning_fed.server.drift import DriftMeter
from lightning_fed.transforms import ClipNorm


def measured(*stacks: list[list[float]]) -> Any:
    to = job(2)
    meter, mean = DriftMeter(to.model), WeightedMean()
    rows = [updates(stack) for stack in stacks]
    for stack in rows:
        meter.take(stack)
    return meter.drift(mean.finish(mean.fold(rows, to), Processes()), meter.norms, Processes())


@pytest.mark.parametrize(
    ("stacks", "alignment"),
    [
        pytest.param(([[1.0, 0.0], [3.0, 0.0]],), 1.0, id="the same way"),
        pytest.param(([[1.0, 0.0]], [[0.0, 1.0]]), math.sqrt(0.5), id="at right angles, in two stacks"),
        pytest.param(([[3.0, 0.0], [-1.0, 0.0]],), 0.0, id="one against the other"),
        pytest.param(([[1.0, 0.0], [0.0, 0.0]],), 1.0, id="one without a direction"),
        pytest.param(([[1.0, 0.0], [-1.0, 0.0]],), None, id="their mean has no direction"),
        pytest.param(([[0.0, 0.0]],), None, id="none has a direction"),
        pytest.param(([[1e-38, 0.0], [0.0, 2.0]],), 1.0, id="one whose inverse norm is beyond float32"),
    ],
)
def test_alignment_by_hand(stacks: Any, alignment: float | None) -> None:
    found = measured(*stacks)
    assert found.norms == pytest.approx([math.hypot(*row) for stack in stacks for row in stack])
    assert found.alignment == (None if alignment is None else pytest.approx(alignment, abs=1e-6))


def test_workers_without_examples_do_not_count() -> None:
    to = job(2)
    meter = DriftMeter(to.model)
    meter.take(updates([[2.0, 0.0], [0.0, 0.0]], examples=torch.tensor([3.0, 0.0], dtype=torch.float64)))
    assert meter.norms == [2.0]


class Plane(pl.LightningModule):
    """Two parameters that move towards the rows of the data."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 3)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (x,) = batch
        return ((self.net(x[:, None]) - x[:, None] ** 2) ** 2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def rows() -> FederatedDataModule:
    return FederatedDataModule({f"w{i}": Rows([float(i), 1.0 - i, 0.5], batch_size=1) for i in range(5)}, seed=1)


def drawn(folder: Path, **options: Any) -> tuple[dict[str, float], Spy]:
    """The curves of the first round, and what the workers sent."""
    torch.manual_seed(0)
    spy = Spy(options.pop("aggregator", None))
    logger = CSVLogger(str(folder), flush_logs_every_n_steps=1)
    fit(FederatedModule(Plane(), aggregator=spy, **options), rows(), max_steps=1, logger=logger)
    lines = [line.split(",") for line in Path(logger.log_dir, "metrics.csv").read_text().splitlines()]
    return {name: float(value) for name, value in zip(lines[0], lines[1], strict=True) if value}, spy


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"engine": Sequential()}, id="one by one"),
        pytest.param({"engine": Vectorized()}, id="in a stack"),
        pytest.param({"engine": Vectorized(), "transforms": [ClipNorm(0.05)]}, id="clipped"),
        pytest.param({"engine": Sequential(), "aggregator": Median()}, id="median"),
    ],
)
def test_one_pass_gives_what_all_updates_together_give(tmp_path: Path, options: Any) -> None:
    aggregator = options.get("aggregator") or WeightedMean()
    curves, spy = drawn(tmp_path, **options)
    to = spy.seen[0][0]
    m = aggregator.finish(aggregator.fold([u for _, u in spy.seen], to), Processes()).delta.double()
    each = torch.stack([delta.double() for delta in spy.deltas(0).values()])
    cosines = (each @ m) / each.norm(dim=1) / m.norm()
    # 1e-5: float32 sums of five vectors, printed by the logger with all digits
    assert curves["update/alignment"] == pytest.approx(float(cosines.mean()), rel=1e-5)
    p10, p90 = each.norm(dim=1).quantile(torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    assert (curves["update/p10_norm"], curves["update/p90_norm"]) == pytest.approx((p10, p90), rel=1e-5)


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    one, _ = drawn(tmp_path / "one", engine=Sequential())

    def work() -> None:
        torch.manual_seed(0)
        logger = CSVLogger(str(tmp_path / "two"), version=0, flush_logs_every_n_steps=1)
        fed = FederatedModule(Plane(), engine=Sequential())
        fit(fed, rows(), max_steps=1, logger=logger, devices=2, strategy="ddp")

    for ended in run_in_processes(work, 2):
        assert ended.error is None, ended.trace
    (file,) = (tmp_path / "two").glob("**/metrics.csv")
    lines = [line.split(",") for line in file.read_text().splitlines()]
    two = {name: float(value) for name, value in zip(lines[0], lines[1], strict=True) if value}
    for name in ("update/alignment", "update/p10_norm", "update/p90_norm", "round/coverage", "comm/megabytes_up_total"):
        assert two[name] == pytest.approx(one[name], rel=1e-5)


def test_nothing_is_measured_where_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DriftMeter, "take", lambda *_: pytest.fail("measured"))
    fit(FederatedModule(Plane(), engine=Sequential()), rows(), max_steps=1)
