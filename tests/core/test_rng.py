from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from lightning_fed.core.rng import derive, seed_generators


def test_derived_seeds_fit_a_generator_and_differ_in_every_key() -> None:
    seeds = [derive(seed, cohort, name) for seed in range(5) for cohort in range(5) for name in ("bob", "alice")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize(
    ("a", "b"), [((0, 1, 2), (0, 12)), ((0, "1"), (0, 1)), ((0, "a", "b"), (0, "ab")), ((0, 1, 2), (0, 2, 1))]
)
def test_keys_are_not_mixed_up(a: tuple[int], b: tuple[int]) -> None:
    assert derive(*a) != derive(*b)


def test_the_seed_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert (
        derive(0, 3, "bob") == 8259831675048451885
    )  # a run must go on where another process, or an older release, left it


def draw() -> list[float]:
    return [random.random(), float(np.random.rand()), torch.rand(()).item()]


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_seeds_all_three_generators(seed: int) -> None:
    seed_generators(seed)
    first = draw()
    assert draw() != first
    seed_generators(seed)
    assert draw() == first


def test_torch_gets_what_manual_seed_gives() -> None:
    seed_generators(5)
    ours = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(ours, torch.rand(3))
