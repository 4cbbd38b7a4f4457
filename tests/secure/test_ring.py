"""Numbers in the ring: sums are exact, errors are as small as said, and nothing wraps around."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_fed.secure.ring import Ring


@pytest.mark.parametrize(
    ("clip", "workers", "bits", "step"),
    [
        (1.0, 10, 32, 4.656612912108671e-09),
        (1.0, 1000, 32, 4.6566164466104954e-07),
        (1.0, 100, 20, 1.9080328181644724e-04),
        (1.0, 100, 16, 3.067484662576687e-03),
    ],
)
def test_steps(clip: float, workers: int, bits: int, step: float) -> None:
    assert Ring(clip, workers, bits).step == pytest.approx(step, rel=1e-15)


@pytest.mark.parametrize("bits", [16, 20, 24, 32])
@pytest.mark.parametrize("workers", [2, 3, 7, 10, 100, 1000])
def test_all_at_the_bound_do_not_wrap(workers: int, bits: int) -> None:
    """Every worker has the largest number, and even if every one is rounded away from zero the sum is right."""
    ring = Ring(3.0, workers, bits)
    for sign in (1.0, -1.0):
        for uniform in (0.0, math.nextafter(1.0, 0.0)):
            word = ring.encode(torch.full((1, 1), sign * 3.0), torch.full((1, 1), uniform, dtype=torch.float64))[0]
            total = torch.zeros(1, dtype=torch.int32)
            for _ in range(workers):
                total += word
            off = abs(float(ring.decode(total)) - sign * 3.0 * workers) / ring.step
            assert off <= workers + 1e-3


def test_what_is_beyond_the_bound_is_cut() -> None:
    """Nobody sends such a vector, but one that does takes no more room than others."""
    ring = Ring(1.0, 4, 16)
    words = ring.encode(torch.tensor([[1e30, -1e30, 5.0]]), torch.full((1, 3), 0.5))
    assert words.tolist() == [[ring.units + 1, -ring.units - 1, ring.units + 1]]


def test_the_mean_over_roundings_is_the_number() -> None:
    ring, generator = Ring(1.0, 100, 8 + 4), torch.Generator().manual_seed(0)
    numbers = torch.tensor([0.3, -0.7, 0.05, 0.0])
    uniform = torch.rand(100_000, 4, generator=generator, dtype=torch.float64)
    words = ring.encode(numbers.expand(100_000, 4), uniform)
    means = words.to(torch.float64).mean(dim=0) * ring.step
    assert torch.allclose(means, numbers.to(torch.float64), atol=4 * ring.step / math.sqrt(12 * 100_000) * 2)


@pytest.mark.parametrize(("bits", "workers"), [(16, 10), (20, 100), (24, 1000)])
def test_the_error_is_the_one_that_is_told(bits: int, workers: int) -> None:
    """One vector of normal numbers: ``d step² / (6 clip²)``, within 2 % (its rounding is averaged over 10⁵ numbers)."""
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(1, 100_000, generator=generator, dtype=torch.float64)
    numbers *= 2.0 / numbers.norm()
    ring = Ring(2.0, workers, bits)
    if ring.error(100_000) > 0.01:
        pytest.skip("a step is no longer small beside the numbers")
    decoded = ring.decode(ring.encode(numbers, torch.rand(1, 100_000, generator=generator, dtype=torch.float64))[0])
    found = float((decoded - numbers[0]).square().sum() / numbers.square().sum())
    assert found == pytest.approx(ring.error(100_000), rel=0.02)


def test_higher_bits_mean_nothing() -> None:
    ring = Ring(1.0, 10, 20)
    words = ring.encode(torch.tensor([[-1.0, 0.5]]), torch.zeros(1, 2))[0]
    assert torch.equal(ring.decode(words + 5 * 2**20), ring.decode(words))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"clip": 0.0}, "clip"),
        ({"workers": 0}, "workers"),
        ({"bits": 10}, r"bits=10\) must be a multiple of 4"),
        ({"bits": 40}, "bits"),
        ({"bits": 8, "workers": 64}, "has no unit left for each of 64 workers"),
    ],
)
def test_what_cannot_be_a_ring(options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ring(**{"clip": 1.0, "workers": 10, **options})  # type: ignore[arg-type]


# ---- a step that something else decides ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clip", "workers", "bits", "step"),
    [
        (1.0, 10, 16, 2.0**-11),  # of 3275 units, 2048
        (3.0, 10, 16, 2.0**-10),  # 3072
        (1.0, 7, 8, 2.0**-4),  # of 17 units, 16
        (1.0, 1, 8, 2.0**-6),  # of 126 units, 64
    ],
)
def test_a_step_that_is_a_power_of_two_by_hand(clip: float, workers: int, bits: int, step: float) -> None:
    ring = Ring.of_power_of_two(clip, workers, bits)
    assert ring.step == step
    assert ring.units == math.floor(clip / step)
    finest = Ring(clip, workers, bits).step
    assert finest <= ring.step < 2 * finest


def test_it_is_refused_where_so_many_of_it_have_no_room() -> None:
    Ring(1.0, 10, 16, grid=1 / 3275)
    with pytest.raises(
        ValueError, match=r"Ring\(bits=16\) has 3275 units for each of 10 workers, and clip=1 is 3276 of"
    ):
        Ring(1.0, 10, 16, grid=1 / 3276)


@pytest.mark.parametrize("bits", [16, 32])
def test_multiples_of_the_step_are_exact_and_wrap_around(bits: int) -> None:
    ring = Ring(1.0, 10, bits, grid=0.25)
    rows = torch.tensor([[0.25, -7.0, 2.0**13, 0.0], [-0.25, 7.0, 0.0, 1e3]], dtype=torch.float64)
    words = ring.exact(rows)
    assert words[0].tolist() == [1, -28, 2**15, 0], "not clipped"
    total = ring.decode(words.sum(dim=0, dtype=torch.int32))
    assert total.tolist() == [0.0, 0.0, -(2.0**13) if bits == 16 else 2.0**13, 1e3]


def test_what_is_shortened_is_within_the_clip_after_rounding() -> None:
    """4 numbers, each moved by less than ⅛: by less than ¼ together."""
    ring = Ring(1.0, 10, 8, grid=0.125)
    assert ring.within(4) == 0.75
    rows = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows *= ring.within(4) / rows.norm(dim=1, keepdim=True)
    for extreme in (torch.zeros_like(rows), torch.full_like(rows, 1 - 1e-12), torch.rand_like(rows)):
        assert float((ring.encode(rows, extreme) * ring.step).norm(dim=1).max()) <= 1.0


def test_rows_of_many_blocks_are_those_of_each_alone_and_multiplied_first() -> None:
    """Three rows go in blocks of 2¹⁷ // 3 numbers, one alone in one of 2¹⁷: the words are the same."""
    ring, generator = Ring.of_power_of_two(3.0, 10, 32), torch.Generator().manual_seed(2)
    rows, uniform = torch.randn(3, 100_000, generator=generator) / 400, torch.rand(3, 100_000, generator=generator)
    by = torch.tensor([0.5, 0.0, 1.0], dtype=torch.float64)
    words = ring.encode(rows, uniform, by)
    expected = (rows.to(torch.float64) * by.unsqueeze(1) / ring.step + uniform).floor().to(torch.int32)
    assert torch.equal(words, expected)
    for row in range(3):
        one = slice(row, row + 1)
        assert torch.equal(ring.encode(rows[one], uniform[one], by[one]), words[one])


def test_bytes_to_round_by_are_right_in_the_mean() -> None:
    """All 256 of them round 0.3 of a step up to 1 in 77 cases, 0.3 · 256 = 76.8, and down in the others."""
    ring = Ring(clip=1.0, workers=1, bits=8)
    every = torch.arange(256).to(torch.uint8).unsqueeze(0)
    for part, ups in ((0.3, 77), (0.0, 0), (0.5, 128), (-0.25, 256 - 64)):
        words = ring.encode(torch.full((1, 256), part * ring.step), every)
        down = math.floor(part)
        assert sorted(set(words.flatten().tolist())) in ([down, down + 1], [down], [down + 1])
        assert int((words == down + 1).sum()) == ups
