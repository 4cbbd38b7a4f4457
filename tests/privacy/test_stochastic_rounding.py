"""Rounding by chance: right on average, and never longer than the bound on which privacy rests."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lightning_fed.privacy import Noise
from lightning_fed.privacy.stochastic_rounding import BETA, Uniform, rounded_norm, rounded_within


def always(*chances: list[float]) -> tuple[Uniform, list[tuple[int, str, int]]]:
    """The same numbers for every worker: the first ones at the first try; and what was asked for."""
    asked: list[tuple[int, str, int]] = []

    def uniform(size: int, worker: str, turn: int) -> Tensor:
        asked.append((size, worker, turn))
        return torch.tensor(chances[min(turn, len(chances) - 1)], dtype=torch.float64)

    return uniform, asked


def scaled(size: int, units: float, seed: int) -> Tensor:
    row = torch.randn(1, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return row * (units / torch.linalg.vector_norm(row))


# ---- by hand ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "dimension", "beta", "norm"),
    [
        (10, 100, 0.0, 20.0),
        (10, 100, BETA, 11.832159566199232),  # √(100 + 25 + 10 + 5)
        (1000, 2**20, BETA, 1124.1245482596669),
        (1, 1, BETA, math.sqrt(2.75)),
        (1, 1, 1e-300, 2.0),  # where U + √d is less
    ],
)
def test_the_bound_is_the_papers(units: float, dimension: int, beta: float, norm: float) -> None:
    assert rounded_norm(units, dimension, beta) == pytest.approx(norm, rel=1e-15)


def test_a_number_is_rounded_up_with_the_probability_of_its_fractional_part() -> None:
    uniform, asked = always([0.49, 0.74, 0.76, 0.0, 0.1])
    rows = torch.tensor([[0.5, -2.25, -2.25, 3.0, 0.0]])
    assert rounded_within(rows, 6.0, ["bob"], uniform).tolist() == [[1, -2, -3, 3, 0]]
    assert asked == [(5, "bob", 0)]


def test_what_is_too_long_is_drawn_again() -> None:
    uniform, asked = always([0.0, 0.0], [0.0, 0.9], [0.9, 0.9])
    row = torch.tensor([[1.5, 1.5]])  # (2, 2) is longer than 2.5, and (2, 1) is not
    assert rounded_within(row, 2.5, ["bob"], uniform).tolist() == [[2, 1]]
    assert [turn for _, _, turn in asked] == [0, 1]
    assert rounded_within(row, 2.9, ["bob"], uniform).tolist() == [[2, 2]]


def test_a_norm_that_is_the_bound_is_within_it() -> None:
    uniform, _ = always([0.5, 0.5])
    assert rounded_within(torch.tensor([[3.0, -4.0]]), 5.0, ["bob"], uniform).tolist() == [[3, -4]]


def test_what_can_never_be_within_the_bound_is_refused_and_names_the_worker() -> None:
    uniform, asked = always([0.0, 0.0])
    short, long, endless = [0.5, 0.5], [3.0, -4.5], [math.nan, 0.0]
    for row in (long, endless):
        with pytest.raises(ValueError, match=r"worker 'alice': .* norm of at most 4\.9; scale it to a norm .* units="):
            rounded_within(torch.tensor([short, row]), 4.9, ["bob", "alice"], uniform)
    assert [worker for _, worker, _ in asked] == ["bob", "bob"], "its shortest outcome says it"
    with pytest.raises(ValueError, match=r"worker 'bob': what it sends cannot be rounded") as error:
        rounded_within(torch.tensor([[1.625, 1.75]]), 2.2, ["bob"], uniform)
    assert len(asked) == 102, "tried a hundred times"
    assert "1.6" not in str(error.value), "an error tells no worker's values"


# ---- properties ------------------------------------------------------------------------------------------------------


@given(
    size=st.integers(1, 200),
    units=st.floats(1, 1e5),
    seed=st.integers(0, 2**31),
    spread=st.sampled_from([1.0, 1e-3, 1e-9]),
)
def test_the_bound_always_holds_and_every_number_is_a_neighbour(
    size: int, units: float, seed: int, spread: float
) -> None:
    row = scaled(size, 1.0, seed)
    row[0, 1:] *= spread  # from all alike to one that is all there is
    row = row * (units / torch.linalg.vector_norm(row))
    bound = rounded_norm(units, size)
    rounded = rounded_within(row, bound, ["bob"], Noise(seed).uniform)
    assert rounded.dtype == torch.int32
    assert float(torch.linalg.vector_norm(rounded.double())) <= bound * (1 + 1e-15)
    assert bool(((rounded - row).abs() < 1).all())
    assert float(rounded.abs().sum()) <= bound * min(math.sqrt(size), bound) * (1 + 1e-12)


def test_the_condition_is_what_bounds_the_norm() -> None:
    """Where the bound is small, many outcomes are beyond it, and none of them is returned."""
    row = torch.full((1, 64), 0.5)
    noise, tries = Noise(0), 0

    def uniform(size: int, worker: str, turn: int) -> Tensor:
        nonlocal tries
        tries += 1
        return noise.uniform(size, worker, turn)

    bound = 5.6  # whose square is 31.4, where 32 is what one expects
    norms = [
        float(torch.linalg.vector_norm(rounded_within(row, bound, [f"w{i}"], uniform).double())) for i in range(300)
    ]
    assert max(norms) <= bound
    assert tries > 400, "a condition that never acts is not tested"


@pytest.mark.parametrize(("units", "size"), [(2.0, 1000), (10.0, 100), (300.0, 2**14)])
def test_few_are_drawn_again(units: float, size: int) -> None:
    """At most a share of β, by the bound."""
    noise, tries, rows = Noise(1), 0, scaled(size, units, 0).expand(200, size)

    def uniform(size: int, worker: str, turn: int) -> Tensor:
        nonlocal tries
        tries += 1
        return noise.uniform(size, worker, turn)

    rounded_within(rows, rounded_norm(units, size), [f"w{i}" for i in range(len(rows))], uniform)
    assert tries <= 202


@pytest.mark.parametrize(("units", "size"), [(2.0, 50), (10.0, 100)])
def test_the_mean_of_many_is_what_was_rounded(units: float, size: int) -> None:
    row, many = scaled(size, units, 3), 2000
    names = [f"w{i}" for i in range(many)]
    rounded = rounded_within(row.expand(many, size), rounded_norm(units, size), names, Noise(0).uniform).double()
    part = row - row.floor()
    errors = (rounded.mean(dim=0) - row[0]) / (part * (1 - part) / many).sqrt()[0]
    assert float(errors.abs().max()) < 4.5  # of 100 normal numbers
    assert abs(float(errors.square().mean()) - 1) < 5 * math.sqrt(2 / size)


def test_who_else_is_in_the_stack_changes_nothing() -> None:
    rows, bound = torch.cat([scaled(30, 5.0, seed) for seed in range(3)]), rounded_norm(5.0, 30)
    together = rounded_within(rows, bound, ["a", "b", "c"], Noise(0).uniform)
    for i, name in enumerate("abc"):
        assert torch.equal(rounded_within(rows[i : i + 1], bound, [name], Noise(0).uniform)[0], together[i])
    assert len({tuple(row) for row in together.tolist()}) == 3
    assert rounded_within(rows[:0], bound, [], Noise(0).uniform).shape == (0, 30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_any_dtype_are_rounded_as_what_they_are(dtype: torch.dtype) -> None:
    rows = scaled(30, 5.0, 0).to(dtype)
    rounded = rounded_within(rows, 8.0, ["bob"], Noise(0).uniform)
    assert torch.equal(rounded, rounded_within(rows.double(), 8.0, ["bob"], Noise(0).uniform))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 0.5}, "units=0.5 must be at least 1"),
        ({"units": math.nan}, "units=nan must be"),
        ({"dimension": 0}, "dimension=0 must be"),
        ({"dimension": 1.5}, "dimension=1.5 must be"),
        ({"beta": 1.0}, "beta=1.0 must be"),
        ({"beta": -0.1}, "beta=-0.1 must be"),
    ],
)
def test_arguments_out_of_range(options: dict[str, float], message: str) -> None:
    arguments: dict[str, float] = {"units": 10.0, "dimension": 5, **options}
    with pytest.raises(ValueError, match=message):
        rounded_norm(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("bound", [0.0, 2.0**31, math.nan])
def test_a_bound_fits_into_integers(bound: float) -> None:
    with pytest.raises(ValueError, match=r"bound=.* must be"):
        rounded_within(torch.zeros(1, 2), bound, ["bob"], Noise(0).uniform)
