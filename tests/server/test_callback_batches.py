"""What callbacks are given: in evaluations the user's own batch and outputs, in training the cohort.

The oracle is a plain Trainer on the plain module.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import EvaluatedRows, Rows, fit, trainer
from pytorch_lightning.callbacks import BasePredictionWriter, ThroughputMonitor
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.privacy import CentralDP
from lightning_fed.server.loaders import Cohort


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.hooked: list[Any] = []

    def loss(self, batch: Any) -> Tensor:
        x = batch[0].unsqueeze(1)
        return (self.net(x) - 2 * x).square().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "first": batch[0][0].item()}

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.hooked.append((outputs["first"], batch[0].tolist()))

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        return batch[0].sum()

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return 10 * batch[0]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Notes(pl.Callback):
    """Notes what every hook about a batch is given, and whose batch that is."""

    def __init__(self) -> None:
        self.seen: dict[str, list[Any]] = defaultdict(list)
        for hook in ("on_validation_batch", "on_test_batch", "on_predict_batch"):
            setattr(self, f"{hook}_start", lambda *given, h=f"{hook}_start": self.note(h, None, *given[:3]))
            setattr(self, f"{hook}_end", lambda t, m, out, *given, h=f"{hook}_end": self.note(h, out, t, m, given[0]))

    def note(self, hook: str, outputs: Any, trainer: Any, pl_module: Any, batch: Any) -> None:
        (values,) = batch
        self.seen[hook].append((getattr(pl_module, "evaluated_worker", None), values.tolist(), plain(outputs)))


def plain(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        return {name: plain(value) for name, value in outputs.items()}
    return outputs.tolist() if isinstance(outputs, Tensor) else outputs


ROWS = {"a": [1.0, 2.0, 3.0], "b": [4.0], "c": [5.0, 6.0]}


def people() -> FederatedDataModule:
    return FederatedDataModule({name: EvaluatedRows(rows, batch_size=2) for name, rows in ROWS.items()})


@pytest.mark.parametrize("kind", ["validate", "test", "predict"])
def test_they_are_those_of_a_plain_trainer_on_each_workers_data(kind: str) -> None:
    notes = Notes()
    torch.manual_seed(0)
    fed = FederatedModule(Net())
    getattr(trainer(callbacks=[notes]), kind)(fed, people())
    assert fed.evaluated_worker is None
    expected: dict[str, list[Any]] = defaultdict(list)
    for name, rows in ROWS.items():
        plains = Notes()
        getattr(trainer(callbacks=[plains]), kind)(fed.module, EvaluatedRows(rows, batch_size=2))
        for hook, seen in plains.seen.items():
            expected[hook] += [(name, *rest) for _, *rest in seen]
    assert notes.seen == expected
    assert [name for name, *_ in next(iter(notes.seen.values()))] == ["a", "a", "b", "c"]
    if kind == "validate":  # the module's own hook was called by both
        assert fed.module.hooked[:4] == fed.module.hooked[4:] != []


def test_central_data_are_nobodys() -> None:
    notes = Notes()
    data = FederatedDataModule({"a": EvaluatedRows([1.0])}, val=EvaluatedRows([7.0, 8.0], batch_size=1))
    fed = FederatedModule(Net())
    predictions = trainer(callbacks=[notes]).predict(fed, data)
    assert [(worker, values) for worker, values, _ in notes.seen["on_predict_batch_end"]] == [
        (None, [7.0]),
        (None, [8.0]),
    ]
    assert len(predictions or []) == 2
    assert fed.predicted_workers == [None, None]


def test_predictions_are_told_apart_by_worker() -> None:
    fed = FederatedModule(Net())
    for _ in range(2):  # the second one's alone
        predictions: Any = trainer().predict(fed, people())
        pairs = [(name, values.tolist()) for name, values in zip(fed.predicted_workers, predictions, strict=True)]
        assert pairs == [("a", [10.0, 20.0]), ("a", [30.0]), ("b", [40.0]), ("c", [50.0, 60.0])]


class Lists(EvaluatedRows):
    """Several loaders, each with some rows, one in a batch; or with none."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__(rows[0])
        self.rows = rows

    def predict_dataloader(self) -> Any:
        return [DataLoader(TensorDataset(torch.tensor(rows)), batch_size=1) for rows in self.rows]


