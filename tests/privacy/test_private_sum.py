"""The server's sum: a denominator that tells nothing, weights that nobody raises, noise by the bound that clipped."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from helpers import assert_equal
from private import Seen, began, job, released, updates
from torch import Tensor

from lightning_fed.aggregation.cohort_sum import CohortSum
from lightning_fed.core.processes import Processes
from lightning_fed.privacy import AdaptiveClip, CentralDP
from lightning_fed.wire import GlobalModel

PROMISE = CentralDP(clip=5.0, noise_multiplier=2.0)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch, factor=0.0)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def test_the_denominator_is_the_expected_number_whoever_replies(silent: Seen) -> None:
    """Ten workers are expected. Two reply: (3, 4) is within the bound, (6, 8) is halved."""
    aggregate = released(PROMISE, began(PROMISE), updates([[3.0, 4.0]]), updates([[6.0, 8.0]]))
    torch.testing.assert_close(aggregate.delta, torch.tensor([0.6, 0.8]), rtol=2e-6, atol=0)


@pytest.mark.usefixtures("double")
def test_a_stack_gives_what_single_updates_give(silent: Seen) -> None:
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)) * 4
    one = released(PROMISE, began(PROMISE), updates(rows))
    many = released(PROMISE, began(PROMISE), *(updates(row.unsqueeze(0)) for row in rows))
    assert_equal(one.delta, many.delta)


def test_the_noise_is_that_of_the_sum(seen: Seen) -> None:
    """z C = 10 on the sum is 1 on the mean over ten workers, however many reply."""
    for stacks in ([], [updates([[0.0, 0.0]])], [updates([[0.0, 0.0]] * 7)]):
        aggregate = released(PROMISE, began(PROMISE), *stacks)
        torch.testing.assert_close(aggregate.delta, torch.tensor([1.0, 1.0]))
    assert [std for _, std, _ in seen.draws] == [10.0] * 3


def test_an_empty_cohort_releases_noise_and_nothing_else() -> None:
    run = began(CentralDP(clip=5.0, noise_multiplier=2.0))
    mean = released(PROMISE, run, to=job(100_000)).delta
    assert abs(float(mean.std()) - 1.0) < 0.02
    assert PROMISE.aggregator(run).always


def test_real_noise_is_as_large_as_the_accountant_believes() -> None:
    run = began(PROMISE)
    size = 100_000
    noise = released(PROMISE, run, updates(torch.zeros(3, size))).delta * 10
    assert abs(float(noise.std()) / (run.noise_multiplier * run.bound) - 1) < 5 / math.sqrt(2 * size)


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("examples", "weight"),
    [(1e9, 1.0), (100.0, 1.0), (50.0, 0.5), (0.0, 0.0), (-1.0, 0.0), (math.nan, 0.0), (math.inf, 1.0), (-math.inf, 0)],
)
def test_no_number_of_examples_counts_for_more_than_one(silent: Seen, examples: float, weight: float) -> None:
    promise = CentralDP(clip=5.0, noise_multiplier=2.0, weight_cap=100)
    sent = updates([[30.0, 40.0]], examples=torch.tensor([examples], dtype=torch.float64))
    aggregate = released(promise, began(promise), sent)
    torch.testing.assert_close(aggregate.delta, weight * torch.tensor([0.3, 0.4]), rtol=2e-6, atol=0)


def test_without_a_cap_all_count_equally(silent: Seen) -> None:
    sent = updates([[3.0, 4.0]], examples=torch.tensor([1e9]).double(), weight=torch.tensor([math.nan]).double())
    torch.testing.assert_close(released(PROMISE, began(PROMISE), sent).delta, torch.tensor([0.3, 0.4]))


@pytest.mark.parametrize("cap", [None, 4])
def test_no_worker_moves_the_sum_by_more_than_the_bound(silent: Seen, cap: int | None) -> None:
    """With and without it; whatever it sends, and however many examples it claims."""
    promise = CentralDP(clip=1.5, noise_multiplier=1.0, weight_cap=cap)
    generator = torch.Generator().manual_seed(0)
    others = updates(torch.randn(4, 1000, generator=generator))
    without = released(promise, began(promise), others).delta.double() * 10
    for row in (
        torch.randn(1, 1000, generator=generator),
        torch.full((1, 1000), 1e30),
        torch.full((1, 1000), 1e-30),
        torch.full((1, 1000), math.nan),
        torch.tensor([[math.inf] + [0.0] * 999]),
    ):
        for examples in (1.0, 1e9, math.nan):
            one = updates(row, examples=torch.tensor([examples], dtype=torch.float64))
            moved = (released(promise, began(promise), others, one).delta.double() * 10 - without).norm()
            assert float(moved) <= 1.5 + 1e-5  # the sum itself is rounded


# ---- what an algorithm sends besides ---------------------------------------------------------------------------------


def test_extra_is_clipped_with_the_update_and_has_noise_of_its_own(seen: Seen) -> None:
    sent = updates([[6.0, 0.0]], extra={"control": torch.tensor([[0.0, 8.0]])})
    aggregate = released(PROMISE, began(PROMISE), sent, to=job(2, extra=("control",)))
    torch.testing.assert_close(aggregate.delta, torch.tensor([0.3 + 1, 1.0]))
    torch.testing.assert_close(aggregate.extra["control"], torch.tensor([1.0, 0.4 + 1]))
    assert [(std, keys[-1]) for _, std, keys in seen.draws] == [(10.0, "delta"), (10.0, "control")]


# ---- the moving bound ------------------------------------------------------------------------------------------------

ADAPTIVE = CentralDP(clip=AdaptiveClip(initial=5.0, quantile=0.5, lr=0.2, count_std=1.0), noise_multiplier=1.0)


def test_noise_belongs_to_the_bound_that_clipped_and_then_the_bound_moves(seen: Seen) -> None:
    run = began(ADAPTIVE)
    z = 1.1547005
    released(ADAPTIVE, run, updates([[3.0, 4.0], [30.0, 40.0]]))
    # One within the bound of 5 and one beyond: ½ − ½, and noise of 1, over ten workers and around ½.
    assert run.bound == pytest.approx(5 * math.exp(-0.2 * (0.1 + 0.5 - 0.5)))
    moved = run.bound
    released(ADAPTIVE, run, updates([[3.0, 4.0]]))
    assert [(pytest.approx(std), keys[-1]) for _, std, keys in seen.draws] == [
        (z * 5, "delta"),
        (1.0, "count"),
        (z * moved, "delta"),
        (1.0, "count"),
    ]


def test_the_count_has_noise_and_one_worker_moves_it_by_a_half(silent: Seen) -> None:
    def moved(*rows: list[float]) -> float:
        run = began(ADAPTIVE)
        released(ADAPTIVE, run, *(updates([row]) for row in rows), to=job(2))
        return math.log(run.bound / 5) / -0.2 * 10

    within, beyond = [3.0, 4.0], [30.0, 40.0]
    assert [moved(within) - moved(), moved(beyond) - moved()] == pytest.approx([0.5, -0.5])


def test_the_bound_of_a_run_stays_when_it_is_a_number(silent: Seen) -> None:
    run = began(PROMISE)
    released(PROMISE, run, updates([[30.0, 40.0]]))
    assert run.bound == 5.0


# ---- buffers and precision -------------------------------------------------------------------------------------------


def test_buffers_stay_as_they_were(silent: Seen) -> None:
    own: dict[str, Tensor] = {"mean": torch.tensor([1.0]), "count": torch.tensor(3)}
    theirs = {"mean": torch.tensor([[99.0]]), "count": torch.tensor([77])}
    to = job(2, buffers=own)
    aggregate = released(PROMISE, began(PROMISE), updates([[3.0, 4.0]], buffers=theirs), to=to)
    torch.testing.assert_close(aggregate.buffers, own, rtol=0, atol=0)
    assert all(aggregate.buffers[name] is not own[name] for name in own)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_precision_is_summed_in_float32(silent: Seen, dtype: torch.dtype) -> None:
    """A hundredth added 4096 times: float16 stops at 16, bfloat16 at 4."""
    to = replace(job(), model=GlobalModel({"w": torch.zeros(1, dtype=dtype)}))
    promise = CentralDP(clip=1.0, noise_multiplier=1.0)
    stacks = [updates(torch.full((64, 1), 0.01)) for _ in range(64)]
    total = released(promise, began(promise), *stacks, to=to).delta * 10
    assert total.dtype == torch.float32
    assert float(total) == pytest.approx(40.96, rel=1e-4)


# ---- several processes -----------------------------------------------------------------------------------------------


def test_of_several_processes_one_adds_the_noise(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each brings to the sum over processes: the noise is in the first one's share, and in no other."""
    shares: list[Tensor] = []
    monkeypatch.setattr(Processes, "sum_", lambda _, tensors: shares.append(tensors[0].clone()))
    for rank in range(3):
        run = began(ADAPTIVE)
        aggregator = ADAPTIVE.aggregator(run)
        aggregator.finish(aggregator.fold([updates([[3.0, 4.0]])], job(2)), Processes(rank, 3))
    z = 1.1547005 * 5
    expected = [[3 + z, 4 + z], [3.0, 4.0], [3.0, 4.0]]
    torch.testing.assert_close(torch.stack(shares), torch.tensor(expected).double(), rtol=2e-6, atol=0)
    assert len(seen.draws) == 2


