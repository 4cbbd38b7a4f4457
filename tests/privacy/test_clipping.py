"""Clipping: numbers by hand, bounds that hold whatever a worker sends, and a bound that follows a quantile."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from private import Seen, began, job, released, updates
from torch import Tensor, nn

from lightning_fed.privacy import DPFTRL, AdaptiveClip, CentralDP, DistributedDP, LocalDP, Noise, Privacy, RecordDP
from lightning_fed.privacy.clipping import clip_scales, joint_norms, with_norms
from lightning_fed.privacy.stochastic_rounding import rounded_norm
from lightning_fed.privacy.units import step_for
from lightning_fed.wire import GlobalModel, Layout, wide

BOUND = 2.0


def clipped(delta: Tensor, bound: float = BOUND) -> Tensor:
    """In float64, so that nothing is rounded but by what is tested."""
    scales = clip_scales(joint_norms(updates(delta)), bound)
    return delta.double() * scales.unsqueeze(1)


def test_by_hand() -> None:
    torch.testing.assert_close(
        clipped(torch.tensor([[3.0, 4.0], [0.6, 0.8], [0.0, 0.0], [0.0, -2.0]])),
        torch.tensor([[1.2, 1.6], [0.6, 0.8], [0.0, 0.0], [0.0, -2.0]], dtype=torch.float64),
        rtol=2e-6,  # a bound is undershot by a millionth, for rounding
        atol=0,
    )


def test_a_short_update_is_left_as_it_is_and_a_zero_one_divides_nothing() -> None:
    assert clip_scales(torch.tensor([0.0, 1.0, 1.99], dtype=torch.float64), BOUND).tolist() == [1.0, 1.0, 1.0]


def test_all_that_is_released_counts_together() -> None:
    """3 in the update and 4 in what an algorithm sends besides are 5."""
    both = updates([[3.0, 0.0]], extra={"control": torch.tensor([[0.0, 4.0]])})
    assert joint_norms(both).tolist() == [5.0]


def test_a_tensor_without_dimensions_is_clipped_like_any_other() -> None:
    parameters = {"scale": nn.Parameter(torch.tensor(30.0)), "w": nn.Parameter(torch.tensor([40.0]))}
    row = Layout(parameters).flatten({n: p.detach() for n, p in parameters.items()}).unsqueeze(0)
    torch.testing.assert_close(clipped(row, 1.0), torch.tensor([[0.6, 0.8]], dtype=torch.float64), rtol=2e-6, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30], ids=str)
def test_squares_that_over_or_underflow(scale: float) -> None:
    delta = torch.tensor([[3.0, 4.0]]) * scale
    assert float(joint_norms(updates(delta))) == pytest.approx(5 * scale, rel=1e-6)
    assert float(clipped(delta, scale).norm()) == pytest.approx(scale, rel=2e-6)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 100_000, 3_000_000])
@pytest.mark.parametrize("kind", ["equal", "random", "heavy"])
def test_the_bound_holds_for_models_of_every_size(size: int, kind: str) -> None:
    """A plain float32 norm of three million equal numbers is 0.3 % too small, so that much would pass."""
    generator = torch.Generator().manual_seed(size)
    drawn = torch.randn(2, size, generator=generator)
    delta = {"equal": torch.full((2, size), 0.1), "random": drawn, "heavy": drawn.exp() ** 2}[kind]
    bound = float(delta[0].double().norm()) / 3
    norms = clipped(delta, bound).norm(dim=1)
    assert float(norms.max()) <= bound
    assert float(norms[0]) == pytest.approx(bound, rel=3e-6)


def test_an_update_just_beyond_the_bound_is_not_taken_for_one_within() -> None:
    for excess in (1e-9, 1e-8, 1e-7, 1e-6):
        delta = torch.full((1, 1000), 0.1)
        bound = float(delta.double().norm()) * (1 - excess)
        assert float(clipped(delta, bound).norm()) <= bound


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_cannot_be_clipped_counts_as_zero(bad: float) -> None:
    """NaN passes every comparison, and Inf times zero is NaN."""
    sent, norms = with_norms(updates([[bad, 1.0], [3.0, 4.0]], extra={"c": torch.tensor([[5.0, 5.0], [0.0, 0.0]])}))
    assert sent.delta.tolist() == [[0.0, 0.0], [3.0, 4.0]]
    assert sent.extra["c"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert norms.tolist() == [0.0, 5.0]


# ---- the bound holds for what is added and what leaves ---------------------------------------------------------------

HARD = {
    "a scale that is subnormal": (1e-6, torch.full((1, 100), 3e38)),
    "a scale that would be rounded up by half": (2.25e-4, torch.full((1, 10**6), 3e38)),
    "a tiny bound": (1e-30, torch.full((1, 1000), 1.0)),
    "subnormal numbers": (1e-43, torch.full((1, 1000), 1e-44)),
    "one huge number": (1.0, torch.eye(1, 1000) * 3e38),
    "twenty million numbers": (1.0, torch.full((1, 1), 0.1).expand(1, 20_000_000)),
    "zeros": (1.0, torch.zeros(1, 10)),
    "a norm beyond float32": (1e3, torch.full((1, 10), 1e300, dtype=torch.float64)),
    "a scale beyond float64": (1e-20, torch.full((1, 10), 1e300, dtype=torch.float64)),
    "squares below float64": (1e-180, torch.full((1, 10), 1e-170, dtype=torch.float64)),
    "bfloat16": (1.0, torch.linspace(0.1, 3.0, 1000).to(torch.bfloat16).unsqueeze(0)),
    "float16": (1e-3, torch.full((1, 1000), 6e4, dtype=torch.float16)),
}
each_hard = pytest.mark.parametrize(("bound", "delta"), HARD.values(), ids=HARD.keys())


def length(delta: Tensor) -> float:
    """Of any numbers, exactly: in float64, and so that squares neither over- nor underflow."""
    largest = float(delta.double().abs().max()) or 1.0
    return float(torch.linalg.vector_norm(delta.double() / largest)) * largest


@each_hard
@pytest.mark.parametrize("z", [0.01, 100.0])
def test_what_is_added_at_the_server_is_within_the_bound(bound: float, delta: Tensor, z: float) -> None:
    promise = CentralDP(clip=bound, noise_multiplier=z, delta=1e-5)
    aggregator = promise.aggregator(began(promise))
    to = replace(job(), model=GlobalModel({"w": torch.zeros(delta.shape[1], dtype=wide(delta.dtype))}))
    total = aggregator.fold([replace(updates([[0.0]]), delta=delta)], to).delta
    assert total.dtype == torch.float64
    assert length(total) <= bound
    assert length(total) >= min(bound, length(delta)) * 0.9995 or float(delta.double().max()) > bound * 1e300


@each_hard
def test_what_leaves_a_worker_is_within_the_bound_but_for_its_noise(
    bound: float, delta: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    Seen(monkeypatch, factor=0.0)
    promise = LocalDP(clip=bound, noise_multiplier=1.0, delta=1e-5)
    left = sent_as_it_is(promise, delta)
    assert length(left) <= bound * (1 + 1e-7) or bound < 1e-38, "rounded to float32 with its noise, which is private"


@each_hard
def test_what_workers_round_is_within_a_bound_of_its_own_but_for_the_noise(
    bound: float, delta: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noise, "skellam", lambda _, size, *__: np.zeros(size, dtype=np.int32))
    if bound > 1e-30:
        promise = DistributedDP(clip=bound, survivors=2, noise_multiplier=1.0, delta=1e-5)
        step = step_for(bound, 1.0, 2)
        assert length(sent_as_it_is(promise, delta)) <= rounded_norm(bound / step, delta.shape[1]) * step


def sent_as_it_is(promise: Privacy, delta: Tensor) -> Tensor:
    """What leaves a worker that has learned this, in at least float32."""
    wider = delta.to(wide(delta.dtype))
    to = replace(job(), model=GlobalModel({"w": torch.zeros(delta.shape[1], dtype=wider.dtype)}))
    return promise.at_worker(
        replace(updates([[0.0]]), delta=wider), promise.job(to, began(promise, dimension=delta.shape[1]))
    ).delta


def test_the_bound_holds_for_all_that_is_sent_together() -> None:
    promise = CentralDP(clip=2.25e-4, noise_multiplier=1.0, delta=1e-5)
    both = updates(torch.full((1, 1000), 3e38), extra={"control": torch.full((1, 1000), -3e38)})
    sums = promise.aggregator(began(promise)).fold([both], job(1000, extra=("control",)))
    norm = length(torch.cat([sums.delta, sums.extra["control"]]))
    assert 2.25e-4 * 0.9995 <= norm <= 2.25e-4


# ---- the bound that moves (Andrew et al. 2021) -----------------------------------------------------------------------


def test_the_noise_that_is_left_for_updates() -> None:
    assert AdaptiveClip(count_std=1.0).update_multiplier(1.0, 100) == pytest.approx(1.1547, abs=5e-5)
    # Both together cost z: (1/z_Δ)² + (1/2σ_b)² = (1/z)².
    left = AdaptiveClip(count_std=3.0).update_multiplier(0.7, 100)
    assert left**-2 + (2 * 3.0) ** -2 == pytest.approx(0.7**-2)
    # A twentieth of the cohort size, as in the paper.
    assert AdaptiveClip().update_multiplier(1.0, 100) == AdaptiveClip(count_std=5.0).update_multiplier(1.0, 7)


@pytest.mark.parametrize("z", [2.0, 2.5])
def test_a_count_that_alone_costs_too_much_is_refused_with_the_fix(z: float) -> None:
    clip = AdaptiveClip(count_std=1.0)
    with pytest.raises(ValueError, match=r"must be less than 2 · count_std = 2; give a larger count_std"):
        clip.update_multiplier(z, 100)
    promise = CentralDP(clip=clip, noise_multiplier=z)
    run = began(promise)
    with pytest.raises(ValueError, match="larger count_std"):
        promise.aggregator(run)


def test_too_many_within_the_bound_lower_it() -> None:
    clip = AdaptiveClip(quantile=0.5, lr=0.2)
    assert clip.moved(1.0, fraction=1.0) == pytest.approx(math.exp(-0.1))
    assert clip.moved(1.0, fraction=0.0) == pytest.approx(math.exp(+0.1))
    assert clip.moved(3.0, fraction=0.5) == 3.0


def test_noise_that_is_huge_beside_the_count_leaves_a_bound() -> None:
    """e^(0.2 · 10⁴) is no float: a step of the bound's logarithm is at most 10 long."""
    clip = AdaptiveClip(quantile=0.5, lr=0.2)
    assert clip.moved(1.0, fraction=-1e4) == pytest.approx(math.exp(10))
    assert clip.moved(1.0, fraction=1e4) == pytest.approx(math.exp(-10))


