"""Every engine gives what the sequential one gives, but for the rounding of float64."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import RAGGED, assert_same, by_worker, job_for
from torch import Tensor, nn
from zoo import NETS, OPTIMIZERS, Points, Zoo

from lightning_fed.engines import Engine, Sequential, Vectorized
from lightning_fed.population import WorkerPool
from lightning_fed.wire import LocalTraining, Updates

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_net_with_every_optimizer(net: str, optimizer: str) -> None:
    torch.manual_seed(0)
    # An idle layer and 3 = 2 + 1 or 1 examples in a batch norm's last batch would be an error in both engines.
    workers = {n: w for n, w in RAGGED.items() if n != "d"} if net == "batch norm" else RAGGED
    assert_same(Zoo(NETS[net](), OPTIMIZERS[optimizer]), workers, LocalTraining(epochs=2))


# torchmetrics 1.3 does not count the updates of a collection's metrics that share their state
@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric MulticlassF1Score")
@pytest.mark.parametrize("local", [LocalTraining(), LocalTraining(epochs=3), LocalTraining(steps=5)], ids=str)
def test_everything_that_is_logged(local: LocalTraining) -> None:
    torch.manual_seed(0)
    results = assert_same(Zoo(NETS["mlp"](), metrics=True), RAGGED, local)
    names = {"train_loss", "largest", "steps", "batch_accuracy", "accuracy"}
    assert names <= set(results["a"]["metrics"])
    assert {"train_MulticlassAccuracy", "train_MulticlassF1Score"} <= set(results["a"]["metrics"])
    if local == LocalTraining():
        assert "second" not in results["e"]["metrics"]
        assert results["a"]["metrics"]["steps"] == 3


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_chunks_of_any_size(size: int) -> None:
    assert_same(Zoo(NETS["mlp"]()), RAGGED, engine=Vectorized(chunk_size=size))


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=6),
    batch_sizes=st.lists(st.integers(1, 6), min_size=6, max_size=6),
    drop_last=st.booleans(),
    epochs=st.integers(1, 3),
    steps=st.one_of(st.none(), st.integers(1, 7)),
    momentum=st.booleans(),
    chunk_size=st.one_of(st.none(), st.integers(1, 4)),
)
def test_ragged_workers(
    sizes: list[int],
    batch_sizes: list[int],
    drop_last: bool,
    epochs: int,
    steps: int | None,
    momentum: bool,
    chunk_size: int | None,
) -> None:
    torch.manual_seed(0)
    workers = {
        f"w{i}": Points(i, size, min(batch, size), drop_last)
        for i, (size, batch) in enumerate(zip(sizes, batch_sizes, strict=False))
    }
    module = Zoo(NETS["linear"](), OPTIMIZERS["weight decay" if momentum else "sgd"])
    assert_same(module, workers, LocalTraining(epochs, steps), Vectorized(chunk_size))


def test_loaders_that_cannot_be_indexed() -> None:
    def collate(rows: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        return [torch.stack([x for x, _ in rows]) * 2, torch.stack([y for _, y in rows])]

    workers: dict[str, pl.LightningDataModule] = {f"w{i}": Points(i, 5 + i, collate_fn=collate) for i in range(3)}
    workers["plain"] = Points(9, 6)
    assert_same(Zoo(NETS["mlp"]()), workers, LocalTraining(epochs=2))


def test_batches_that_are_augmented_on_the_way() -> None:
    class Shifted(Zoo):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [batch[0] + 1, batch[1]]

    assert_same(Shifted(NETS["linear"]()), RAGGED)


class Scheduled(Zoo):
    """A scheduler over the length of the local training, and one by epochs."""

    def __init__(self, interval: str) -> None:
        super().__init__(NETS["linear"]())
        self.interval = interval

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        if self.interval == "epoch":
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@pytest.mark.parametrize("interval", ["step", "epoch"])
@pytest.mark.parametrize("local", [LocalTraining(epochs=3), LocalTraining(steps=5)], ids=str)
def test_local_schedulers(interval: str, local: LocalTraining) -> None:
    assert_same(Scheduled(interval), RAGGED, local)


def test_parameter_groups_are_kept() -> None:
    class Grouped(Zoo):
        def configure_optimizers(self) -> Any:
            matrices = [p for p in self.parameters() if p.ndim == 2]
            vectors = [p for p in self.parameters() if p.ndim == 1]
            return torch.optim.SGD([{"params": matrices, "weight_decay": 0.5}, {"params": vectors}], lr=0.1)

    assert_same(Grouped(NETS["mlp"]()), RAGGED)


def test_bfloat16_autocast() -> None:
    torch.manual_seed(0)
    module = Zoo(NETS["mlp"]()).float()
    one, other = (_with_precision(engine, module, "bf16-mixed") for engine in (Sequential(), Vectorized()))
    torch.testing.assert_close(other, one, rtol=0, atol=0.02)  # a rounding of bfloat16 is 0.004 of a number
    exact = _with_precision(Vectorized(), module, "32-true")
    assert 1e-4 < (other - exact).abs().max() < 0.02


def _with_precision(engine: Engine, module: pl.LightningModule, precision: str) -> Tensor:
    engine.setup(module, WorkerPool(RAGGED, 10), trainer(precision=precision))
    rows = {}
    for updates in engine.run(job_for(module, LocalTraining()), list(RAGGED)):
        assert isinstance(updates, Updates)
        rows.update(zip(updates.workers, updates.delta, strict=True))
    return torch.stack([rows[name] for name in RAGGED])


class Buffered(Zoo):
    """Writes to one buffer in place, and puts another tensor in place of the other."""

    def __init__(self) -> None:
        super().__init__(NETS["linear"]())
        self.register_buffer("seen", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(8))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += len(batch[0])
        self.mean = 0.5 * self.mean + 0.5 * batch[0].mean(dim=0)
        return super().training_step(batch, batch_idx)


def test_buffers_written_to_or_replaced() -> None:
    results = assert_same(Buffered(), RAGGED)
    assert results["a"]["buffers"]["seen"].item() == 12


def test_dropout_differs_between_workers_and_repeats() -> None:
    net = nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    same = {name: Points(1, 8, shuffle=False) for name in ("a", "b", "c")}
    first, again = (by_worker(Vectorized(), Zoo(net), same, LocalTraining()) for _ in range(2))
    assert len({result["loss"] for result in first.values()}) == 3
    torch.testing.assert_close(again, first, rtol=0, atol=0)


DROPPING = {
    "dropout": lambda: nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 3)),
    "alpha dropout": lambda: nn.Sequential(nn.Linear(8, 16), nn.SELU(), nn.AlphaDropout(0.3), nn.Linear(16, 3)),
    "dropout2d": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 1), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(16, 3)
    ),
}


@pytest.mark.parametrize("net", DROPPING)
@pytest.mark.parametrize("size", [2, None])
def test_dropout_draws_what_a_worker_would_draw_alone(net: str, size: int | None) -> None:
    torch.manual_seed(0)
    assert_same(Zoo(DROPPING[net]()), RAGGED, engine=Vectorized(size))


class Noisy(Zoo):
    """Draws in other ways."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        x = x + torch.randn_like(x) + torch.rand(8) + torch.bernoulli(torch.full_like(x, 0.5))
        return super().training_step([x, y], batch_idx)


def test_noise_is_what_a_worker_would_draw_alone() -> None:
    torch.manual_seed(0)
    assert_same(Noisy(NETS["linear"]()), RAGGED)
