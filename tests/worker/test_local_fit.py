"""Local training of one worker, against numbers by hand and against a plain Trainer on the same data.

With lr 1 a step of ``Scalar`` on a batch goes from x to the batch's mean, with lr 0.5 half of the way.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score

from lightning_fed.population import Worker
from lightning_fed.wire import GlobalModel, Job, Layout, LocalTraining, Updates
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.result import stacked


def train(
    module: pl.LightningModule,
    data: pl.LightningDataModule,
    epochs: int = 1,
    steps: int | None = None,
    replica: LocalFit | None = None,
) -> Updates:
    parameters = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    job = Job(0, 0, 0, GlobalModel(parameters, dict(module.named_buffers())), LocalTraining(epochs, steps))
    delta = job.model.layout.rows(1, torch.device("cpu"))
    row = {name: rows[0] for name, rows in job.model.layout.unflatten(delta).items()}
    result = (replica or LocalFit(module, trainer())).train(job, Worker("bob", data, None), row)
    (updates,) = stacked(0, [result], delta)
    return updates


def by_name(module: pl.LightningModule, updates: Updates) -> dict[str, Tensor]:
    return Layout(dict(module.named_parameters())).unflatten(updates.delta[0])


def end(updates: Updates) -> float:
    """Where x went from 0."""
    return -updates.delta.item()


def values(updates: Updates) -> dict[str, float]:
    return {name: value.item() for name, value in updates.metrics.items()}


# ---- how long --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "epochs", "steps", "expected"),
    [
        (None, 1, None, 2.0),  # half of the way to the mean 4, then half of the rest
        (None, 2, None, 3.0),
        (None, 1, 2, 3.0),
        (1, 1, 1, 1.0),  # towards the row 2, then towards 6, then towards 2 again
        (1, 1, None, 3.5),
        (1, 5, 3, 2.75),
    ],
)
def test_epochs_and_steps_by_hand(batch_size: int | None, epochs: int, steps: int | None, expected: float) -> None:
    assert end(train(Scalar(lr=0.5), Rows([2.0, 6.0], batch_size), epochs, steps)) == expected


def test_the_delta_is_global_minus_local_and_the_global_model_stays() -> None:
    module = Scalar(lr=0.5, x=10.0)
    updates = train(module, Rows([2.0, 6.0]))
    assert updates.delta.tolist() == [[3.0]]
    assert module.x.item() == 10.0
    assert (updates.workers, updates.weight.tolist()) == (("bob",), [2.0])
    assert updates.loss.tolist() == [(64 + 16) / 2 / 2]


def test_weight_counts_examples_not_batches_and_loss_is_their_mean() -> None:
    # lr 0: the losses of the batches (2, 6) and (5) are (4 + 36) / 4 = 10 and 12.5.
    updates = train(Scalar(lr=0.0), Rows([2.0, 6.0, 5.0], batch_size=2), epochs=3)
    assert (updates.weight.item(), updates.loss.item()) == (3.0, pytest.approx((2 * 10 + 12.5) / 3))


# ---- what training_step may return -----------------------------------------------------------------------------------


class Returns(Scalar):
    def __init__(self, returns: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.returns = returns

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.returns(super().training_step(batch, batch_idx))


@pytest.mark.parametrize(
    "returns",
    [lambda loss: loss, lambda loss: {"loss": loss, "more": [1, 2]}, lambda loss: loss.reshape(1)],
    ids=["tensor", "dict", "one element"],
)
def test_a_loss_in_any_form(returns: Callable[[Tensor], Any]) -> None:
    updates = train(Returns(returns), Rows([2.0, 6.0]))
    assert (end(updates), updates.loss.item()) == (4.0, 10.0)


def test_none_skips_the_step() -> None:
    updates = train(Returns(lambda loss: None), Rows([2.0, 6.0]))
    assert end(updates) == 0.0
    assert math.isnan(updates.loss.item())


@pytest.mark.parametrize(
    ("returns", "error", "message"),
    [
        (lambda loss: {"los": loss}, TypeError, "training_step returned a dict without"),
        (lambda loss: {"loss": None}, TypeError, "training_step returned a dict without"),
        (lambda loss: loss.item(), TypeError, "must return a tensor, a dict with 'loss', or None, not float"),
        (lambda loss: [loss], TypeError, "not list"),
        (lambda loss: loss.expand(3), ValueError, r"loss of shape \(3,\); reduce it to a scalar"),
        (lambda loss: loss.detach(), RuntimeError, "does not require grad"),
    ],
)
def test_anything_else_is_refused(returns: Callable[[Tensor], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(Returns(returns), Rows([2.0, 6.0]))


class WithoutIndex(Scalar):
    def training_step(self, batch: Any) -> Any:
        return super().training_step(batch, 0)


def test_batch_idx_may_be_left_out() -> None:
    assert end(train(WithoutIndex(), Rows([4.0]))) == 4.0


# ---- optimizers and schedulers ---------------------------------------------------------------------------------------


SEEN: list[Any] = []  # outside of the module and its class, since what training changes on them is set back


class Optimized(Scalar):
    """Notes the lr of every step."""

    def __init__(self, configure: Callable[[pl.LightningModule], Any]) -> None:
        super().__init__()
        self.configure = configure
        SEEN.clear()

    @property
    def seen(self) -> list[Any]:
        return SEEN

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen.append(self.optimizers().param_groups[0]["lr"])
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return self.configure(self)


def step_lr(interval: str, frequency: int = 1) -> Callable[[pl.LightningModule], Any]:
    def configure(module: pl.LightningModule) -> Any:
        optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": interval, "frequency": frequency},
        }

    return configure


@pytest.mark.parametrize(
    ("configure", "expected"),
    [
        (step_lr("step"), [1, 1 / 2, 1 / 4, 1 / 8]),
        (step_lr("step", 2), [1, 1, 1 / 2, 1 / 2]),
        (step_lr("epoch"), [1, 1, 1 / 2, 1 / 2]),
        (step_lr("epoch", 2), [1, 1, 1, 1]),
    ],
    ids=["step", "every second step", "epoch", "every second epoch"],
)
def test_schedulers_by_hand(configure: Callable[[pl.LightningModule], Any], expected: list[float]) -> None:
    replica = LocalFit(module := Optimized(configure), trainer())
    for _ in range(2):  # every round starts at the first lr
        module.seen.clear()
        train(module, Rows([2.0, 6.0], batch_size=1), epochs=2, replica=replica)
        assert module.seen == expected


def forms(module: pl.LightningModule) -> dict[str, Any]:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return {
        "optimizer": optimizer,
        "list": [optimizer],
        "dict": {"optimizer": optimizer},
        "two lists": ([optimizer], [scheduler]),
        "dict with scheduler": {"optimizer": optimizer, "lr_scheduler": scheduler},
    }


@pytest.mark.parametrize("form", ["optimizer", "list", "dict", "two lists", "dict with scheduler"])
def test_every_form_that_a_trainer_takes(form: str) -> None:
    assert end(train(Optimized(lambda module: forms(module)[form]), Rows([2.0, 6.0]))) == 2.0


def one_cycle(module: pl.LightningModule) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    steps = module.trainer.estimated_stepping_batches
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("epochs", "steps"), [(2, None), (1, 6), (1, 4)])
def test_one_cycle_spans_the_local_training_as_under_a_plain_trainer(epochs: int, steps: int | None) -> None:
    data = Rows([2.0, 6.0, 4.0, 1.0, 3.0], batch_size=2)
    alone = Optimized(one_cycle)
    run = trainer(max_epochs=epochs) if steps is None else trainer(max_steps=steps)
    run.fit(alone, DataLoader(data.train_dataloader().dataset, batch_size=2))
    rates = alone.seen
    replica = LocalFit(module := Optimized(one_cycle), trainer())
    updates = train(module, data, epochs, steps, replica)
    assert_equal(module.seen, rates)
    assert len(rates) == (steps or 6)
    assert_equal(end(updates), alone.x.item())


def test_lbfgs_calls_the_closure_as_often_as_it_likes() -> None:
    module = Optimized(lambda module: torch.optim.LBFGS(module.parameters(), max_iter=5, line_search_fn="strong_wolfe"))
    updates = train(module, Rows([2.0, 6.0]))
    assert end(updates) == pytest.approx(4.0)


def two(module: pl.LightningModule) -> Any:
    return [torch.optim.SGD(module.parameters(), lr=1.0) for _ in range(2)]


REFUSED = [
    (two, "Optimized.configure_optimizers.. returned 2 optimizers, .* parameter groups"),
    (lambda module: None, "Optimized.configure_optimizers.. returned None; local training needs an optimizer"),
]


@pytest.mark.parametrize(("configure", "message"), REFUSED)
def test_what_local_training_cannot_use_is_refused(configure: Any, message: str) -> None:
    replica = LocalFit(module := Optimized(configure), trainer())
    with pytest.raises(ValueError, match=message):
        replica.check()
    with pytest.raises(ValueError, match=message):
        train(module, Rows([1.0]), replica=replica)


def test_optimizers_and_schedulers_are_the_local_ones() -> None:
    seen: dict[str, Any] = {}

    class Looks(Optimized):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.update(
                optimizer=self.optimizers(),
                raw=self.optimizers(use_pl_optimizer=False),
                scheduler=self.lr_schedulers(),
                own=self.x,
            )
            return super().training_step(batch, batch_idx)

    train(Looks(step_lr("step")), Rows([1.0]))
    assert seen["optimizer"].param_groups[0]["params"] == [seen["own"]]
    assert seen["raw"] is seen["scheduler"].optimizer


def test_momentum_does_not_leak_into_the_next_worker() -> None:
    module = Optimized(lambda module: torch.optim.SGD(module.parameters(), lr=0.5, momentum=0.9))
    replica = LocalFit(module, trainer())
    first, _, third = (
        end(train(module, Rows(rows, batch_size=1), replica=replica)) for rows in ([2.0, 6.0], [90.0], [2.0, 6.0])
    )
    assert first == third == pytest.approx(3.5 + 0.9 * 1.0)  # the second step carries nine tenths of the first


@pytest.mark.usefixtures("double")
def test_several_local_steps_equal_a_plain_trainer_with_adam() -> None:
    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(batch[0].view(-1, 1)).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.01)

    torch.manual_seed(0)
    alone = Net()
    module = copy.deepcopy(alone)
    data = Rows(torch.arange(10.0), batch_size=4)
    trainer(max_epochs=3).fit(alone, data.train_dataloader())
    updates = train(module, data, epochs=3)
    delta = by_name(module, updates)
    for name, p in module.named_parameters():
        assert_equal(p - delta[name], alone.get_parameter(name))
    for name, buffer in updates.buffers.items():
        torch.testing.assert_close(buffer[0], alone.get_buffer(name), rtol=0, atol=0)


# ---- metrics ---------------------------------------------------------------------------------------------------------


class Measured(Scalar):
    def __init__(self) -> None:
        super().__init__(lr=0.0)
        self.mean = MeanMetric()
        self.both = MetricCollection([BinaryAccuracy(), BinaryF1Score()])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (rows,) = batch
        self.log("plain", rows.mean(), prog_bar=True)
        self.mean(rows)
        self.log("mean", self.mean, on_step=True, on_epoch=True)
        self.both(torch.ones_like(rows), (rows > 1).int())
        self.log_dict(self.both)
        return super().training_step(batch, batch_idx)


def test_metrics_are_a_workers_own_and_do_not_leak() -> None:
    replica = LocalFit(module := Measured(), trainer())
    for rows, accuracy in (([2.0, 3.0, 7.0], 1.0), ([0.0, 1.0, 5.0], 1 / 3)):
        metrics = values(train(module, Rows(rows, batch_size=2), epochs=2, replica=replica))
        mean = pytest.approx(sum(rows) / 3)
        f1 = pytest.approx(2 * accuracy / (1 + accuracy))
        assert metrics == {"plain": mean, "mean": mean, "BinaryAccuracy": pytest.approx(accuracy), "BinaryF1Score": f1}
    assert module.mean.update_count == 0


# ---- modules and batches of other kinds ------------------------------------------------------------------------------


class Recurrent(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 3, batch_first=True)
        self.head = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.head(self.lstm(batch[0].unsqueeze(-1))[0][:, -1]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_an_lstm_trains() -> None:
    updates = train(module := Recurrent(), Rows(torch.rand(6, 5), batch_size=2))
    assert all(delta.abs().sum() > 0 for name, delta in by_name(module, updates).items() if "bias_hh" not in name)


class Thing:
    """A batch that Lightning can neither measure nor move."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = torch.stack([row[0] for row in rows])


