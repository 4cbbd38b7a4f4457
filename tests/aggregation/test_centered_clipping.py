"""Clipping around what the rounds before have come to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cohorts import job, stack
from helpers import Rows, Scalar, assert_equal, fit, trainer
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import Aggregator, CenteredClipping, Median, UniformMean
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Aggregate

ROWS = [[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]]
"""Of the norms 5, 0.5 and 0."""


def of(aggregator: Aggregator[Any], rows: Any, server: Tensors | None = None, **buffers: Tensor) -> Aggregate:
    """One round; what is remembered is changed in ``server``."""
    delta = torch.as_tensor(rows, dtype=torch.get_default_dtype())
    sent = job({"w": torch.zeros(delta.shape[1])}, {name: rows[0] for name, rows in buffers.items()})
    server = {} if server is None else server
    of_round = aggregator.of_round(sent, server)
    aggregate: Aggregate = of_round.finish(
        of_round.fold([stack(delta, [1.0] * len(delta), buffers)], sent), Processes()
    )
    of_round.remember(aggregate, server)
    return aggregate


@pytest.mark.usefixtures("double")
def test_one_iteration_by_hand() -> None:
    """The first is clipped to (0.6, 0.8)."""
    assert of(CenteredClipping(1.0), ROWS).delta.tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.usefixtures("double")
def test_two_iterations_by_hand() -> None:
    """From (0.3, 0.4) they are (2.7, 3.6), clipped to (0.6, 0.8), (0, 0) and (-0.3, -0.4): by (0.1, 0.4/3) further."""
    assert of(CenteredClipping(1.0, iterations=2), ROWS).delta.tolist() == pytest.approx([0.4, 1.6 / 3])


@pytest.mark.usefixtures("double")
def test_a_second_round_of_the_same_updates_is_a_second_iteration() -> None:
    server: Tensors = {}
    one = CenteredClipping(1.0)
    assert of(one, ROWS, server).delta.tolist() == pytest.approx([0.3, 0.4])
    assert_equal(of(one, ROWS, server).delta, of(CenteredClipping(1.0, iterations=2), ROWS).delta)


@pytest.mark.usefixtures("double")
def test_with_a_large_radius_it_is_the_mean() -> None:
    rows = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    server = {"center": torch.randn(20, generator=torch.Generator().manual_seed(1))}
    for iterations in (1, 3):
        aggregator = CenteredClipping(1e6, iterations)
        assert_equal(of(aggregator, rows, server).delta, of(UniformMean(), rows).delta)


@pytest.mark.parametrize("far", [10.0, 1e30])
def test_one_worker_moves_it_by_no_more_than_its_share_of_the_radius(far: float) -> None:
    honest = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    server = {"center": honest.mean(dim=0)}
    lie = torch.cat([honest, torch.full((1, 4), far)])
    truth = torch.cat([honest, server["center"].unsqueeze(0)])
    moved = of(CenteredClipping(0.5), lie, dict(server)).delta - of(CenteredClipping(0.5), truth, dict(server)).delta
    assert moved.norm().item() == pytest.approx(0.5 / 10, rel=1e-5)


def test_of_buffers_the_median_is_taken() -> None:
    buffers = {"mean": torch.tensor([1.0, 2.0, 1e9]), "count": torch.tensor([3, 4, 10**9])}
    aggregate = of(CenteredClipping(1.0), ROWS, **buffers)
    assert (aggregate.buffers["mean"].item(), aggregate.buffers["count"].item()) == (2.0, 4)
    assert of(Median(), ROWS, **buffers).buffers == aggregate.buffers


@pytest.mark.usefixtures("double")
def test_three_rounds_by_hand(tmp_path: Path) -> None:
    """Two honest workers at 1 and one at 100, local steps that reach them, and the radius 1.

    Round 1: all three are clipped to -1 (100 is -100), so v = -1 and x = 1. Round 2: 0 and 0 are 1 away from v, -99 is
    clipped: v = -1 + (1 + 1 - 1)/3 = -2/3, x = 5/3. Round 3: 2/3 and 2/3 are 4/3 away, clipped to 1, the third to -1:
    v = -1/3, x = 2.
    """

    def run(rounds: int, **options: Any) -> tuple[float, Any]:
        federated = FederatedModule(Scalar(), aggregator=CenteredClipping(1.0))
        one = trainer(max_steps=rounds)
        one.fit(federated, FederatedDataModule({"a": Rows([1.0]), "b": Rows([1.0]), "liar": Rows([100.0])}), **options)
        one.save_checkpoint(tmp_path / f"{rounds}.ckpt")
        return federated.module.x.item(), federated.server_state["aggregator.center"]

    whole = [run(rounds) for rounds in (1, 2, 3)]
    assert [x for x, _ in whole] == pytest.approx([1.0, 5 / 3, 2.0])
    resumed = run(3, ckpt_path=tmp_path / "1.ckpt")
    assert resumed[0] == whole[2][0]
    assert torch.equal(resumed[1], whole[2][1])


def test_what_an_algorithm_sends_besides_counts_by_the_same_factors() -> None:
    sent = replace(job({"w": torch.zeros(2)}), extra=("besides",))
    updates = stack(torch.tensor(ROWS), [1.0] * 3)
    updates = replace(updates, extra={"besides": torch.tensor([[10.0, 0.0], [3.0, 0.0], [0.0, 6.0]])})
    aggregator = CenteredClipping(1.0)
    aggregate = aggregator.finish(aggregator.fold([updates], sent), Processes())
    assert aggregate.extra["besides"].tolist() == pytest.approx([5 / 3, 2.0])  # the first counts by a fifth


def test_the_center_is_the_raw_aggregate_and_a_copy() -> None:
    federated = FederatedModule(
        Scalar(), aggregator=CenteredClipping(5.0), server_optimizer=lambda p: torch.optim.SGD(p, lr=0.5)
    )
    fit(federated, FederatedDataModule({"a": Rows([1.0])}), max_steps=1, gradient_clip_val=0.1)
    assert federated.server_state["aggregator.center"].tolist() == [-1.0]
