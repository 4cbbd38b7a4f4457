"""A row of numbers for each round, as pandas takes it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import TRUSTED, EvaluatedRows, Rows, Scalar, fit, trainer
from spy import Spy, length

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.selection import RandomAvailability
from lightning_fed.server.history import History


class Logging(Scalar):
    """Logs in training and, in every validation, a mean over each worker's rows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", batch[0].mean() / 10)
        self.log("val_loss", batch[0].mean())

    test_step = validation_step


def federation(**options: Any) -> FederatedDataModule:
    return FederatedDataModule({"a": EvaluatedRows([2.0]), "b": EvaluatedRows([4.0, 4.0])}, **options)


def test_a_row_by_hand() -> None:
    """x = 0, workers [2] and [4, 4]: losses 2 and 8, the mean by rows 6; 0.2, 0.4 and their lowest decile 0.22."""
    spy = Spy()
    fed = FederatedModule(Logging(), aggregator=spy)
    fit(fed, federation())
    (row,) = fed.history
    assert row.pop("seconds") > 0
    assert row == {
        "round": 0,
        "epoch": 0,
        "loss": pytest.approx(6.0),
        "cohort_size": 2,
        "examples": 3,
        "dropped": 0,
        "stragglers": 0,
        "bytes_down": length(spy.jobs()),
        "bytes_up": length(spy.updates()),
        "train_loss": pytest.approx(6.0),
        "val_acc": pytest.approx(1 / 3),
        "val_loss": pytest.approx(10 / 3),
        "workers/val_acc/p10": pytest.approx(0.22),
        "workers/val_loss/p90": pytest.approx(3.8),
    }
    whole = ("round", "epoch", "cohort_size", "examples", "dropped", "stragglers", "bytes_down", "bytes_up")
    assert all(type(row[name]) is int for name in whole)
    json.dumps(list(fed.history), allow_nan=False)


def test_it_is_a_sequence_of_flat_rows() -> None:
    fed = FederatedModule(Logging())
    assert (len(fed.history), list(fed.history)) == (0, [])
    with pytest.raises(IndexError):
        fed.history[0]
    fit(fed, federation(rounds_per_epoch=2), max_epochs=3)
    history = fed.history
    assert isinstance(history, Sequence)
    assert [row["round"] for row in history] == list(range(6))
    assert [row["epoch"] for row in history] == [0, 0, 1, 1, 2, 2]
    assert history[-1]["round"] == history[5]["round"] == 5
    assert [row["round"] for row in history[1:4]] == [1, 2, 3]
    assert ["val_acc" in row for row in history] == [False, True] * 3
    with pytest.raises(IndexError):
        history[6]
    for same in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert list(same) == list(history)


def test_pandas_takes_it() -> None:
    pandas = pytest.importorskip("pandas")
    fed = FederatedModule(Logging())
    fit(fed, federation(rounds_per_epoch=2), max_epochs=2)
    frame = pandas.DataFrame(fed.history)
    assert list(frame["round"]) == [0, 1, 2, 3]
    assert list(frame.columns[:3]) == ["round", "epoch", "loss"]
    assert list(frame["val_acc"].isna()) == [True, False, True, False]


def test_who_did_not_come_back_is_counted() -> None:
    class Bad(Rows):
        def train_dataloader(self) -> Any:
            raise OSError("gone")

    data = FederatedDataModule({"a": EvaluatedRows([2.0]), "bad": Bad([1.0])})
    fed = FederatedModule(Logging(), on_worker_error="drop")
    fit(fed, data)
    row = fed.history[0]
    assert (row["cohort_size"], row["dropped"], row["examples"]) == (1, 1, 1)


def test_a_round_from_which_nobody_came_back_has_no_loss() -> None:
    fed = FederatedModule(Logging())
    fit(fed, federation(availability=RandomAvailability(absent=0.999)), limit_val_batches=0)
    row = fed.history[0]
    assert "loss" not in row
    assert (row["cohort_size"], row["dropped"], row["examples"]) == (0, 2, 0)
    json.dumps(list(fed.history), allow_nan=False)


def test_a_metric_with_the_name_of_a_column_stands_beside_it() -> None:
    class Same(Logging):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 7.0)
            self.log("examples", 0.5)
            return super().training_step(batch, batch_idx)

    fed = FederatedModule(Same())
    fit(fed, federation())
    row = fed.history[0]
    assert (row["loss"], row["logged/loss"]) == (pytest.approx(6.0), 7.0)
    assert (row["examples"], row["logged/examples"]) == (3, 0.5)


def test_cohorts_of_one_server_step_are_one_row() -> None:
    fed = FederatedModule(Logging())
    fit(fed, federation(rounds_per_epoch=4), accumulate_grad_batches=2)
    assert [(row["round"], row["cohort_size"], row["examples"]) for row in fed.history] == [(0, 4, 6), (1, 4, 6)]
    assert fed.history[0]["train_loss"] == fed.history[0]["loss"] == pytest.approx(6.0)


