"""Evaluation of workers whose data lie elsewhere: what the Trainer shows is what it shows of the same workers here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from elsewhere import elsewhere
from helpers import assert_equal, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchmetrics import MaxMetric, MeanSquaredError, MetricCollection, PearsonCorrCoef
from torchmetrics.classification import (
    BinaryAUROC,
    MulticlassAccuracy,
    MulticlassF1Score,
)

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedPer
from lightning_fed.callbacks import PredictionWriter
from lightning_fed.privacy import LocalDP
from lightning_fed.server.evaluation.elsewhere import Predicted, StandIn
from lightning_fed.wire import RoundError, WorkerError, encode_share
from lightning_fed.wire.logged import Part
from lightning_fed.wire.share import LoggedShare, MetricState, Options, Share

CLASSES = 3
SIZES = {"tiny": 7, "small": 20, "middle": 40, "large": 101}

pytestmark = pytest.mark.usefixtures("double")


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


class Two(Points):
    def val_dataloader(self) -> Any:
        return [self.train_dataloader(), DataLoader(TensorDataset(*(t[:5] for t in self.set.tensors)), batch_size=4)]

    test_dataloader = val_dataloader


class Net(pl.LightningModule):
    """A classifier that logs plain values of every reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, CLASSES)

    def forward(self, batch: Any) -> Tensor:
        return self.net(batch[0])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self(batch), batch[1])
        self.log("val_loss", loss, prog_bar=True)
        self.log("rows", float(len(batch[1])), reduce_fx="sum", logger=False)
        self.log("least", batch[0].min(), reduce_fx="min")
        self.log("most", batch[0].max(), reduce_fx="max")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Steps(Net):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = nn.functional.cross_entropy(self(batch), batch[1])
        self.log("forked", loss, on_step=True, on_epoch=True)
        self.log("step", loss, on_step=True, on_epoch=False)


class Objects(Net):
    """Logs torchmetrics objects with sums, lists, a maximum, and states that merge in a way of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.collection = MetricCollection([MulticlassAccuracy(CLASSES), MulticlassF1Score(CLASSES)], prefix="each_")
        self.auroc, self.mse, self.largest, self.pearson = BinaryAUROC(), MeanSquaredError(), MaxMetric(), _pearson()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits, y = self(batch), batch[1]
        self.accuracy(logits, y)
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.collection.update(logits, y)
        self.log_dict(self.collection)
        self.auroc.update(logits[:, 0], (y == 0).int())
        self.mse(logits[:, 0].contiguous(), (y == 0).to(logits.dtype))
        self.largest.update(batch[0])
        self.pearson.update(logits[:, 0].contiguous(), logits[:, 1].contiguous())
        self.log_dict({"auroc": self.auroc, "mse": self.mse, "largest": self.largest, "pearson": self.pearson})


def _pearson() -> PearsonCorrCoef:
    return PearsonCorrCoef()


class AtTheEnd(Net):
    """Computes at the end of the epoch, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(CLASSES, average="micro")
        self.auroc = BinaryAUROC()
        self.ends = 0

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.accuracy.update(self(batch), batch[1])
        self.auroc.update(self(batch)[:, 0], (batch[1] == 0).int())

    def on_validation_epoch_end(self) -> None:
        self.log("accuracy", self.accuracy.compute())
        self.log("auroc", self.auroc.compute())
        self.accuracy.reset()
        self.auroc.reset()
        self.ends += 1

    on_test_epoch_end = on_validation_epoch_end


class Indexed(Net):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:  # type: ignore[override]
        loss = nn.functional.cross_entropy(self(batch), batch[1])
        self.log("index", float(dataloader_idx))
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log(f"named_{dataloader_idx}", loss, add_dataloader_idx=False)

    test_step = validation_step


def workers(kind: Callable[[int, int], Points] = Points) -> dict[str, pl.LightningDataModule]:
    return {name: kind(seed, n) for seed, (name, n) in enumerate(SIZES.items())}


def made(kind: type[Net]) -> Net:
    torch.manual_seed(0)
    return kind()