# ---- a sum of which nobody has seen the parts ------------------------------------------------------------------------


def test_of_a_sum_it_makes_what_it_makes_of_the_updates(silent: Seen) -> None:
    """(3, 4) is within the bound and (6, 8) is halved, so that the sum is (6, 8), with one of two in it."""
    aggregator, to = ADAPTIVE.aggregator(began(ADAPTIVE)), job(2, extra=("control",))
    total = CohortSum(
        torch.tensor([6.0, 8.0]).double(), {}, {"control": torch.tensor([0.5, 0.0]).double()}, 2.0, 1.0, 2
    )
    ours = aggregator.of_sum(total, to)
    both = updates([[3.0, 4.0], [6.0, 8.0]], extra={"control": torch.zeros(2, 2)})
    theirs = aggregator.fold([both], to)
    torch.testing.assert_close(ours.delta, theirs.delta, rtol=2e-6, atol=0)
    assert ours.extra["control"].tolist() == [0.5, 0.0]
    assert float(ours.within) == float(theirs.within) == 0.0


@pytest.mark.parametrize("step", [2.0**-40, 2.0**-10])
def test_noise_lies_on_the_grid_of_the_sum_or_on_a_finer_one(step: float) -> None:
    """Its own is 2⁻¹⁹ for noise of 10, and the sum's a coarser or a finer power of two."""
    aggregator, to = PROMISE.aggregator(began(PROMISE, 4)), job(1000)  # of four, so that / 4 · 4 is exact
    total = CohortSum(torch.full((1000,), 3 * step).double(), {}, {}, 1.0, 1.0, 1, step=step)
    sums = aggregator.of_sum(total, to)
    assert sums.step == min(step, 2.0**-19)
    released_ = aggregator.finish(replace(sums, dtype=torch.float64), Processes()).delta * 4
    assert not (released_ / sums.step).frac().any()
    assert (released_ / sums.step % 2 != 0).any(), "it is noised to the last bit"
