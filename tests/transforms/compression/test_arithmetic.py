"""Sums in a fixed order, and randomness that is the same for good."""

from __future__ import annotations

import pytest
import torch

from lightning_fed.transforms.compression.arithmetic import hadamard, row_sums
from lightning_fed.transforms.compression.randomness import choice, normals, signs, uniforms

CPU = torch.device("cpu")
FIRST = [1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0]


@pytest.mark.parametrize("power", range(13))
def test_the_transform_is_the_product_with_the_matrix(power: int) -> None:
    matrix, p = torch.ones(1, 1, dtype=torch.float64), 2**power
    while len(matrix) < p:
        matrix = torch.cat([torch.cat([matrix, matrix], dim=1), torch.cat([matrix, -matrix], dim=1)])
    whole = torch.randint(-9, 10, (3, p), generator=torch.Generator().manual_seed(power)).double()
    before = whole.clone()
    assert torch.equal(hadamard(whole), whole @ matrix), "of whole numbers, every order gives the same"
    assert torch.equal(hadamard(hadamard(whole)), p * whole)
    assert torch.equal(whole, before)


def test_sums_are_made_in_halves() -> None:
    """From the left it would be 1: beside 10⁸, 1 is lost."""
    assert row_sums(torch.tensor([[1e8, 1.0, -1e8, 1.0], [1.0, 2.0, 3.0, 4.0]])).tolist() == [2.0, 10.0]
    assert row_sums(torch.tensor([[1e8, 1.0, 0.0, -1e8, 1.0]])).tolist() == [2.0]
    assert row_sums(torch.tensor([7.0])).tolist() == 7.0


def test_words_of_the_generator_are_those_that_they_were() -> None:
    """Codes of yesterday are read tomorrow: here are the first bits for the seed 0, by the Philox of today."""
    assert signs(0, 16, CPU).tolist() == FIRST
    assert torch.equal(signs(0, 1000, CPU)[:16], torch.tensor(FIRST))
    assert not torch.equal(signs(1, 64, CPU), signs(0, 64, CPU))
    assert abs(float(signs(3, 100_000, CPU).mean())) < 4 / 100_000**0.5


def test_uniform_numbers() -> None:
    drawn = uniforms(5, 100_001, CPU).double()
    assert drawn.shape == (100_001,)
    assert 0 <= float(drawn.min()) < 1e-3 < 0.999 < float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=4 / (12 * 100_001) ** 0.5)


@pytest.mark.parametrize("count", [1, 10, 99, 100])
def test_a_choice_is_of_different_places_each_as_likely(count: int) -> None:
    times = torch.zeros(100)
    for seed in range(300):
        places = choice(seed, 100, count, CPU)
        assert places.tolist() == sorted(set(places.tolist()))
        assert len(places) == count
        times[places] += 1
    share = count / 100
    assert float((times / 300 - share).abs().max()) <= 5 * (share * (1 - share) / 300) ** 0.5


def test_numbers_that_are_about_normal() -> None:
    drawn = normals(5, 100_000, CPU)
    assert abs(float(drawn.mean())) < 0.02
    assert float(drawn.std()) == pytest.approx(1, abs=0.02)