def numbers(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


MODULES = [Net, Steps, Objects, AtTheEnd]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize("kind", MODULES)
def test_all_that_a_trainer_shows_is_as_of_the_same_workers_here(kind: type[Net], stage: str, backwards: bool) -> None:
    here, there = FederatedModule(made(kind)), made(kind)
    run = trainer()
    expected = getattr(run, stage)(here, FederatedDataModule(workers()), verbose=False)
    data, nodes = elsewhere(workers(), backwards=backwards)
    fed, other = FederatedModule(there, engine=nodes), trainer()
    actual = getattr(other, stage)(fed, data, verbose=False)
    # Sums of floats and merged correlations are rounded in another order: 1e-9 in double.
    assert_equal(actual, expected)
    assert_equal(numbers(other.callback_metrics), numbers(run.callback_metrics))
    assert_equal(numbers(other.logged_metrics), numbers(run.logged_metrics))
    assert_equal(fed.last_evaluation.workers, here.last_evaluation.workers)
    assert list(fed.last_evaluation.workers) == list(here.last_evaluation.workers)
    assert fed.last_evaluation.examples == here.last_evaluation.examples
    assert_equal(fed.last_evaluation.metrics, here.last_evaluation.metrics)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_several_loaders_are_told_apart(stage: str) -> None:
    here, run, other = FederatedModule(made(Indexed)), trainer(), trainer()
    expected = getattr(run, stage)(here, FederatedDataModule(workers(Two)), verbose=False)
    data, nodes = elsewhere(workers(Two), loaders=2)
    fed = FederatedModule(made(Indexed), engine=nodes)
    assert_equal(getattr(other, stage)(fed, data, verbose=False), expected)
    assert_equal(numbers(other.callback_metrics), numbers(run.callback_metrics))
    assert_equal(fed.last_evaluation.workers, here.last_evaluation.workers)
    assert fed.last_evaluation.examples == here.last_evaluation.examples
    assert len(nodes.asked) == 1


@pytest.mark.parametrize("algorithm", [None, FedPer(["net.1.*"])])
@pytest.mark.parametrize("kind", MODULES)
def test_a_fit_shows_and_remembers_the_same(kind: type[Net], algorithm: Any) -> None:
    options = {} if algorithm is None else {"algorithm": algorithm}

    def module() -> Net:
        net = made(kind)
        net.net = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, CLASSES))
        return net

    torch.manual_seed(1)
    here, run = FederatedModule(module(), engine="sequential", **options), trainer(max_epochs=2)
    run.fit(here, FederatedDataModule(workers()))
    data, nodes = elsewhere(workers())
    torch.manual_seed(1)
    fed, other = FederatedModule(module(), engine=nodes, **options), trainer(max_epochs=2)
    other.fit(fed, data)
    assert_equal(numbers(other.callback_metrics), numbers(run.callback_metrics))
    assert_equal(fed.last_evaluation.workers, here.last_evaluation.workers)
    assert [asked.workers for asked in nodes.asked] == [["tiny", "small"], list(SIZES), list(SIZES)]
    rows = [{k: v for k, v in row.items() if k not in ("seconds",)} for row in here.history]
    assert_equal([{k: row[k] for k in rows[0]} for row in fed.history], rows)


# ---- how much of it --------------------------------------------------------------------------------------------------


class First(Points):
    """The first batches only."""

    batches = 2

    def val_dataloader(self) -> Any:
        rows = range(min(16 * self.batches, len(self.set)))
        return DataLoader(Subset(self.set, rows), batch_size=16)


@pytest.mark.parametrize(("limit", "bars"), [(2, 2), (50, 4), (1.0, 4), (0.5, 4), (0.4, 4)])
def test_a_limit_counts_the_batches_of_each_worker(limit: int | float, bars: int) -> None:
    big = {"a": Points(0, 64), "b": Points(1, 64), "c": Points(2, 70), "d": Points(3, 40)}
    kept = {name: First(seed, len(part.set)) for seed, (name, part) in enumerate(big.items())}
    for part in kept.values():
        whole = len(list(part.train_dataloader()))
        part.batches = limit if isinstance(limit, int) else int(limit * whole)
    seen: list[Any] = []

    class Watch(pl.Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: int) -> None:
            seen.append(batch)
            assert outputs is None

    (expected,) = trainer().validate(FederatedModule(made(Objects)), FederatedDataModule(kept), verbose=False)
    data, nodes = elsewhere(big)
    run = trainer(limit_val_batches=limit, callbacks=[Watch()])
    assert_equal(run.validate(FederatedModule(made(Objects), engine=nodes), data, verbose=False), [expected])
    assert len(seen) == bars
    assert [name for batch in seen for name in batch.workers] == list(big)
    assert sum(batch.size(0) for batch in seen) == sum(
        len(batch[1]) for p in kept.values() for batch in p.val_dataloader()
    )
    assert [asked.limit for asked in nodes.asked] == [None if limit == 1.0 else limit]


