from __future__ import annotations

import math

import pytest
import torch
from helpers import assert_equal

from lightning_fed.state import OwnState
from lightning_fed.transforms import ClipNorm
from lightning_fed.wire import Aggregate, GlobalModel, Job, LocalTraining, Updates


def clip(max_norm: float, updates: Updates) -> Updates:
    """Clip at the workers, where neither the job nor anything remembered matters."""
    transform = ClipNorm(max_norm)
    job = Job(0, 0, 0, GlobalModel({"x": torch.zeros(updates.delta.shape[1])}), LocalTraining())
    return transform.worker(updates, job, OwnState(transform.tables).scope())


def updates(delta: torch.Tensor) -> Updates:
    n = len(delta)
    nothing = torch.zeros(n, dtype=torch.float64)
    return Updates(
        *(0, tuple(map(str, range(n))), delta),
        {"mean": torch.full((n,), 9.0)},
        nothing + 1,
        nothing + 1,
        nothing,
        nothing,
    )


def test_each_worker_by_its_norm_over_all_parameters() -> None:
    # Norms 5, 0.5 and 0; with max_norm=1 the first shrinks to a fifth.
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clipped = clip(1.0, updates(delta))
    torch.testing.assert_close(clipped.delta, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))
    assert delta[0].tolist() == [3.0, 4.0]


def test_everything_else_passes() -> None:
    before = updates(torch.ones(2, 12))
    after = clip(1.0, before)
    assert (after.workers, after.buffers, after.weight) == (before.workers, before.buffers, before.weight)
    aggregate = Aggregate(torch.full((3,), 100.0), {})
    assert ClipNorm(1.0).server(aggregate) is aggregate


@pytest.mark.usefixtures("double")
def test_a_row_depends_on_itself_alone() -> None:
    delta = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.1], [1], [3], [9], [0]])
    together = clip(2.0, updates(delta)).delta
    for row in range(5):
        alone = clip(2.0, updates(delta[row : row + 1])).delta[0]
        assert_equal(together[row], alone)
    assert together.norm(dim=1).max() <= 2.0 + 1e-9


def test_a_norm_whose_square_overflows_is_clipped_to_the_bound() -> None:
    clipped = clip(1.0, updates(torch.full((1, 4), 1e30)))
    torch.testing.assert_close(clipped.delta, torch.full((1, 4), 0.5))


@pytest.mark.parametrize(
    ("bound", "delta"),
    [
        (2.25e-4, torch.full((1, 10**6), 3e38)),
        (1e-42, torch.full((1, 1000), 1.0)),
        (1.0, torch.full((1, 1), 0.1).expand(1, 20_000_000)),
        (1.0, torch.linspace(0.1, 3.0, 1000).to(torch.bfloat16).unsqueeze(0)),
        (0.3, torch.full((1, 1000), 6e4, dtype=torch.float16)),
        (1e-20, torch.full((1, 10), 1e280, dtype=torch.float64)),
    ],
    ids=["rounded scale", "subnormal bound", "twenty million", "bfloat16", "float16", "squares beyond float64"],
)
def test_the_bound_holds_for_what_leaves(bound: float, delta: torch.Tensor) -> None:
    """Measured in float64, without a tolerance; and it is not undershot by more than the dtype's own digits."""
    clipped = clip(bound, updates(delta)).delta
    assert clipped.dtype == delta.dtype
    norm = float(clipped.double().norm())
    assert norm <= bound
    subnormal = bound < torch.finfo(delta.dtype).tiny
    assert norm >= bound * (1 - 2 * torch.finfo(delta.dtype).eps - 1e-9) or subnormal


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_bound_that_bounds_nothing_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=rf"max_norm={bound}\) must be positive and finite"):
        ClipNorm(bound)