class ThingRows(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(super().train_dataloader().dataset, batch_size=2, collate_fn=Thing)


class ThingScalar(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("mean", batch.rows.mean(), batch_size=len(batch.rows))
        return super().training_step([batch.rows], batch_idx)


def test_a_batch_whose_size_cannot_be_inferred_trains_if_the_user_gives_it() -> None:
    updates = train(ThingScalar(lr=0.5), ThingRows([2.0, 6.0, 1.0]))
    assert (end(updates), updates.weight.item()) == (1.5, 3.0)
    assert values(updates) == {"mean": pytest.approx(3.0)}


class Unlike(Rows):
    """Batches whose parts have different lengths."""

    def train_dataloader(self) -> Any:
        def collate(rows: list[Any]) -> Any:
            return {"rows": torch.stack([row[0] for row in rows]), "weights": torch.ones(7)}

        return DataLoader(super().train_dataloader().dataset, batch_size=2, collate_fn=collate)


class UnlikeScalar(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step([batch["rows"]], batch_idx)


def test_nobody_is_warned_about_a_batch_size_that_nobody_asked_for() -> None:
    assert end(train(UnlikeScalar(), Unlike([2.0, 6.0]))) == 4.0


def test_a_module_that_cannot_be_copied_is_refused_by_name() -> None:
    module = Scalar()
    module.generator = (i for i in range(3))
    with pytest.raises(ValueError, match=r"Scalar cannot be copied for its workers: .*generator.*out of the module"):
        LocalFit(module, trainer())


def test_all_gather_is_refused_in_words() -> None:
    replica = LocalFit(Scalar(), trainer())
    with pytest.raises(RuntimeError, match="a worker has no other processes"):
        replica.module.all_gather(torch.ones(1))


def test_a_module_may_clip_its_own_gradients() -> None:
    """At 0 the gradient is −10, and becomes −0.5."""

    class Clipping(Scalar):
        def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
            self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")

    assert end(train(Clipping(), Rows([10.0]))) == pytest.approx(0.5)
