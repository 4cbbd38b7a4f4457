"""What a module logs in training stands where a plain Trainer puts it, under the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, fit, trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule


class Logging(Scalar):
    """Logs its loss with some options."""

    options: dict[str, Any]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        self.log("it", loss, **self.options)
        return loss


def logging(options: dict[str, Any], lr: float = 0.0, kind: type[Logging] = Logging) -> Logging:
    """A module that logs; its lr is 0 unless given, so that rounds do not differ."""
    module = kind(lr=lr)
    module.options = options
    return module


class Memory(Logger):
    """Keeps what is drawn."""

    name, version = "memory", 0

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def of(self, name: str) -> list[tuple[int | None, float]]:
        return [(step, metrics[name]) for step, metrics in self.rows if name in metrics]


class Shown(pl.Callback):
    """Notes the names that are shown after a step, and at the end of an epoch."""

    def __init__(self) -> None:
        self.after_step: dict[str, set[str]] = {}
        self.at_end: dict[str, set[str]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.after_step = names_of(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.at_end = names_of(trainer)


def names_of(run: pl.Trainer) -> dict[str, set[str]]:
    return {
        "callbacks": {name for name in run.callback_metrics if name != "loss" and not name.startswith("workers/")},
        "logged": set(run.logged_metrics) - {"loss"},
        "bar": set(run.progress_bar_metrics) - {"loss"},
    }


LEVELS = [(step, epoch) for step in (True, False, None) for epoch in (True, False, None) if epoch or step is not False]
"""What ``on_step`` and ``on_epoch`` may be together: without either a value would be shown nowhere, and is refused."""


@pytest.mark.parametrize(("on_step", "on_epoch"), LEVELS)
@pytest.mark.parametrize("places", [{}, {"prog_bar": True}, {"logger": False}, {"prog_bar": True, "logger": False}])
def test_names_are_those_of_a_plain_trainer(
    engine: Any, on_step: bool | None, on_epoch: bool | None, places: dict[str, Any]
) -> None:
    options = {"on_step": on_step, "on_epoch": on_epoch, **places}
    seen, expected = Shown(), Shown()
    module = logging(options)
    run = fit(FederatedModule(module, engine=engine), FederatedDataModule({"a": Rows([2.0, 4.0])}), callbacks=[seen])
    plain = trainer(callbacks=[expected])
    plain.fit(logging(options), Rows([2.0, 4.0]))
    assert (seen.after_step, seen.at_end) == (expected.after_step, expected.at_end)
    assert names_of(run) == names_of(plain)
    assert run.callback_metrics["it"] == plain.callback_metrics["it"]


def test_without_a_value_of_its_own_on_the_bar_a_module_has_its_loss_there() -> None:
    for options, names in (({}, {"loss"}), ({"prog_bar": True}, {"it"})):
        run = fit(FederatedModule(logging(options)), FederatedDataModule({"a": Rows([2.0])}))
        assert set(run.progress_bar_metrics) == names


def test_an_epochs_mean_is_over_its_rounds_and_by_examples(engine: Any) -> None:
    """The losses of a and b, which has two rows, are 2 and 8; each round trains one of them."""
    memory = Memory()
    data = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0])}, cohort_size=1, rounds_per_epoch=3, seed=1)
    federated = FederatedModule(logging({"on_step": True, "on_epoch": True}), engine=engine)
    run = fit(federated, data, logger=memory, max_epochs=2)
    steps = [value for _, value in memory.of("it_step")]
    assert set(steps) == {2.0, 8.0}
    weights = [1 if value == 2.0 else 2 for value in steps]
    for epoch in (0, 1):
        pairs = list(zip(steps, weights, strict=True))[3 * epoch : 3 * epoch + 3]
        mean = sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs)
        assert memory.of("it_epoch")[epoch] == (3 * epoch + 2, pytest.approx(mean))
    assert run.callback_metrics["it"] == run.callback_metrics["it_epoch"] == memory.of("it_epoch")[1][1]


@pytest.mark.parametrize(
    ("reduce_fx", "cohort", "epoch"),
    [("mean", 6.0, 6.0), ("sum", 18.0, 36.0), ("min", 2.0, 2.0), ("max", 8.0, 8.0), (torch.sum, 18.0, 36.0)],
)
def test_reductions_are_over_steps_workers_and_rounds(engine: Any, reduce_fx: Any, cohort: float, epoch: float) -> None:
    """Worker a has one batch with the loss 2, b two with 8; two rounds."""
    data = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0], batch_size=1)}, rounds_per_epoch=2)
    options = {"on_step": True, "on_epoch": True, "reduce_fx": reduce_fx}
    run = fit(FederatedModule(logging(options), engine=engine), data)
    assert run.callback_metrics["it_step"] == pytest.approx(cohort)
    assert run.callback_metrics["it_epoch"] == pytest.approx(epoch)


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize("reduce_fx", [lambda values: values[0], "median", torch.median])
def test_another_reduction_is_refused_in_the_first_call(engine: Any, reduce_fx: Any) -> None:
    federated = FederatedModule(logging({"reduce_fx": reduce_fx}), engine=engine)
    with pytest.raises(Exception, match=r"worker 'a' failed in round 0: .*reduce_fx=.*use one of mean, sum, min, max"):
        fit(federated, FederatedDataModule({"a": Rows([2.0])}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_step": False, "on_epoch": False}, "on_step=False, on_epoch=False"),
        ({"on_step": False}, "on_step=False, on_epoch=False"),
    ],
)
def test_what_shows_nothing_is_refused_as_in_lightning(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        fit(FederatedModule(logging(options)), FederatedDataModule({"a": Rows([2.0])}))


class Twice(Logging):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.log("it", loss, on_epoch=True)
        return loss


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_two_calls_with_other_arguments_are_refused_as_in_lightning(engine: Any) -> None:
    with pytest.raises(Exception, match=r"worker 'a' failed in round 0: .*called twice in training_step"):
        fit(FederatedModule(logging({}, kind=Twice), engine=engine), FederatedDataModule({"a": Rows([2.0])}))


class InHooks(Scalar):
    """Logs in hooks of a pass and of a step, in two of them under one name."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        self.log("it", 1.0)
        return loss

    def on_train_batch_start(self, *_: Any) -> None:
        self.log("start", 2.0)

    def on_train_batch_end(self, *_: Any) -> None:
        self.log("end", 3.0, on_epoch=True)

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.log("before", 4.0)

    def on_train_epoch_end(self) -> None:
        self.log("it", 5.0)


