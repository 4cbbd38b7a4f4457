"""A sum of updates gives what the updates give, to aggregators that need no more; others say so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_fed.aggregation import Aggregator, Median, MultiKrum, NormalizedMean, UniformMean, WeightedMean
from lightning_fed.aggregation.cohort_sum import CohortSum
from lightning_fed.core.processes import Processes
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates

MODEL = GlobalModel({"w": torch.zeros(3)}, {"mean": torch.tensor([1.0, -1.0]), "count": torch.tensor(5)})
JOB = Job(0, 0, 0, MODEL, LocalTraining(), extra=("control",))


def updates(weight: torch.Tensor) -> Updates:
    generator = torch.Generator().manual_seed(0)
    one = torch.ones(4, dtype=torch.float64)
    return Updates(
        0,
        tuple("abcd"),
        torch.randn(4, 3, generator=generator),
        {"mean": torch.randn(4, 2, generator=generator), "count": torch.full((4,), 5)},
        weight,
        weight,
        one,
        one,
        extra={"control": torch.randn(4, 3, generator=generator)},
    )


def summed(sent: Updates, weight: torch.Tensor) -> CohortSum:
    changes = sent.buffers["mean"].double() - MODEL.buffers["mean"].double()
    return CohortSum(
        delta=weight @ sent.delta.double(),
        buffers={"mean": weight @ changes},
        extra={"control": weight @ sent.extra["control"].double()},
        weight=float(weight.sum()),
        within=4.0,
        workers=4,
    )


@pytest.mark.parametrize("aggregator", [WeightedMean(), UniformMean()], ids=lambda each: type(each).__name__)
def test_a_mean(aggregator: Aggregator[Any]) -> None:
    weight = torch.tensor([1.0, 2.0, 0.0, 4.0], dtype=torch.float64)
    counts = (weight > 0).double() if aggregator.counts_equally else weight / 4
    sent = updates(weight)
    expected = aggregator.finish(aggregator.fold([sent], JOB), Processes())
    found = aggregator.finish(aggregator.of_sum(summed(sent, counts), JOB), Processes())
    assert aggregator.takes_sums()
    assert torch.allclose(found.delta, expected.delta, atol=1e-6)
    assert torch.allclose(found.extra["control"], expected.extra["control"], atol=1e-6)
    assert torch.allclose(found.buffers["mean"], expected.buffers["mean"], atol=1e-6)
    assert torch.equal(found.buffers["count"], MODEL.buffers["count"])


def test_a_cohort_of_which_nobody_counts_changes_nothing() -> None:
    nothing = torch.zeros(4, dtype=torch.float64)
    found = WeightedMean().finish(WeightedMean().of_sum(summed(updates(nothing), nothing), JOB), Processes())
    assert not found.changes


@pytest.mark.parametrize("aggregator", [Median(), MultiKrum(1), NormalizedMean()], ids=lambda each: type(each).__name__)
def test_one_that_needs_each_update_says_so(aggregator: Aggregator[Any]) -> None:
    assert not aggregator.takes_sums()
    with pytest.raises(ValueError, match=f"{type(aggregator).__name__} needs each worker's update, .* UniformMean"):
        aggregator.of_sum(summed(updates(torch.ones(4, dtype=torch.float64)), torch.ones(4, dtype=torch.float64)), JOB)
