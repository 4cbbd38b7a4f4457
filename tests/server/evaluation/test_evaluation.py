"""Evaluation on the workers' own data: pooled as if it were one set, and worker by worker beside it."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, fit, trainer
from pytorch_lightning.loggers.logger import DummyLogger, Logger
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset
from torchmetrics import MaxMetric, MeanSquaredError, Metric, MetricCollection, R2Score
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassPrecision,
)

from lightning_fed import FederatedDataModule, FederatedModule

CLASSES = 3
SIZES = {"tiny": 7, "small": 20, "middle": 40, "large": 301}


class Points(pl.LightningDataModule):
    """Points of three classes, in batches whose last one is ragged."""

    def __init__(self, seed: int, n: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 4, generator=generator)
        self.set = TensorDataset(x, (x[:, :CLASSES] + torch.randn(n, CLASSES, generator=generator)).argmax(dim=1))

    def train_dataloader(self) -> Any:
        return DataLoader(self.set, batch_size=16)

    def val_dataloader(self) -> Any:
        return self.train_dataloader()

    def test_dataloader(self) -> Any:
        return self.train_dataloader()

    def predict_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.set.tensors[0]), batch_size=16)


class Classifier(pl.LightningModule):
    """Logs a plain mean, a sum, and metrics of every kind of state."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, CLASSES)
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.collection = MetricCollection(
            {
                "acc": MulticlassAccuracy(CLASSES),
                "f1": MulticlassF1Score(CLASSES),
                "precision": MulticlassPrecision(CLASSES),
            },
            prefix="each_",
        )
        self.auroc = BinaryAUROC()
        self.mse = MeanSquaredError()

    def forward(self, batch: Any) -> Tensor:
        return self.net(batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, y = self(batch), batch[1]
        self.log("loss", nn.functional.cross_entropy(logits, y), prog_bar=True)
        self.log("rows", float(len(y)), reduce_fx="sum")
        self.accuracy(logits, y)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.collection.update(logits, y)
        self.log_dict(self.collection)
        self.auroc.update(logits[:, 0], (y == 0).int())
        self.mse(logits[:, 0].contiguous(), (y == 0).to(logits.dtype))
        self.log_dict({"auroc": self.auroc, "mse": self.mse})

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Memory(DummyLogger):
    """Keeps what is logged, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics: dict[int, dict[str, float]] = {}
        self.calls: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.setdefault(-1 if step is None else step, {}).update(metrics)
        self.calls.append(metrics)

    def of(self, worker: str) -> dict[str, float]:
        """The last values of one worker, without its name."""
        prefix = f"worker/{worker}/"
        return {k.removeprefix(prefix): v for call in self.calls for k, v in call.items() if k.startswith(prefix)}


@pytest.fixture
def module(double: None) -> Classifier:
    torch.manual_seed(0)
    return Classifier()


def workers(sizes: dict[str, int] = SIZES) -> dict[str, Points]:
    return {name: Points(seed, n) for seed, (name, n) in enumerate(sizes.items())}


def loader(*parts: Points) -> DataLoader[Any]:
    return DataLoader(ConcatDataset([part.set for part in parts]), batch_size=16)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_pooled_metrics_are_those_of_the_data_in_one_place(module: Classifier, stage: str) -> None:
    (plain,) = getattr(trainer(), stage)(module, loader(*workers().values()), verbose=False)
    (pooled,) = getattr(trainer(), stage)(FederatedModule(module), FederatedDataModule(workers()), verbose=False)
    assert set(plain) == {"loss", "rows", "accuracy", "each_acc", "each_f1", "each_precision", "auroc", "mse"}
    assert_equal(pooled, plain)


def test_a_mean_of_ragged_batches_by_hand() -> None:
    class Means(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("mean", batch[0].mean())

    class Validated(Rows):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    memory = Memory()
    data = FederatedDataModule({"bob": Validated([1.0, 2.0, 6.0], batch_size=2), "alice": Validated([11.0])})
    assert trainer(logger=memory).validate(FederatedModule(Means()), data, verbose=False) == [{"mean": 5.0}]
    assert (memory.of("bob"), memory.of("alice")) == ({"mean": 3.0}, {"mean": 11.0})


@pytest.mark.parametrize("order", [list(SIZES), list(SIZES)[::-1]])
def test_a_workers_values_are_those_of_evaluating_it_alone(module: Classifier, order: list[str]) -> None:
    memory = Memory()
    data = {name: workers()[name] for name in order}
    trainer(logger=memory).validate(FederatedModule(module), FederatedDataModule(data), verbose=False)
    for name in order:
        (alone,) = trainer().validate(module, loader(data[name]), verbose=False)
        assert_equal(memory.of(name), alone, f"{name}: ")


def test_a_workers_value_is_not_lost_beside_a_worker_of_another_magnitude() -> None:
    class Squares(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.mse = MeanSquaredError()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mse(batch[0], torch.zeros_like(batch[0]))
            self.log("mse", self.mse)

    class Validated(Rows):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    """It carries the rounding of the pooled sum and no more: 2**20 + 1 is exact in float32, + 1.001 to 1/16."""
    memory = Memory()
    data = FederatedDataModule({"huge": Validated([2.0**10]), "one": Validated([1.0]), "near": Validated([1.001])})
    trainer(logger=memory).validate(FederatedModule(Squares()), data, verbose=False)
    assert memory.of("one") == {"mse": 1.0}
    assert memory.of("near")["mse"] == pytest.approx(1.002, abs=2**20 * 2**-23)


def test_a_worker_for_which_a_metric_is_undefined_does_not_end_the_evaluation() -> None:
    class Explained(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.r2, self.auroc = R2Score(), BinaryAUROC()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.r2.update(batch[0] + 1, batch[0])
            self.auroc.update(batch[0] / 10, (batch[0] > 2).int())
            self.log_dict({"r2": self.r2, "auroc": self.auroc, "mean": batch[0].mean()})

    class Validated(Rows):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    memory, data = Memory(), FederatedDataModule({"one": Validated([1.0]), "two": Validated([2.0, 3.0])})
    (pooled,) = trainer(logger=memory).validate(FederatedModule(Explained()), data, verbose=False)
    # Squared errors 1 + 1 + 1 against squares 1 + 0 + 1 about the mean 2.
    assert pooled == {"r2": pytest.approx(-0.5), "auroc": 1.0, "mean": 2.0}
    assert memory.of("one")["mean"] == 1.0
    assert "r2" not in memory.of("one")
    assert memory.of("two") == {"r2": pytest.approx(-3.0), "auroc": 1.0, "mean": 2.5}


class WithMax(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.largest = MaxMetric()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.largest.update(batch[0])
        self.log("largest", self.largest)
        self.log("mean", batch[0].mean())


def test_a_metric_that_does_not_add_up_is_absent_per_worker_and_exact_pooled() -> None:
    memory = Memory()
    data = workers({"a": 5, "b": 9})
    (pooled,) = trainer(logger=memory).validate(FederatedModule(WithMax()), FederatedDataModule(data), verbose=False)
    assert pooled["largest"] == max(part.set.tensors[0].max().item() for part in data.values())
    assert set(memory.of("a")) == set(memory.of("b")) == {"mean"}


def test_a_torchmetrics_object_that_is_no_part_of_the_module_is_named() -> None:
    class Aside(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            metric = MaxMetric()
            metric.update(batch[0])
            self.log("largest", metric)

    with pytest.raises(ValueError, match="logged as 'largest' is no part of Aside; make it an attribute there"):
        trainer().validate(FederatedModule(Aside()), FederatedDataModule(workers({"a": 5})), verbose=False)


def test_beyond_a_number_of_workers_only_their_distribution_is_drawn(module: Classifier) -> None:
    memory = Memory()
    fed = FederatedModule(module, log_workers_up_to=2)
    trainer(logger=memory).validate(fed, FederatedDataModule(workers({"a": 20, "b": 30, "c": 40})), verbose=False)
    drawn = {name for call in memory.calls for name in call}
    assert {f"workers/loss/{point}" for point in ("min", "p10", "median", "p90", "max")} <= drawn
    assert not any(name.startswith("worker/") for name in drawn)


def test_an_evaluation_leaves_nothing_for_the_next_one(module: Classifier) -> None:
    fed, data, memory = FederatedModule(module), FederatedDataModule(workers({"a": 20, "b": 33})), Memory()
    first = trainer(logger=memory).validate(fed, data, verbose=False)
    of_a = memory.of("a")
    memory.calls.clear()
    assert trainer(logger=memory).validate(fed, data, verbose=False) == first
    assert memory.of("a") == of_a
    state = {id(m): m.update_count for m in module.modules() if isinstance(m, Metric)}
    assert set(state.values()) == {0}


def test_limit_val_batches_counts_pooled_batches(module: Classifier) -> None:
    data, memory = workers({"a": 20, "b": 33, "c": 5}), Memory()  # 2, 3 and 1 batches
    run = trainer(limit_val_batches=3, logger=memory)
    (pooled,) = run.validate(FederatedModule(module), FederatedDataModule(data), verbose=False)
    assert pooled["rows"] == 20 + 16
    assert (memory.of("a")["rows"], memory.of("b")["rows"], memory.of("c")) == (20, 16, {})


@pytest.mark.parametrize("sanity", [0, 2, -1])
def test_a_sanity_check_leaves_no_trace(sanity: int) -> None:
    torch.manual_seed(0)
    memory = Memory()
    data = FederatedDataModule(workers({"a": 20, "b": 33}))
    run = fit(FederatedModule(Classifier()), data, num_sanity_val_steps=sanity, logger=memory, limit_train_batches=1)
    assert memory.of("a")["rows"] == 20
    assert memory.of("b")["rows"] == 33
    assert run.callback_metrics["rows"] == 53
    assert sum("worker/a/rows" in call for call in memory.calls) == 1


@pytest.mark.usefixtures("double")
def test_validation_within_fit_is_that_of_the_new_global_model() -> None:
    torch.manual_seed(0)
    module, memory = Classifier(), Memory()
    data = workers({"a": 20, "b": 33})
    run = fit(FederatedModule(module), FederatedDataModule(data), max_epochs=2, logger=memory)
    (after,) = trainer().validate(module, loader(*data.values()), verbose=False)
    assert_equal({k: v.item() for k, v in run.callback_metrics.items() if k in after}, after)
    (alone,) = trainer().validate(module, loader(data["a"]), verbose=False)
    assert_equal(memory.of("a"), alone)


def test_pooled_and_per_worker_values_are_drawn_at_the_same_step() -> None:
    memory = Memory()
    fit(FederatedModule(Classifier()), FederatedDataModule(workers({"a": 20, "b": 33})), max_epochs=3, logger=memory)
    pooled, own = (
        [step for step, values in memory.metrics.items() if name in values] for name in ("rows", "worker/a/rows")
    )
    assert len(pooled) == 3
    assert own == pooled


# ---- central data ----------------------------------------------------------------------------------------------------


class Several(Points):
    def val_dataloader(self) -> Any:
        return [self.train_dataloader(), DataLoader(TensorDataset(*(t[:9] for t in self.set.tensors)), batch_size=4)]

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> Any:
        return self.val_dataloader()


class Indexed(Classifier):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
        self.log("index", float(dataloader_idx))
        self.log("loss", nn.functional.cross_entropy(self(batch), batch[1]))

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self(batch), batch_idx, dataloader_idx


def test_central_data_gives_what_a_plain_trainer_gives_and_no_workers(module: Classifier) -> None:
    memory, held_out = Memory(), Points(9, 50)
    data = FederatedDataModule(workers(), val=held_out)
    assert trainer(logger=memory).validate(FederatedModule(module), data, verbose=False) == trainer().validate(
        module, held_out, verbose=False
    )
    assert not any(name.startswith("worker") for call in memory.calls for name in call)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_several_central_loaders_are_told_apart(stage: str) -> None:
    torch.manual_seed(0)
    module, held_out = Indexed(), Several(9, 50)
    ours = getattr(trainer(), stage)(
        FederatedModule(module), FederatedDataModule(workers(), val=held_out), verbose=False
    )
    assert ours == getattr(trainer(), stage)(module, held_out, verbose=False)
    assert [metrics[f"index/dataloader_idx_{i}"] for i, metrics in enumerate(ours)] == [0.0, 1.0]


def test_a_step_may_leave_out_the_index() -> None:
    class Plain(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("rows", float(len(batch[1])), reduce_fx="sum")

    data = FederatedDataModule(workers(), val=Several(9, 50))
    first, second = trainer().validate(FederatedModule(Plain()), data, verbose=False)
    assert (first, second) == ({"rows/dataloader_idx_0": 50.0}, {"rows/dataloader_idx_1": 9.0})


# ---- prediction ------------------------------------------------------------------------------------------------------


def test_predictions_are_those_of_a_plain_trainer(module: Classifier) -> None:
    data = workers({"a": 20, "b": 33})
    ours = trainer().predict(FederatedModule(module), FederatedDataModule(data))
    theirs = [batch for part in data.values() for batch in trainer().predict(module, part) or []]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    central = trainer().predict(FederatedModule(module), FederatedDataModule(data, val=Points(9, 50)))
    torch.testing.assert_close(central, trainer().predict(module, Points(9, 50)), rtol=0, atol=0)


def test_predictions_from_several_central_loaders() -> None:
    torch.manual_seed(0)
    module, held_out = Indexed(), Several(9, 50)
    ours: Any = trainer().predict(FederatedModule(module), FederatedDataModule(workers(), val=held_out))
    torch.testing.assert_close(ours, trainer().predict(module, held_out), rtol=0, atol=0)
    assert [index for _, _, index in ours[1]] == [1, 1, 1]


# ---- what Lightning's own step does with a batch ---------------------------------------------------------------------


def test_values_logged_around_a_batch_are_weighted_by_the_users_own_batch() -> None:
    class Around(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return batch[0].mean()

        def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("before", batch[0].mean())

        def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("after", outputs)

    class Validated(Rows):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    data = FederatedDataModule({"a long name": Validated([1.0, 2.0, 6.0]), "bob": Validated([11.0])})
    (metrics,) = trainer().validate(FederatedModule(Around()), data, verbose=False)
    assert metrics == {"before": 5.0, "after": 5.0}


class Logs(pl.Callback):
    """Logs a number around each batch, as callbacks do."""

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        self.log("before", batch[0].mean())

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.log("after", batch[0].mean())


@pytest.mark.parametrize("central", [False, True])
def test_values_that_callbacks_log_are_weighted_by_the_users_own_batch(central: bool) -> None:
    """(3 · 3 + 1 · 11) / 4, whatever the length of a worker's name."""

    class Steps(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    class Validated(Rows):
        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    workers = {"a long name": Validated([1.0, 2.0, 6.0]), "bob": Validated([11.0])}
    held_out = {"val": Validated([1.0, 2.0, 6.0, 11.0], batch_size=3)} if central else {}
    data = FederatedDataModule(workers, **held_out)
    (metrics,) = trainer(callbacks=[Logs()]).validate(FederatedModule(Steps()), data, verbose=False)
    assert metrics == {"before": 5.0, "after": 5.0}


class Thing:
    """A batch that Lightning cannot measure."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = torch.stack([row[0] for row in rows])


def test_only_a_mean_needs_a_batch_size() -> None:
    class Means(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.mse = MeanSquaredError()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.mse(batch.rows, torch.zeros_like(batch.rows))
            self.log("mse", self.mse)
            self.log("sum", batch.rows.sum(), reduce_fx="sum")
            self.log("mean", batch.rows.mean(), batch_size=len(batch.rows))

    class Things(Rows):
        def val_dataloader(self) -> Any:
            return DataLoader(TensorDataset(self.values), batch_size=2, collate_fn=Thing)

    data = Things([1.0, 2.0, 6.0])
    expected = [{"mse": pytest.approx(41 / 3), "sum": 9.0, "mean": 3.0}]
    assert trainer().validate(Means(), data.val_dataloader(), verbose=False) == expected
    assert trainer().validate(FederatedModule(Means()), FederatedDataModule({"a": data}), verbose=False) == expected


def test_loggers_that_a_trainer_has_are_all_written_to(module: Classifier) -> None:
    loggers: list[Logger] = [Memory(), Memory()]
    trainer(logger=loggers).validate(FederatedModule(module), FederatedDataModule(workers({"a": 20})), verbose=False)
    assert all(logger.of("a")["rows"] == 20 for logger in loggers if isinstance(logger, Memory))


class Gone(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        raise OSError("disk gone")


class Unread(Points):
    def val_dataloader(self) -> Any:
        return DataLoader(Gone(), num_workers=2)


def test_a_worker_whose_data_cannot_be_read_leaves_no_process(module: Classifier) -> None:
    data = FederatedDataModule({"bad": Unread(0, 4), **workers()})
    fed = FederatedModule(module, on_worker_error="drop")
    before = set(multiprocessing.active_children())  # of an engine that tests share
    with pytest.warns(UserWarning, match=r"worker 'bad' failed in round 0: its val_dataloader raised OSError"):
        trainer().validate(fed, data, verbose=False)
    assert set(multiprocessing.active_children()) == before