@pytest.mark.parametrize("engine", ["sequential", "isolated"], indirect=True)
def test_a_hook_logs_as_in_a_plain_trainer(engine: Any) -> None:
    seen, expected = Shown(), Shown()
    run = fit(FederatedModule(InHooks(), engine=engine), FederatedDataModule({"a": Rows([2.0, 4.0])}), callbacks=[seen])
    plain = trainer(callbacks=[expected])
    plain.fit(InHooks(), Rows([2.0, 4.0]))
    assert seen.at_end == expected.at_end
    shown = {name: run.callback_metrics[name].item() for name in names_of(run)["callbacks"]}
    assert shown == {name: value.item() for name, value in plain.callback_metrics.items()}


class Hidden(Logging):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", 1.0, logger=False)
        self.log("drawn", 1.0)


class Validated(Rows):
    def val_dataloader(self) -> Any:
        return self.train_dataloader()


class Differing(Scalar):
    """Shows the values of large numbers in other places than those of small ones."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        value = batch[0].mean()
        is_large = bool(value > 2)
        self.log("bar", value, prog_bar=is_large)
        self.log("hidden", value, logger=not is_large)
        self.log("forked", value, on_epoch=is_large)
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


@pytest.mark.parametrize("values", [(1.0, 3.0), (3.0, 1.0)])
def test_where_workers_differ_their_order_does_not_matter(values: tuple[float, float]) -> None:
    memory = Memory()
    data = FederatedDataModule({f"w{value}": Rows([value]) for value in values})
    run = fit(FederatedModule(Differing()), data, logger=memory)
    names = {name for _, metrics in memory.rows for name in metrics}
    assert set(run.progress_bar_metrics) == {"bar"}
    assert not [name for name in names if "hidden" in name]
    assert {"forked_step", "forked_epoch"} <= names
    assert run.callback_metrics["forked_epoch"] == run.callback_metrics["hidden"] == 2.0


@pytest.mark.parametrize("up_to", [20, 1])
def test_what_is_not_for_loggers_is_drawn_nowhere(up_to: int) -> None:
    memory = Memory()
    data = FederatedDataModule({"a": Validated([2.0]), "b": Validated([4.0])})
    module = logging({"logger": False, "on_step": True, "on_epoch": True}, kind=Hidden)
    run = fit(FederatedModule(module, log_workers_up_to=up_to), data, logger=memory)
    names = {name for _, metrics in memory.rows for name in metrics}
    assert any("drawn" in name for name in names)
    assert not [name for name in names if name.split("/")[-1] in ("it", "it_step", "it_epoch", "val")]
    assert not [name for name in names if "/it/" in name or "/val/" in name]
    assert {"it", "val"} <= set(run.callback_metrics)


def test_callbacks_and_file_names_find_an_epochs_value(tmp_path: Path) -> None:
    """x moves to 3 in a half step each epoch: losses 4.5, 1.125, 0.28125; patience 0 at less than 1."""
    keep = ModelCheckpoint(tmp_path / "kept", monitor="it_epoch", save_on_train_epoch_end=True)
    keep_by_name = ModelCheckpoint(tmp_path / "named", filename="{epoch}-{it_epoch:.3f}", monitor="it")
    stop = EarlyStopping("it_epoch", stopping_threshold=1.0, check_on_train_epoch_end=True)
    module = logging({"on_step": True, "on_epoch": True}, lr=0.5)
    run = fit(
        FederatedModule(module),
        FederatedDataModule({"a": Rows([3.0])}),
        max_epochs=10,
        callbacks=[keep, keep_by_name, stop],
        enable_checkpointing=True,
    )
    assert run.current_epoch == 3
    assert keep.best_model_score == pytest.approx(0.28125)
    assert [path.name for path in (tmp_path / "named").iterdir()] == ["epoch=2-it_epoch=0.281.ckpt"]


def test_accumulated_cohorts_count_each(tmp_path: Path) -> None:
    memory = Memory()
    data = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0])}, rounds_per_epoch=4)
    run = fit(FederatedModule(logging({"on_epoch": True})), data, logger=memory, accumulate_grad_batches=2)
    assert memory.of("it_step") == [(0, pytest.approx(6.0)), (1, pytest.approx(6.0))]
    assert memory.of("it_epoch") == [(1, pytest.approx(6.0))]
    assert run.global_step == 2


class Once(Rows):
    """Raises in every round but the first."""

    rounds = 0

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.rounds += 1
        if self.rounds > 1:
            raise RuntimeError("gone")
        return batch


@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_dropped_counts_in_the_rounds_that_it_took_part_in() -> None:
    """Losses 2 and 8 by 1 and 2 examples in the first round, 2 by 1 in the second: (2 + 16 + 2) / 4."""
    data = FederatedDataModule({"a": Rows([2.0]), "b": Once([4.0, 4.0])}, rounds_per_epoch=2)
    run = fit(FederatedModule(logging({"on_epoch": True}), on_worker_error="drop", engine="sequential"), data)
    assert run.callback_metrics["it_epoch"] == pytest.approx(5.0)
    assert run.callback_metrics["it_step"] == pytest.approx(2.0)


class Saving(pl.Callback):
    """Writes a checkpoint after every round."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("rounds", [5, 6, 7])
