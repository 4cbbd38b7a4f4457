"""Noise: as much as asked for, never the same twice, and out of reach of the training's seed."""

from __future__ import annotations

import math
import multiprocessing
import os
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_fed.core.rng import seed_generators
from lightning_fed.privacy import Noise

SIZE = 200_000


@pytest.mark.parametrize("std", [1e-3, 1.0, 250.0])
@pytest.mark.parametrize("seed", [None, 0], ids=["secret", "seeded"])
def test_it_has_the_standard_deviation_and_mean_asked_for(std: float, seed: int | None) -> None:
    noise = Noise(seed).gaussian(SIZE, std)
    assert noise.dtype == torch.float64
    # The standard error of a mean is σ/√n, that of a standard deviation σ/√2n.
    errors = 4 if seed is not None else 5  # what is secret cannot be made to pass once and for all
    assert abs(float(noise.mean())) < errors * std / math.sqrt(SIZE)
    assert abs(float(noise.std()) - std) < errors * std / math.sqrt(2 * SIZE)


def test_it_is_gaussian_and_independent() -> None:
    noise = Noise(1).gaussian(SIZE, 1.0)
    for bound in (0.5, 1.0, 2.0, 3.0):
        p = math.erf(bound / math.sqrt(2))
        assert abs(float((noise.abs() < bound).double().mean()) - p) < 4 * math.sqrt(p * (1 - p) / SIZE)
    # The two halves are made from the same radii; products of neighbours and of partners have mean 0, variance 1.
    first, second = noise.chunk(2)
    for pairs in (first * second, noise[1:] * noise[:-1], (first**2 - 1) * (second**2 - 1) / 2):
        assert abs(float(pairs.mean())) < 4 / math.sqrt(len(pairs))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_any_size(size: int) -> None:
    assert Noise().gaussian(size, 1.0).shape == (size,)


def test_uniform_numbers_are_uniform_and_never_an_end() -> None:
    drawn = Noise(0).uniform(SIZE)
    assert abs(float(drawn.mean()) - 0.5) < 4 / math.sqrt(12 * SIZE)
    assert abs(float((drawn < 0.1).double().mean()) - 0.1) < 4 * math.sqrt(0.09 / SIZE)
    assert 0 < float(drawn.min()) < float(drawn.max()) < 1


def test_the_ends_of_the_bytes_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """All zeros would be log 0, all ones an angle of a full turn."""
    for byte in (b"\0", b"\xff"):
        monkeypatch.setattr(os, "urandom", lambda n, b=byte: b * n)
        assert Noise().gaussian(4, 1.0).isfinite().all()
        assert float(Noise().gaussian(4, 1.0).abs().max()) < 9


def distinct(draws: list[Tensor]) -> bool:
    numbers = torch.cat(draws)
    return len(numbers.unique()) == len(numbers)


@pytest.mark.parametrize("seed", [None, 0], ids=["secret", "seeded"])
def test_every_round_tensor_and_worker_has_noise_of_its_own(seed: int | None) -> None:
    noise = Noise(seed)
    keys = [(cohort, name, worker) for cohort in range(3) for name in ("delta", "control") for worker in ("a", "b")]
    assert distinct([noise.gaussian(100, 1.0, *key) for key in keys])


def test_what_is_asked_for_twice_differs_unless_it_is_seeded() -> None:
    secret, seeded = Noise(), Noise(3)
    assert distinct([secret.gaussian(100, 1.0, 0, "delta") for _ in range(3)])
    torch.testing.assert_close(seeded.gaussian(9, 1.0, 0, "x"), Noise(3).gaussian(9, 1.0, 0, "x"), rtol=0, atol=0)
    assert distinct([Noise(seed).gaussian(9, 1.0, 0, "x") for seed in (3, 4)])


def test_no_seed_of_the_training_reaches_it() -> None:
    """And it draws from nobody's generator."""

    def seeded(by: int) -> Tensor:
        pl.seed_everything(by, verbose=False)
        torch.manual_seed(by)
        np.random.seed(by)
        random.seed(by)
        seed_generators(by)
        return Noise().gaussian(100, 1.0, 0, "delta")

    assert distinct([seeded(1), seeded(1)])
    seed_generators(1)
    expected = torch.rand(3)
    seed_generators(1)
    Noise().gaussian(100, 1.0)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def draw(_: int) -> list[float]:
    drawn: list[float] = Noise().gaussian(4, 1.0).tolist()
    return drawn


@pytest.mark.filterwarnings("ignore:.*fork")
def test_processes_differ_even_if_one_is_a_copy_of_the_other() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert distinct([torch.tensor(drawn) for drawn in pool.map(draw, range(4))])