def test_a_limit_of_0_asks_nobody() -> None:
    data, nodes = elsewhere(workers())
    run = trainer(limit_val_batches=0)
    run.fit(FederatedModule(made(Net), engine=nodes), data)
    assert not nodes.asked
    assert "val_loss" not in run.callback_metrics


@pytest.mark.parametrize(
    ("steps", "limit", "asked"),
    [(0, 1.0, []), (1, 1.0, [(1, 1)]), (3, 1.0, [(3, 3)]), (3, 1, [(1, 1)]), (-1, 1.0, [(4, None)]), (-1, 2, [(4, 2)])],
)
def test_a_sanity_check_asks_few_workers_for_few_batches(steps: int, limit: Any, asked: list[Any]) -> None:
    data, nodes = elsewhere(workers(), cohort_size=1, rounds_per_epoch=1)
    run = trainer(num_sanity_val_steps=steps, limit_val_batches=limit, max_epochs=1)
    run.fit(FederatedModule(made(Net), engine=nodes), data)
    checks = [(len(each.workers), each.limit) for each in nodes.asked]
    assert checks[:-1] == asked
    assert checks[-1] == (4, None if isinstance(limit, float) else limit)


def test_a_cohort_of_the_population_is_evaluated() -> None:
    here, (data, nodes) = (
        FederatedDataModule(workers(), eval_cohort_size=2, seed=3),
        elsewhere(workers(), eval_cohort_size=2, seed=3),
    )
    expected = trainer().validate(FederatedModule(made(Net)), here, verbose=False)
    assert_equal(trainer().validate(FederatedModule(made(Net), engine=nodes), data, verbose=False), expected)
    assert len(nodes.asked[0].workers) == 2


def test_central_data_are_evaluated_here() -> None:
    data, nodes = elsewhere(workers(), val=Points(9, 30))
    expected = trainer().validate(made(Net), Points(9, 30), verbose=False)
    assert_equal(trainer().validate(FederatedModule(made(Net), engine=nodes), data, verbose=False), expected)
    assert not nodes.asked


# ---- workers that fail -----------------------------------------------------------------------------------------------