# ---- evaluations -----------------------------------------------------------------------------------------------------


def test_an_evaluation_before_a_fit_is_in_no_row_and_one_after_it_in_the_last() -> None:
    fed = FederatedModule(Logging())
    trainer().validate(fed, federation(), verbose=False)
    assert not fed.history
    fit(fed, federation(), max_epochs=2, limit_val_batches=0)
    trainer().test(fed, federation(), verbose=False)
    assert [row.get("val_acc") for row in fed.history] == [None, pytest.approx(1 / 3)]


def test_the_last_evaluation_of_a_round_counts() -> None:
    fed = FederatedModule(Logging())
    run = fit(fed, federation(), max_epochs=2)
    run.validate(fed, FederatedDataModule({"c": EvaluatedRows([9.0])}), verbose=False)
    assert [row["val_acc"] for row in fed.history] == [pytest.approx(1 / 3), pytest.approx(0.9)]


def test_an_evaluation_of_a_checkpoint_is_in_no_row(tmp_path: Path) -> None:
    fed = FederatedModule(Logging())
    run = fit(fed, federation(), max_epochs=3)
    before = list(fed.history)
    run.save_checkpoint(tmp_path / "three.ckpt")
    other = FederatedModule(Logging())
    fit(other, federation(), max_epochs=1)
    lone = list(other.history)
    trainer().validate(
        other, FederatedDataModule({"c": EvaluatedRows([9.0])}), tmp_path / "three.ckpt", False, **TRUSTED
    )
    assert list(other.history) == lone
    assert other.last_evaluation.round == 2
    assert list(fed.history) == before


# ---- fits ------------------------------------------------------------------------------------------------------------


def rounds(fed: FederatedModule) -> list[int]:
    return [row["round"] for row in fed.history]


def test_a_fit_that_begins_anew_deletes_all_rows() -> None:
    fed = FederatedModule(Logging())
    fit(fed, federation(), max_epochs=3)
    fit(fed, federation(), max_epochs=2)
    assert rounds(fed) == [0, 1]


def test_a_fit_that_goes_on_adds_rows() -> None:
    fed, data = FederatedModule(Logging()), federation()
    run = fit(fed, data, max_epochs=2)
    run.fit_loop.max_epochs = 4
    run.fit(fed, data)
    assert rounds(fed) == [0, 1, 2, 3]


@pytest.mark.parametrize(("trained", "expected"), [(None, [2, 3]), (5, [0, 1, 2, 3]), (2, [0, 1, 2, 3]), (1, [2, 3])])
def test_a_fit_that_resumes_begins_with_its_round(tmp_path: Path, trained: int | None, expected: list[int]) -> None:
    fed = FederatedModule(Logging())
    fit(fed, federation(), max_epochs=2).save_checkpoint(tmp_path / "two.ckpt")
    other = FederatedModule(Logging())
    if trained is not None:
        fit(other, federation(), max_epochs=trained)
    trainer(max_epochs=4).fit(other, federation(), ckpt_path=tmp_path / "two.ckpt", **TRUSTED)
    assert rounds(other) == expected
    assert len(other.history) == len(expected)


def test_rounds_that_are_run_again_replace_their_rows() -> None:
    history = History()
    for number in range(5):
        history.append({"round": number, "loss": 1.0}, {"early": 1.0} if number < 4 else {})
    history.begin(2)
    history.append({"round": 2, "loss": 2.0}, {})
    assert list(history) == [
        {"round": 0, "loss": 1.0, "early": 1.0},
        {"round": 1, "loss": 1.0, "early": 1.0},
        {"round": 2, "loss": 2.0},
    ]


def test_a_round_that_fails_is_no_row() -> None:
    class Breaks(pl.Callback):
        def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 1:
                raise ValueError("stop")

    fed = FederatedModule(Logging())
    with pytest.raises(ValueError, match="stop"):
        fit(fed, federation(), max_epochs=3, callbacks=[Breaks()])
    assert rounds(fed) == [0]


# ---- in words, and in memory -----------------------------------------------------------------------------------------


def test_it_reads_as_a_sentence() -> None:
    history = History()
    assert repr(history) == "History: no round has been run yet"
    history.append({"round": 0, "epoch": 0}, {})
    assert repr(history) == "History of 1 round, 0"
    history.append({"round": 1, "epoch": 0, "loss": 0.123456789, "bytes_up": 123456}, {"val_acc": 0.5})
    assert repr(history) == ("History of 2 rounds, 0 to 1; the last: loss 0.12346, bytes_up 123456, val_acc 0.5")


def test_a_round_takes_twelve_bytes_a_number() -> None:
    history = History()
    numbers = dict.fromkeys(["round", "epoch", "loss", "cohort_size", "examples"], 1.0)
    for _ in range(10_000):
        history.append(numbers, {"train_loss": 1.0})
    held = sum(a.buffer_info()[1] * a.itemsize for c in history._columns.values() for a in (c.rows, c.values))
    assert held == 10_000 * 6 * 12