@pytest.mark.parametrize(
    ("ann", "bob"),
    [
        (([], [1.0]), ([], [2.0, 3.0])),
        (([1.0], []), ([2.0], [])),
        (([], [1.0], []), ([], [], [2.0])),
        (([1.0], [1.5]), ([2.0], [])),
    ],
)
@pytest.mark.parametrize("central", [False, True])
@pytest.mark.filterwarnings("ignore:Total length of `.*` across ranks is zero")
def test_they_are_so_where_a_loader_is_empty(ann: Any, bob: Any, central: bool) -> None:
    fed = FederatedModule(Net())
    data = FederatedDataModule({"ann": Lists(*ann), "bob": Lists(*bob)}, val=Lists(*bob) if central else None)
    predictions: Any = trainer().predict(fed, data)
    values = [[values.item() / 10 for values in loader] for loader in predictions]
    assert values == [list(theirs) if central else [*own, *theirs] for own, theirs in zip(ann, bob, strict=True)]
    assert fed.predicted_workers == [
        [None if central else "ann" if value < 2 else "bob" for value in loader] for loader in values
    ]


def test_a_step_that_user_code_calls_itself_is_no_prediction_of_the_trainers() -> None:
    class Peeking(pl.Callback):
        def on_predict_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
            pl_module.predict_step(batch, 0)

    fed = FederatedModule(Net())
    predictions: Any = trainer(callbacks=[Peeking()]).predict(fed, people())
    assert fed.predicted_workers == ["a", "a", "b", "c"]
    assert len(predictions) == 4
    fed.predict_step([torch.ones(1)], 0)
    assert fed.predicted_workers == ["a", "a", "b", "c"]


class Writes(BasePredictionWriter):
    def __init__(self) -> None:
        super().__init__("batch_and_epoch")
        self.batches: list[Any] = []
        self.epoch: Any = None

    def write_on_batch_end(
        self, trainer: Any, pl_module: Any, prediction: Any, batch_indices: Any, batch: Any, batch_idx: int, _: int
    ) -> None:
        worker = getattr(pl_module, "evaluated_worker", None)
        self.batches.append((worker, prediction.tolist(), batch_indices, batch_idx))

    def write_on_epoch_end(self, trainer: Any, pl_module: Any, predictions: Any, batch_indices: Any) -> None:
        self.epoch = batch_indices


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_writer_of_predictions_is_given_the_places_in_the_workers_data(num_workers: int) -> None:
    class Backwards(EvaluatedRows):
        def predict_dataloader(self) -> Any:
            order = list(reversed(range(len(self.values))))
            return DataLoader(TensorDataset(self.values), batch_size=2, sampler=order, num_workers=num_workers)

    writes = Writes()
    data = FederatedDataModule({name: Backwards(rows) for name, rows in ROWS.items()})
    for _ in range(2):  # the second time from the start
        writes.batches.clear()
        trainer(callbacks=[writes]).predict(FederatedModule(Net()), data)
    assert writes.batches == [
        ("a", [30.0, 20.0], [2, 1], 0),
        ("a", [10.0], [0], 1),
        ("b", [40.0], [0], 2),
        ("c", [60.0, 50.0], [1, 0], 3),
    ]
    assert writes.epoch == [[[2, 1], [0], [0], [1, 0]]]


def test_so_it_is_for_central_data() -> None:
    writes, plains = Writes(), Writes()
    central = EvaluatedRows([7.0, 8.0, 9.0], batch_size=2)
    trainer(callbacks=[writes]).predict(FederatedModule(Net()), FederatedDataModule({"a": Rows([1.0])}, val=central))
    trainer(callbacks=[plains]).predict(Net(), EvaluatedRows([7.0, 8.0, 9.0], batch_size=2))
    assert writes.batches == plains.batches
    assert writes.epoch == plains.epoch == [[[0, 1], [2]]]


def test_a_loader_that_is_one_batch_ahead_gives_each_batch_its_worker() -> None:
    """Lightning fetches a batch early where a loader does not say how many there are."""
    data = FederatedDataModule({"a": EvaluatedRows([1.0]), "b": EvaluatedRows([2.0]), "c": EvaluatedRows([3.0])})
    notes = Notes()
    trainer(callbacks=[notes]).predict(FederatedModule(Net()), data)
    assert [(worker, values) for worker, values, _ in notes.seen["on_predict_batch_start"]] == [
        ("a", [1.0]),
        ("b", [2.0]),
        ("c", [3.0]),
    ]


@pytest.mark.filterwarnings("ignore:predict returned None")
@pytest.mark.filterwarnings("ignore:worker 'a' failed")
def test_a_worker_that_fails_gives_no_outputs() -> None:
    class Fails(Net):
        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            assert 2.0 not in batch[0], "not this one"
            return batch[0]

    notes = Notes()
    data = FederatedDataModule({name: EvaluatedRows(rows, batch_size=1) for name, rows in ROWS.items()})
    fed = FederatedModule(Fails(), on_worker_error="drop")
    predictions: Any = trainer(callbacks=[notes]).predict(fed, data)
    assert [out for *_, out in notes.seen["on_predict_batch_end"]] == [[1.0], None, None, [4.0], [5.0], [6.0]]
    assert fed.predicted_workers == ["a", "a", "a", "b", "c", "c"], "its third batch was fetched one batch early"
    assert len(predictions) == 6