def test_an_epoch_that_is_resumed_in_its_middle_has_the_mean_of_all_its_rounds(tmp_path: Path, rounds: int) -> None:
    def parts() -> tuple[FederatedModule, FederatedDataModule]:
        data = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0])}, cohort_size=1, rounds_per_epoch=4, seed=3)
        return FederatedModule(logging({"on_epoch": True}, lr=0.5)), data

    whole = fit(*parts(), max_epochs=2, callbacks=[Saving(tmp_path)]).callback_metrics["it_epoch"]
    rest = trainer(max_epochs=2)
    rest.fit(*parts(), ckpt_path=tmp_path / f"{rounds}.ckpt")
    assert rest.callback_metrics["it_epoch"] == whole


class ReducesByItsData(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("value", batch[0].mean(), reduce_fx="max" if batch[0].mean() > 5 else "mean")
        return super().training_step(batch, batch_idx)


def test_of_two_reductions_under_one_name_the_first_counts_and_that_is_said() -> None:
    """The largest of 8 and 2, and not their mean."""
    says = r"self.log\('value', reduce_fx=...\) is 'max' at one worker and 'mean' at another, and the first of them"
    data = FederatedDataModule({"ann": Rows([8.0]), "bob": Rows([2.0])})
    with pytest.warns(UserWarning, match=says):
        run = fit(FederatedModule(ReducesByItsData(), engine="sequential"), data)
    assert run.callback_metrics["value"].item() == 8.0
