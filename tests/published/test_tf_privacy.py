"""A tiny version of the study of accuracy at ε: the product beside DP-SGD by hand, on made-up data, in double."""

from __future__ import annotations

import math
from argparse import Namespace

import pytest
import tf_privacy
import torch
from by_hand import Share
from tf_privacy import Row, dp_sgd, epsilon_by_hand, many_workers, one_worker, tutorial_cnn
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector
from torch.utils.data import TensorDataset

from lightning_fed.datasets import IID, PartitionedPopulation
from lightning_fed.privacy import Noise
from lightning_fed.selection import Poisson

pytestmark = pytest.mark.filterwarnings("ignore:.*NOT private")

BATCH, STEPS = 6, 3
LR, CLIP = 0.25, 4.0
SILENT = Row(LR, 1e-7, CLIP, STEPS, 0.0, 0.0)
"""So little noise that the grid of the sum, a millionth of it, is finer than what is compared."""
LOUD = Row(LR, 1.3, CLIP, STEPS, 0.0, 0.0)
ROUNDING = {"rtol": 0, "atol": 1e-11}
"""Of the grid of so little noise: 26,010 numbers to 2⁻²² · 4e-7 are clipped shorter by 5e-12, in each round."""


def pictures(count: int, seed: int) -> Share:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, 28, 28, generator=generator, dtype=torch.float64), torch.arange(count) % 10


TRAIN, TEST = pictures(24, 1), pictures(10, 2)


@pytest.fixture
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf_privacy, "digits", lambda folder: (TRAIN, TEST))
    monkeypatch.setattr(tf_privacy, "BATCH", BATCH)
    monkeypatch.setattr(tf_privacy, "EPOCH", 1)


tiny = pytest.mark.usefixtures("few_pictures")


def network() -> nn.Module:
    torch.manual_seed(0)
    return tutorial_cnn().double()


def cohort(round: int) -> Tensor:
    """The examples of the workers that a Poisson sample with the seed of the run has."""
    workers = PartitionedPopulation(TensorDataset(*TRAIN), IID(len(TRAIN[1]), seed=0))
    names = [workers.name(position) for position in Poisson().sample(len(workers), BATCH, round, seed=0)]
    return torch.cat([torch.tensor(workers[name].train_set.indices) for name in names])


def shorter(row: Row) -> Row:
    """A row of as much noise, which clips to (1 - 2⁻²²) C, as ours does lest rounding make a norm larger than C."""
    slack = 1 - 2.0**-22
    return row._replace(clip=row.clip * slack, noise_multiplier=row.noise_multiplier / slack)


def silence(step: int, size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.float64)


def seeded(step: int, size: int) -> Tensor:
    return Noise(insecure_seed=0).gaussian(size, 1.0, step, "delta")


def vector(network: nn.Module) -> Tensor:
    return parameters_to_vector(network.parameters()).detach()


@tiny
def test_workers_of_one_example_are_dp_sgd() -> None:
    """As good as without noise, with the cohorts that the seed draws."""
    ours, by_hand = network(), network()
    curve = many_workers(Namespace(mnist="", rounds=STEPS), 0, row=SILENT, network=lambda: ours, insecure=True)
    settings = {"steps": STEPS, "batch": cohort}
    expected = dp_sgd(by_hand, TRAIN, TEST, shorter(SILENT), BATCH, normal=seeded, **settings)
    assert not torch.allclose(vector(ours), vector(network())), "nothing was trained"
    torch.testing.assert_close(vector(ours), vector(by_hand), **ROUNDING)
    assert curve == [(at, pytest.approx(accuracy)) for at, accuracy in expected]
    assert len({len(cohort(round)) for round in range(STEPS)} - {BATCH}) > 1, "every cohort is of the expected size"


def test_the_loop_clips_what_is_longer() -> None:
    """Of the examples of the first round some have a gradient longer than C, and some a shorter one."""
    start = vector(network())

    def length(example: Tensor, clip: float) -> float:
        moved = network()
        row = SILENT._replace(clip=clip)
        dp_sgd(moved, TRAIN, TEST, row, BATCH, steps=1, batch=lambda step: example[None], normal=silence)
        return float((vector(moved) - start).norm()) * BATCH / LR

    lengths = [length(example, 1e3) for example in cohort(0)]
    assert min(lengths) < CLIP < max(lengths)
    assert [length(example, CLIP) for example in cohort(0)] == pytest.approx([min(each, CLIP) for each in lengths])


@tiny
def test_the_noise_of_workers_is_that_of_the_table() -> None:
    """zC on the sum, for a known seed: to its grid of 2⁻²² zC, which shortens updates by 8e-5."""
    ours, by_hand = network(), network()
    many_workers(Namespace(mnist="", rounds=1), 0, row=LOUD, network=lambda: ours, insecure=True)
    dp_sgd(by_hand, TRAIN, TEST, shorter(LOUD), BATCH, steps=1, batch=cohort, normal=seeded)
    torch.testing.assert_close(vector(ours), vector(by_hand), rtol=0, atol=1e-5)


@tiny
@pytest.mark.parametrize("run", [many_workers, one_worker])
@pytest.mark.parametrize("row", [LOUD, LOUD._replace(noise_multiplier=2.6), LOUD._replace(clip=0.5)])
def test_the_noise_is_lr_z_c_over_the_batch(monkeypatch: pytest.MonkeyPatch, run: type[many_workers], row: Row) -> None:
    """By the spread of 26,010 parameters, without the product's own noise to compare with.

    Of so many, a standard deviation is found to a relative 1/√(2 · 26,010); five times that are allowed.
    """
    everyone = len(TRAIN[1])
    monkeypatch.setattr(tf_privacy, "BATCH", everyone)
    ours, by_hand = network(), network()
    run(Namespace(mnist="", rounds=1), 0, row=row, network=lambda: ours, insecure=True)
    dp_sgd(by_hand, TRAIN, TEST, row, everyone, steps=1, batch=lambda step: torch.arange(everyone), normal=silence)
    noise = vector(ours) - vector(by_hand)
    assert len(noise) == 26_010
    expected = row.lr * row.noise_multiplier * row.clip / everyone
    assert float(noise.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * len(noise)))
    assert abs(float(noise.mean())) < 5 * expected / math.sqrt(len(noise))


@tiny
def test_one_worker_is_dp_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all examples in every batch, and noise of 1e-7 · 4 · 0.25 / 24 in a step, which the loop leaves out."""
    everyone = len(TRAIN[1])
    monkeypatch.setattr(tf_privacy, "BATCH", everyone)
    ours, by_hand = network(), network()
    curve = one_worker(Namespace(mnist="", rounds=STEPS), 0, row=SILENT, network=lambda: ours, insecure=True)
    settings = {"steps": STEPS, "batch": lambda step: torch.arange(everyone)}
    expected = dp_sgd(by_hand, TRAIN, TEST, shorter(SILENT), everyone, normal=silence, **settings)
    assert not torch.allclose(vector(ours), vector(network())), "nothing was trained"
    torch.testing.assert_close(vector(ours), vector(by_hand), rtol=0, atol=5e-8)
    assert curve == [(at, pytest.approx(accuracy)) for at, accuracy in expected]


def test_the_published_account() -> None:
    """By integrals: the five values of ε that the tutorial prints, to the digit."""
    for row in (*tf_privacy.ROWS, *tf_privacy.ONE_RUN):
        assert f"{epsilon_by_hand(row):.2f}" == f"{row.epsilon:.2f}"