def test_a_callback_logs_with_the_size_of_the_users_batch() -> None:
    """The mean over 6 values is 3.5, that over 4 batches 3.25 or so."""

    class Logs(pl.Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
            self.log("mean", batch[0].mean())

    (results,) = trainer(callbacks=[Logs()]).validate(FederatedModule(Net()), people())
    assert results["mean"] == pytest.approx(3.5)


# ---- training ------------------------------------------------------------------------------------------------------


def test_in_training_the_batch_is_the_cohort() -> None:
    seen: list[Any] = []

    class Looks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            assert batch.workers == ("a", "b", "c")
            with pytest.raises(RuntimeError, match="cohort 0 has a size when its round is over"):
                batch.size(0)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            seen.extend((list(outputs), batch.size(0), batch[0].shape[0], len(batch["x"]), batch.number))
            with pytest.raises(AttributeError, match="the batch of a round is its cohort, which has no 'x'"):
                batch.x  # noqa: B018 - it raises
            with pytest.raises(
                TypeError, match=r"is its cohort, which cannot be unpacked: .* belongs into hooks of the module"
            ):
                _x, _y = batch
            with pytest.raises(IndexError):
                batch.size(1)

    fit(FederatedModule(Net()), people(), callbacks=[Looks()], limit_val_batches=0)
    assert seen == [["loss"], 6, 6, 6, 0]


def columns(folder: Path, module: pl.LightningModule, data: Any) -> tuple[set[str], list[str]]:
    monitor = ThroughputMonitor(batch_size_fn=lambda batch: batch[0].size(0), window_size=3)
    logger = pl.loggers.CSVLogger(folder)
    trainer(max_epochs=5, callbacks=[monitor], logger=logger, num_sanity_val_steps=0).fit(module, data)
    trainer(callbacks=[monitor]).validate(module, data)
    header, *rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    names = header.split(",")
    place = names.index("train/samples") if "train/samples" in names else 0
    return {name for name in names if name.startswith(("train/", "validate/"))}, [
        value for row in rows if (value := row.split(",")[place])
    ]


# Lightning 2.5 counts the batches, each as large as the last one: if that is smaller than the one before, it raises,
# here and in a plain Trainer
counts = pytest.mark.skipif(pl.__version__ < "2.6", reason="Lightning 2.5 does not add up batches of other sizes")
PEOPLE = {
    "alike": lambda: FederatedDataModule({name: EvaluatedRows([1.0, 2.0], batch_size=2) for name in "abc"}),
    "of other sizes": people,
}


@pytest.mark.filterwarnings("ignore:When using the `ThroughputMonitor`")  # that a module has no flops_per_batch
@pytest.mark.parametrize("batches", ["alike", pytest.param("of other sizes", marks=counts)])
def test_throughput_is_measured_with_the_users_own_function(batches: str, tmp_path: Path) -> None:
    ours, samples = columns(tmp_path / "ours", FederatedModule(Net()), PEOPLE[batches]())
    plains, _ = columns(tmp_path / "plain", Net(), EvaluatedRows([1.0, 2.0, 3.0, 4.0], batch_size=1))
    assert ours == plains
    assert "train/device/samples_per_sec" in ours
    assert [float(value) for value in samples] == [6.0, 12.0, 18.0, 24.0, 30.0]


@pytest.mark.filterwarnings("ignore:noise comes from the seed|CentralDP")
def test_under_a_promise_the_workers_count_as_examples() -> None:
    sizes = []

    class Looks(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            sizes.append((batch.size(0), len(batch.workers)))

    data = FederatedDataModule({f"w{i}": EvaluatedRows([1.0, 2.0]) for i in range(6)}, cohort_size=3)
    fed = FederatedModule(Net(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0))
    fit(fed, data, callbacks=[Looks()], limit_val_batches=0, num_sanity_val_steps=0)
    assert sizes
    assert all(size == max(workers, 1) for size, workers in sizes)


def test_cohorts_are_equal_by_what_they_are() -> None:
    assert Cohort(1, 0, ("a",)) == Cohort(1, 0, ("a",)) != Cohort(2, 0, ("a",))
    assert len({Cohort(1, 0, ("a",)), Cohort(1, 0, ("a",))}) == 1
    assert Cohort(1, 0, ())