class Gone(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        raise OSError("disk gone")


class Unread(Points):
    def val_dataloader(self) -> Any:
        return DataLoader(Gone())

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> Any:
        return self.val_dataloader()


SAID = r"worker 'bad' failed in round 0: its val_dataloader raised OSError: disk gone"


def with_bad() -> dict[str, pl.LightningDataModule]:
    return {"tiny": Points(0, 7), "bad": Unread(9, 9), "small": Points(1, 20)}


def test_a_worker_that_fails_ends_the_run() -> None:
    data, nodes = elsewhere(with_bad())
    with pytest.raises(WorkerError, match=SAID):
        trainer().validate(FederatedModule(made(Net), engine=nodes), data, verbose=False)


def test_a_worker_that_fails_is_dropped() -> None:
    others = {name: part for name, part in with_bad().items() if name != "bad"}
    expected = trainer().validate(FederatedModule(made(Objects)), FederatedDataModule(others), verbose=False)
    data, nodes = elsewhere(with_bad())
    fed = FederatedModule(made(Objects), engine=nodes, on_worker_error="drop")
    with pytest.warns(UserWarning, match=SAID):
        assert_equal(trainer().validate(fed, data, verbose=False), expected)
    assert [failure.worker for failure in fed.last_evaluation.failures] == ["bad"]
    assert list(fed.last_evaluation.workers) == ["tiny", "small"]


def test_no_worker_is_left() -> None:
    data, nodes = elsewhere({"bad": Unread(9, 9)})
    fed = FederatedModule(made(Net), engine=nodes, on_worker_error="drop")
    with pytest.warns(UserWarning, match=SAID), pytest.raises(RoundError, match="no worker is left"):
        trainer().validate(fed, data, verbose=False)


def share_of(worker: str, **states: Any) -> bytes:
    return encode_share(Share(LoggedShare({worker: {"x": 1.0}}), states={"mse": MetricState(1, states)}))


def value_of(reduction: str = "mean", weight: float = 1.0, loader: int | None = None) -> bytes:
    """Return a worker's message that it has logged a value."""
    part, options = Part(reduction, 1.0, weight), Options({}, loader=loader)
    logged = LoggedShare({"bad": {"val_loss": 1.0}}, {"val_loss": part}, options={"val_loss": options})
    return encode_share(Share(logged, loaders=1))


ZERO = torch.tensor(0.0)
GIGO = {
    "an error of the engine": (WorkerError("bad", 7, "it is away"), "it is away"),
    "no message": (b"nonsense", "its evaluation cannot be taken in: .*no message"),
    "another's": (
        encode_share(Share(LoggedShare({"tiny": {"val_loss": 0.0}}))),
        "'bad' was asked, and 'tiny' answered",
    ),
    "an unknown object": (encode_share(Share(LoggedShare(objects={"a": "b"}))), "object 'b', which .* lacks"),
    "unknown states": (share_of("bad", a=ZERO), "'mse' is not that of the server's Objects"),
    "a list": (share_of("bad", sum_squared_error=[ZERO], total=ZERO), "of another kind than the server's"),
    "complex": (share_of("bad", sum_squared_error=ZERO * 1j, total=ZERO), "is torch.complex"),
    "another shape": (share_of("bad", sum_squared_error=torch.zeros(2), total=ZERO), r"has the shape \[2\]"),
    "a weight": (value_of(weight=102.0), "'val_loss' counts 102 examples, and no worker has more than 101"),
    "examples": (
        encode_share(Share(LoggedShare(examples={"bad": 102}))),
        "it has seen 102 examples, and no worker has more",
    ),
    "a loader": (value_of(loader=1), "'val_loss' is of loader 1, and it gives 1"),
    "many values": (
        encode_share(Share(LoggedShare(pooled={str(n): Part("mean", 0.0, 1.0) for n in range(501)}))),
        "logs 501 values, and 500 are the most",
    ),
    "many words": (
        encode_share(Share(failures=(WorkerError("bad", 0, "x" * 2000),))),
        "x{1000}[^x]",
    ),
}


@pytest.mark.parametrize("answer", GIGO)
def test_what_cannot_be_taken_in_is_its_workers_failure(answer: str) -> None:
    instead, reason = GIGO[answer]
    data, nodes = elsewhere({"tiny": Points(0, 7), "bad": Points(1, 7)}, instead={"bad": instead})
    fed = FederatedModule(made(Objects), engine=nodes, on_worker_error="drop")
    with pytest.warns(UserWarning, match=f"worker 'bad' failed in round 0: .*{reason}"):
        trainer().validate(fed, data, verbose=False)
    assert list(fed.last_evaluation.workers) == ["tiny"]


def test_values_of_one_name_reduce_alike() -> None:
    data, nodes = elsewhere({"tiny": Points(0, 7), "bad": Points(1, 7)}, instead={"bad": value_of(reduction="max")})
    said = "logs 'val_loss' with reduce_fx='max', and worker 'tiny' with 'mean'; give the same"
    with pytest.raises(WorkerError, match=said):
        trainer().validate(FederatedModule(made(Net), engine=nodes), data, verbose=False)


def state_of(shape: list[int]) -> MetricState:
    return MetricState(1, {"sum_squared_error": torch.zeros(shape), "total": ZERO})


ODD = {
    "a reduction": (Net, value_of("max"), "logs 'val_loss' with reduce_fx='max', and worker 'one' with 'mean'"),
    "loaders": (
        Net,
        encode_share(Share(LoggedShare({"bad": {"val_loss": 1.0}}), loaders=2)),
        "gives 2 loaders and worker 'one' gives 1",
    ),
    "a state": (
        Objects,
        encode_share(Share(LoggedShare({"bad": {"x": 1.0}}), states={"mse": state_of([2])}, loaders=1)),
        r"object 'mse' has the shape \[2\], and that of worker 'one' \[\]",
    ),
}


@pytest.mark.parametrize("what", ODD)
def test_one_that_answers_first_does_not_leave_out_the_others(what: str) -> None:
    kind, answer, reason = ODD[what]
    people = {name: Points(seed, 7) for seed, name in enumerate(["bad", "one", "two"])}
    data, nodes = elsewhere(people, instead={"bad": answer})
    fed = FederatedModule(made(kind), engine=nodes, on_worker_error="drop")
    with pytest.warns(
        UserWarning, match=f"worker 'bad' failed in round 0: its evaluation cannot be taken in: .*{reason}"
    ):
        (shown,) = trainer().validate(fed, data, verbose=False)
    assert list(fed.last_evaluation.workers) == ["one", "two"]
    del people["bad"]
    data, nodes = elsewhere(people)
    assert trainer().validate(FederatedModule(made(kind), engine=nodes), data, verbose=False) == [shown]


def test_a_worker_of_which_nothing_comes_back_has_failed() -> None:
    data, nodes = elsewhere(workers())
    fed = FederatedModule(made(Net), engine=nodes, on_worker_error="drop")
    evaluate = nodes.evaluate
    nodes.evaluate = lambda *a: iter(list(evaluate(*a))[:-1])  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="worker 'large' failed in round 0: nothing has come back of its evaluation"):
        trainer().validate(fed, data, verbose=False)


