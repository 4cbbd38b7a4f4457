from __future__ import annotations

import pytest
import torch

from lightning_fed.engines.blocks import block_length
from lightning_fed.wire import GlobalModel, Job, LocalTraining
from lightning_fed.worker.result import LocalResult, stacked


def result(worker: str, **metrics: float) -> LocalResult:
    return LocalResult(worker, 10.0, 0.5, 3, metrics, {"mean": torch.tensor(float(ord(worker)))})


def test_results_become_one_stack() -> None:
    delta = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (updates,) = stacked(0, [result("a", acc=0.1), result("b", acc=0.2)], delta)
    assert (updates.workers, updates.delta.tolist()) == (("a", "b"), delta.tolist())
    assert updates.buffers["mean"].tolist() == [97, 98]
    assert (updates.weight.tolist(), updates.loss.tolist()) == ([10, 10], [0.5, 0.5])
    assert updates.metrics["acc"].tolist() == [0.1, 0.2]


def test_workers_that_logged_other_names_are_stacked_apart_and_in_order() -> None:
    results = [result("a", acc=0.1), result("b"), result("c"), result("d", acc=0.4)]
    first, second, third = stacked(0, results, torch.arange(4.0).unsqueeze(1))
    assert [u.workers for u in (first, second, third)] == [("a",), ("b", "c"), ("d",)]
    assert [u.delta.flatten().tolist() for u in (first, second, third)] == [[0], [1, 2], [3]]
    assert (first.metrics["acc"].tolist(), dict(second.metrics), third.metrics["acc"].tolist()) == ([0.1], {}, [0.4])


def test_nothing_gives_no_stack() -> None:
    assert list(stacked(0, [], torch.zeros(0, 2))) == []


@pytest.mark.parametrize(("megabytes", "expected"), [(0.001, 64), (1, 8), (5, 1), (100, 1)])
def test_a_block_holds_eight_megabytes_and_at_least_one_worker(megabytes: float, expected: int) -> None:
    half = torch.zeros(int(megabytes * 2**20 / 8))  # as much in a buffer as in a parameter
    assert block_length(Job(0, 0, 0, GlobalModel({"w": half}, {"b": half}), LocalTraining())) == expected
