from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score

from lightning_fed.worker.recorder import Recorder


def recorded(*logs: tuple[Any, dict[str, Any]]) -> float:
    recorder = Recorder()
    for value, options in logs:
        recorder.log("it", value, **options)
    return recorder.results()["it"]


@pytest.mark.parametrize(
    "value",
    [
        2,
        2.0,
        torch.tensor(2),
        torch.tensor([2.0]),
        torch.tensor([[2.0]], requires_grad=True),
        np.float64(2),
        np.float32(2),
        np.int64(2),
    ],
    ids=repr,
)
def test_numbers_of_any_kind(value: Any) -> None:
    assert recorded((value, {})) == 2.0


def test_a_mean_is_weighted_by_batch_sizes() -> None:
    # (1 * 3 + 5 * 1) / 4
    assert recorded((1.0, {"batch_size": 3}), (5.0, {"batch_size": 1})) == 2.0


def test_the_batch_at_hand_gives_the_size_where_none_is_given() -> None:
    recorder = Recorder()
    for size, value in ((3, 1.0), (1, 5.0)):
        recorder.batch_size = lambda size=size: size
        recorder.log("it", value)
    assert recorder.results() == {"it": 2.0}


@pytest.mark.parametrize(
    ("reduce_fx", "expected"),
    [
        ("mean", 4.0),
        ("sum", 12.0),
        ("min", 1.0),
        ("max", 9.0),
        (torch.mean, 4.0),
        (torch.sum, 12.0),
        (torch.min, 1.0),
        (torch.max, 9.0),
        (torch.amin, 1.0),
        (torch.amax, 9.0),
        (min, 1.0),
        (max, 9.0),
        (sum, 12.0),
    ],
)
def test_reductions(reduce_fx: Any, expected: float) -> None:
    assert recorded(*((value, {"reduce_fx": reduce_fx}) for value in (1.0, 9.0, 2.0))) == expected


def test_an_unknown_reduction_names_the_value_and_the_choices() -> None:
    with pytest.raises(ValueError, match=r"log\('it', reduce_fx='median'\).*mean, sum, min, max"):
        recorded((1.0, {"reduce_fx": "median"}))


def test_a_metric_is_computed_once_at_the_end() -> None:
    recorder, metric = Recorder(), MeanMetric()
    for value in (1.0, 5.0, 6.0):
        metric(value)
        recorder.log("it", metric, on_step=True, on_epoch=True, prog_bar=True)
    assert recorder.results() == {"it": 4.0}


def test_a_collection_goes_through_log_dict_with_its_prefix() -> None:
    recorder = Recorder()
    collection = MetricCollection([BinaryAccuracy(), BinaryF1Score()], prefix="train_")
    for prediction, target in (([1, 1], [1, 0]), ([0, 0], [0, 0])):
        collection.update(torch.tensor(prediction), torch.tensor(target))
        recorder.log_dict(collection)
    # 3 of 4 right; one true positive, one false: 2 / 3.
    assert recorder.results() == pytest.approx({"train_BinaryAccuracy": 0.75, "train_BinaryF1Score": 2 / 3})


def test_dictionaries() -> None:
    recorder = Recorder()
    recorder.log_dict({"a": 1.0, "b": torch.tensor(2.0)}, True, batch_size=4)
    recorder.log_dict({"a": 6.0}, True, batch_size=1)
    metric = MeanMetric()
    recorder.log("c", {"x": 3.0, "y": metric}, reduce_fx="max")
    metric.update(7.0)
    assert recorder.results() == {"a": 2.0, "b": 2.0, "c.x": 3.0, "c.y": 7.0}


def test_arguments_of_lightnings_log_are_taken_by_position() -> None:
    assert recorded((1.0, {}), (3.0, {})) == 2.0
    recorder = Recorder()
    for value in (1.0, 3.0):
        recorder.log("it", value, True, False, True, True, "max", False, True, None, True, 8)
    assert recorder.results() == {"it": 3.0}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(2), r"log\('it', ...\): a tensor must have one element"),
        ("three", r"log\('it', ...\): cannot log a str"),
        (None, r"log\('it', ...\): cannot log a NoneType"),
        ([1.0], r"log\('it', ...\): cannot log a list"),
    ],
)
def test_what_cannot_be_logged_is_named(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        recorded((value, {}))


def test_nothing_is_left_after_clear() -> None:
    recorder = Recorder()
    recorder.log_dict({"a": 1.0, "b": MeanMetric()})
    recorder.clear()
    assert recorder.results() == {}


def test_a_logged_value_keeps_no_graph_alive() -> None:
    recorder = Recorder()
    recorder.log("it", torch.ones((), requires_grad=True) * 2, enable_graph=True)
    assert not any(
        isinstance(v, torch.Tensor) and v.requires_grad for pairs in recorder._values.values() for v, _ in pairs
    )