def test_all_workers_give_as_many_loaders() -> None:
    data, nodes = elsewhere({"one": Points(0, 7), "two": Two(1, 20)})
    with pytest.raises(WorkerError, match="it gives 2 loaders and worker 'one' gives 1; let all workers give as many"):
        trainer().validate(FederatedModule(made(Indexed), engine=nodes), data, verbose=False)


class NoVal(Points):
    val_dataloader = pl.LightningDataModule.val_dataloader


def test_a_worker_without_such_a_loader_is_passed_over() -> None:
    expected = trainer().validate(
        FederatedModule(made(Net)), FederatedDataModule({"tiny": Points(0, 7)}), verbose=False
    )
    data, nodes = elsewhere({"none": NoVal(1, 9), "tiny": Points(0, 7)})
    fed = FederatedModule(made(Net), engine=nodes)
    assert_equal(trainer().validate(fed, data, verbose=False), expected)
    assert list(fed.last_evaluation.workers) == ["tiny"]


# ---- the user's code -------------------------------------------------------------------------------------------------


class Hooks(Net):
    """Notes which of its hooks are called, and sees a list of its own."""

    calls: list[str] = []  # noqa: RUF012 - of all copies together

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def on_validation_epoch_start(self) -> None:
        Hooks.calls.append("start")

    def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert not isinstance(batch, StandIn)
        assert isinstance(self.trainer.datamodule, Points)
        Hooks.calls.append("batch")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        assert not self.training
        assert self.trainer.current_epoch == self.trainer.global_step
        self.seen.append(float(batch[0].sum()))
        super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        Hooks.calls.append(f"end of {len(self.seen)}")

    def configure_callbacks(self) -> Any:
        Hooks.calls.append("callbacks")
        return []


def test_hooks_about_batches_are_called_there_and_those_about_all_of_them_here() -> None:
    Hooks.calls.clear()
    data, nodes = elsewhere({"a": Points(0, 17), "b": Points(1, 3)})
    with pytest.warns(
        UserWarning, match=r"steps where the data are have filled Hooks\.seen, which on_validation_epoch"
    ):
        trainer().validate(FederatedModule(made(Hooks), engine=nodes), data, verbose=False)
    assert Hooks.calls == ["callbacks", "start", "start", "batch", "batch", "start", "batch", "end of 0"]


class Logs(pl.Callback):
    """Logs a number around each batch, as callbacks do."""

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.log("around", float(len(batch.workers[0])))


def test_values_that_callbacks_log_are_weighted_by_the_workers_examples() -> None:
    data, nodes = elsewhere({"a": Points(0, 17), "four": Points(1, 3)})
    run = trainer(callbacks=[Logs()])
    run.validate(FederatedModule(made(Net), engine=nodes), data, verbose=False)
    assert float(run.callback_metrics["around"]) == pytest.approx((17 * 1 + 3 * 4) / 20)


def test_a_stand_in_says_what_it_is() -> None:
    batch = StandIn(["bob"])
    assert len(batch) == batch.shape[0] == batch[0].size(0) == 1
    with pytest.raises(AttributeError, match="no 'mean' of a batch: no batch of a worker whose data lie elsewhere"):
        batch.mean()
    with pytest.raises(TypeError, match="no batch of a worker"):
        _, _ = batch
    assert repr(StandIn(["a", "b"])) == "StandIn(2 workers)"


def test_nothing_stays_on_the_module_or_the_data_there() -> None:
    class Noted(Points):
        def setup(self, stage: str) -> None:
            self.stages = [*getattr(self, "stages", []), stage]

        def teardown(self, stage: str) -> None:
            del self.set

    data, nodes = elsewhere({"a": Noted(0, 17)})
    run, fed = trainer(), FederatedModule(made(Objects), engine=nodes)
    run.fit(fed, data)
    first = numbers(run.callback_metrics)
    assert_equal({k: v for k, v in numbers(run.callback_metrics).items() if k in first}, first)
    (again,) = run.validate(fed, data, verbose=False)
    assert_equal({k: again[k] for k in again if k in first}, {k: first[k] for k in again if k in first})
    assert_equal(dict(nodes._module.state_dict()), dict(fed.module.state_dict()))
    assert all(not part.update_count for part in nodes._module.modules() if hasattr(part, "update_count"))