@pytest.mark.parametrize("initial", [0.1, 10.0])
def test_the_bound_finds_the_quantile(initial: float) -> None:
    """100 workers with lognormal norms, σ_b = 5, η = 0.2, γ = 0.5: within 0.05 of γ after 40 rounds.

    By the path of a round itself. The fraction is that of the distribution below the bound, not of one cohort.
    """
    clip = AdaptiveClip(initial=initial, quantile=0.5, lr=0.2, count_std=5.0)
    promise = CentralDP(clip=clip, noise_multiplier=1.0, insecure_deterministic_noise=True)
    run = began(promise, cohort_size=100)
    generator = torch.Generator().manual_seed(0)
    bounds = []
    for cohort in range(60):
        run.cohort = cohort
        norms = torch.randn(100, generator=generator).exp()
        released(promise, run, updates(torch.stack([norms, torch.zeros(100)], dim=1)), to=job(2))
        bounds.append(run.bound)
    within = [0.5 * (1 + math.erf(math.log(bound) / math.sqrt(2))) for bound in bounds]
    # One round's step is up to 0.1 in the logarithm; what is noise about the quantile is averaged.
    assert abs(sum(within[39:]) / len(within[39:]) - 0.5) < 0.05
    assert all(abs(fraction - 0.5) < 0.15 for fraction in within[39:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 0.0}, "initial=0.0"),
        ({"initial": math.inf}, "initial=inf"),
        ({"quantile": 1.0}, "quantile=1.0"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"count_std": 0.0}, "count_std=0.0"),
    ],
)
def test_settings_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveClip(**options)


@pytest.mark.parametrize(
    "kind", [LocalDP, DPFTRL, partial(DistributedDP, survivors=1), partial(RecordDP, sampling_rate=0.1)]
)
def test_a_bound_that_moves_is_central(kind: Any) -> None:
    with pytest.raises(TypeError, match=r"DP\w*\(clip=AdaptiveClip\(.*\) must be a number"):
        kind(clip=AdaptiveClip(), noise_multiplier=1.0, delta=1e-5)