# ---- callbacks, checkpoints, predictions -----------------------------------------------------------------------------


def test_callbacks_monitor_what_comes_back(tmp_path: Path) -> None:
    data, nodes = elsewhere(workers())
    best = pl.callbacks.ModelCheckpoint(tmp_path / "best", monitor="val_loss", filename="{epoch}-{val_loss:.3f}")
    stop = pl.callbacks.EarlyStopping("val_loss", min_delta=100.0, patience=1)
    run = trainer(
        max_epochs=9, callbacks=[best, stop], enable_checkpointing=True, logger=True, default_root_dir=tmp_path
    )
    fed = FederatedModule(made(Net), engine=nodes)
    run.fit(fed, data)
    assert run.current_epoch == 2
    assert "val_loss=" in best.best_model_path
    assert_equal(float(best.best_model_score), run.callback_metrics["val_loss"].item())
    other = FederatedModule(made(Net), engine=nodes)
    again = trainer(callbacks=[best, stop], enable_checkpointing=True)
    (loaded,) = again.validate(other, data, ckpt_path=best.best_model_path, verbose=False)
    assert_equal(loaded["val_loss"], float(best.best_model_score))


@pytest.mark.parametrize("limit", [1.0, 1])
def test_predictions_are_written_where_the_data_are(tmp_path: Path, limit: Any) -> None:
    here = PredictionWriter(tmp_path / "here.pt")
    trainer(callbacks=[here]).predict(FederatedModule(made(Net)), FederatedDataModule(workers()))
    data, nodes = elsewhere(workers(), folder=tmp_path)
    fed = FederatedModule(made(Net), engine=nodes)
    expected = torch.load(tmp_path / "here.pt")
    results = trainer(limit_predict_batches=limit).predict(fed, data)
    if isinstance(limit, float):
        assert results == [Predicted(name, -(-n // 16), n) for name, n in SIZES.items()]
        assert fed.predicted_workers == list(SIZES)
    else:
        assert results == [[Predicted(name, 1, min(n, 16)) for name, n in SIZES.items()]]
    for name in SIZES:
        (written,) = torch.load(tmp_path / name / "predictions.pt").items()
        whole = expected[name][: None if isinstance(limit, float) else 1]
        assert written[0] == name
        assert_equal(written[1], whole)


def test_a_worker_that_fails_writes_no_predictions(tmp_path: Path) -> None:
    data, nodes = elsewhere(with_bad(), folder=tmp_path)
    fed = FederatedModule(made(Net), engine=nodes, on_worker_error="drop")
    with pytest.warns(UserWarning, match="worker 'bad' failed in round 0: its predict_dataloader raised OSError"):
        trainer().predict(fed, data)
    assert sorted(path.parent.name for path in tmp_path.rglob("predictions.pt")) == ["small", "tiny"]


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_population_and_engine_go_together() -> None:
    data, nodes = elsewhere(workers())
    with pytest.raises(ValueError, match="the data of Elsewhere lie on other machines, which engine=Auto does not"):
        trainer().validate(FederatedModule(made(Net)), data, verbose=False)
    with pytest.raises(ValueError, match="engine=Nodes trains workers whose data lie on other machines, and those of"):
        trainer().validate(FederatedModule(made(Net), engine=nodes), FederatedDataModule(workers()), verbose=False)


def test_a_promise_refuses_evaluation_of_the_workers_own_data(tmp_path: Path) -> None:
    promise = LocalDP(clip=1.0, noise_multiplier=1.0)
    data, nodes = elsewhere(workers(), folder=tmp_path)
    with pytest.raises(ValueError, match="would release what no noise covers"):
        trainer().validate(FederatedModule(made(Net), engine=nodes, privacy=promise), data, verbose=False)
    assert not nodes.asked
    results = trainer().predict(FederatedModule(made(Net), engine=nodes, privacy=promise), data)
    assert results == [Predicted(name, 0, None) for name in SIZES]


def test_layers_that_lie_elsewhere_are_not_here() -> None:
    _, nodes = elsewhere(workers())
    fed = FederatedModule(made(Net), engine=nodes, algorithm=FedPer(["net.*"]))
    with pytest.raises(RuntimeError, match="what FedPer leaves to worker 'tiny' lies where its data are"):
        fed.personal_module("tiny")
