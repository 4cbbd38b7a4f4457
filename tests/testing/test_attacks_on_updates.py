"""What attackers send, by hand, and beside another implementation."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_fed.core.tree import Tensors
from lightning_fed.testing.attacks import ALIE, IPM, Attack, BitFlip, Gaussian, Mimic, SameValue, Scaled, Seen, SignFlip
from lightning_fed.testing.attacks.alie import largest_z


def seen(
    honest: Any, own: Any = ((0.0, 0.0),), memory: Tensors | None = None, names: str = "abcdefgh", seed: int = 0
) -> Seen:
    honest, own = (torch.tensor(rows, dtype=torch.float64) for rows in (honest, own))
    return Seen(
        honest=honest,
        own=own,
        honest_workers=tuple(names[: len(honest)]),
        attackers=tuple(f"z{i}" for i in range(len(own))),
        workers=len(honest) + len(own),
        round=3,
        generator=torch.Generator().manual_seed(seed),
        memory={} if memory is None else memory,
    )


THREE = ((1.0, 2.0), (3.0, 4.0), (5.0, 0.0))
"""Their mean is (3, 2), their standard deviations are 2 and 2."""
TWO = ((1.0, -2.0), (0.5, 4.0))


# ---- by hand --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (SignFlip(), [[-1, 2], [-0.5, -4]]),
        (SignFlip(scale=10), [[-10, 20], [-5, -40]]),
        (Scaled(factor=3), [[3, -6], [1.5, 12]]),
        (SameValue(value=-2), [[-2, -2], [-2, -2]]),
        (IPM(epsilon=0.5), [-1.5, -1]),
        (ALIE(z=1.5), [0, -1]),
    ],
)
def test_by_hand(attack: Attack, expected: list[float]) -> None:
    assert attack.lies(seen(THREE, TWO)).tolist() == expected


@pytest.mark.parametrize(("epsilon", "sign"), [(1.4, 1), (1.5, 0), (1.6, -1)])
def test_the_mean_is_turned_from_where_the_paper_says(epsilon: float, sign: int) -> None:
    """Of 5 workers 2 attack: from ε = 3/2 on."""
    lie = IPM(epsilon).lies(seen(THREE, TWO))
    both = torch.cat([torch.tensor(THREE, dtype=torch.float64), lie.expand(2, -1)]).mean(dim=0)
    assert (both.abs() > 1e-9).mul(both.sign()).tolist() == [sign, sign]


def test_how_far_alie_may_go_by_hand() -> None:
    """Of 50 workers 24 attack: 2 more are a majority, so 24 of 26 honest ones are to lie on the nearer side."""
    assert NormalDist().cdf(largest_z(50, 24)) == pytest.approx(24 / 26)
    assert largest_z(50, 24) == pytest.approx(1.4261, abs=1e-4)
    assert NormalDist().cdf(largest_z(25, 5)) == pytest.approx(12 / 20)  # s = 13 - 5
    honest, own = torch.arange(52.0).view(26, 2).tolist(), torch.zeros(24, 2).tolist()
    z = (torch.tensor(honest).mean(dim=0) - ALIE().lies(seen(honest, own))) / torch.tensor(honest).std(dim=0)
    assert z.tolist() == pytest.approx([largest_z(50, 24)] * 2, abs=1e-5)  # of float32 here


def test_alie_with_too_many_attackers_is_refused_by_round_and_argument() -> None:
    own = torch.zeros(4, 2).tolist()
    with pytest.raises(
        ValueError, match=r"ALIE\(\) in round 3: z does not follow from n=7 workers of which f=4 .* give z"
    ):
        ALIE().lies(seen(THREE, own))
    assert ALIE(z=1).lies(seen(THREE, own)).tolist() == [1, 0]
    with pytest.raises(ValueError, match="n=2 workers of which f=1"):
        largest_z(2, 1)


def test_one_honest_worker_has_no_spread() -> None:
    assert ALIE(z=2).lies(seen(THREE[:1])).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("bits", "one_becomes"),
    [
        ([32], -1.0),
        ([23], 1.5),  # the highest of the fraction
        ([22], 1.25),
        ([24], 0.5),  # the lowest of the exponent, which is 127 for 1
        ([31], 1.0),  # an exponent of 255 would be infinite
        ([30, 31], 2.0**64),  # 127 becomes 191
        ((22, 30, 31, 32), -1.25 * 2.0**64),
    ],
)
def test_bits_by_hand(bits: Any, one_becomes: float) -> None:
    assert BitFlip(bits=bits).lies(seen(THREE, [[1.0, 1.0]])).tolist() == [[one_becomes, one_becomes]]
    assert BitFlip(bits=bits, coordinates=1).lies(seen(THREE, [[1.0, 1.0]])).tolist() == [[one_becomes, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bit_of_the_sign_is_a_sign_flip(dtype: torch.dtype) -> None:
    own = torch.randn(3, 50, dtype=torch.float32, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(BitFlip(bits=[32]).lies(of(own)), SignFlip().lies(of(own)))
    twice = BitFlip().lies(of(BitFlip().lies(of(own))))
    assert torch.equal(twice, own)
    assert twice.dtype == dtype


def of(own: Tensor) -> Seen:
    generator = torch.Generator().manual_seed(0)
    return Seen(own, own, ("a", "b", "c"), ("a", "b", "c"), workers=3, round=0, generator=generator)


def test_gaussian_numbers_are_what_they_are_said_to_be() -> None:
    """Of n numbers the mean is off by std/√n and the standard deviation by std/√2n, 5 of which are allowed."""
    n = 100_000
    many = torch.zeros(2, n).tolist()
    lies = Gaussian(std=3.0, mean=-2.0).lies(seen(THREE, many))
    for row in lies:
        assert abs(float(row.mean()) + 2) < 5 * 3 / math.sqrt(n)
        assert abs(float(row.std()) - 3) < 5 * 3 / math.sqrt(2 * n)
    assert abs(float(torch.corrcoef(lies)[0, 1])) < 5 / math.sqrt(n), "two attackers draw alike"
    assert torch.equal(lies, Gaussian(std=3.0, mean=-2.0).lies(seen(THREE, many)))
    assert not torch.equal(lies, Gaussian(std=3.0, mean=-2.0).lies(seen(THREE, many, seed=1)))


# ---- mimic ----------------------------------------------------------------------------------------------------------

LINE = ((0.0, 1.0), (3.0, 1.0), (9.0, 1.0))
"""They differ along the first axis only; from the mean, 4, they lie at -4, -1 and 5."""


@pytest.mark.parametrize("seed", range(5))
def test_mimic_copies_an_end_of_the_longest_axis_for_ever(seed: int) -> None:
    memory: Tensors = {}
    lie = Mimic().lies(seen(LINE, memory=memory, seed=seed))
    assert memory["direction"].abs().tolist() == [1, 0]
    position = 2 if float(memory["direction"][0]) > 0 else 0
    assert lie.tolist() == list(LINE[position])
    assert sorted(memory) == ["copied", "direction", "rounds"]
    # From now on what that worker sends, whatever it is.
    assert Mimic().lies(seen(THREE, memory=memory, seed=seed + 1)).tolist() == list(THREE[position])
    # Without it the one that goes farthest along the direction, and that changes nothing for the rounds after.
    without = Mimic().lies(seen(THREE, memory=memory, names="xyz"))
    assert without.tolist() == list(THREE[position])
    assert Mimic().lies(seen(LINE[::-1], memory=memory)).tolist() == list(LINE[::-1][position])


def test_which_end_is_chance() -> None:
    ends = {tuple(Mimic().lies(seen(LINE, seed=seed)).tolist()) for seed in range(10)}
    assert ends == {LINE[0], LINE[2]}


def test_a_step_of_ojas_rule_by_hand() -> None:
    """In the second round of three.

    The mean of all so far is ((1, 0) + (1, 1))/2 = (1, 0.5). From it the two lie at (1, -0.5) and (-1, 1.5), which go
    0.2 and 0.6 along z = (0.6, 0.8). So s is (0.2 - 0.6, -0.1 + 0.9) = (-0.4, 0.8), and the new z is, of length 1,
    (0.6, 0.8) + s/√0.8. Along it (2, 0) goes less far than (0, 2).
    """
    memory = {
        "rounds": torch.tensor(1),
        "mean": torch.tensor([1.0, 0.0], dtype=torch.float64),
        "direction": torch.tensor([0.6, 0.8], dtype=torch.float64),
    }
    lie = Mimic(warm_up=3).lies(seen([[2.0, 0.0], [0.0, 2.0]], memory=memory))
    assert lie.tolist() == [0, 2]
    x, y = 0.6 - 0.4 / math.sqrt(0.8), 0.8 + 0.8 / math.sqrt(0.8)
    assert memory["direction"].tolist() == pytest.approx([x / math.hypot(x, y), y / math.hypot(x, y)], abs=1e-12)
    assert memory["mean"].tolist() == [1, 0.5]
    assert int(memory["rounds"]) == 2
    assert bytes(memory["copied"].tolist()) == b"b"


def test_learning_goes_on_until_the_warm_up_is_over() -> None:
    memory: Tensors = {}
    for round, names in enumerate(("abc", "pqr", "xyz", "bcd")):
        Mimic(warm_up=3).lies(seen(LINE, memory=memory, names=names))
        assert int(memory["rounds"]) == min(round + 1, 3)
        assert ("mean" in memory) == (round < 2)
    assert bytes(memory["copied"].tolist()).decode() in "xz", "the last of the warm-up is copied"


def test_where_all_agree_any_is_copied() -> None:
    memory: Tensors = {}
    assert Mimic().lies(seen([THREE[0]] * 3, memory=memory)).tolist() == list(THREE[0])
    assert float(memory["direction"].norm()) == pytest.approx(1)


# ---- beside byzfl ---------------------------------------------------------------------------------------------------

X = (
    (1.0, -2.0, 0.5, 3.0),
    (0.0, 1.0, 4.0, -1.0),
    (2.0, 2.0, -3.0, 0.25),
    (-1.5, 0.75, 1.0, 2.0),
    (0.5, -4.0, 2.5, -0.125),
    (3.0, 1.25, -0.5, 1.0),
)


def mirrored(lie: Tensor) -> Tensor:
    """The lie on the other side of the mean."""
    return 2 * torch.tensor(X, dtype=torch.float64).mean(dim=0) - lie


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # InnerProductManipulation(2.0), InnerProductManipulation(0.1)
        (IPM(2.0), [-1.6666666666666667, 0.3333333333333333, -1.5, -1.7083333333333333]),
        (IPM(0.1), [-0.08333333333333334, 0.016666666666666666, -0.07500000000000001, -0.08541666666666667]),
        # SignFlipping(), which turns the honest workers' mean, where in papers each attacker turns its own update
        (IPM(1.0), [-0.8333333333333334, 0.16666666666666666, -0.75, -0.8541666666666666]),
    ],
)
def test_the_numbers_of_byzfl(ours: Attack, theirs: list[float]) -> None:
    """Of byzfl 0.0.11, for the rows of X as honest vectors."""
    assert ours.lies(seen(X, [[0.0] * 4])).tolist() == pytest.approx(theirs, abs=1e-14)


@pytest.mark.parametrize(
    ("z", "theirs"),
    [
        (1.5, [3.1891771312112827, 3.3163277347069564, 4.385759893062247, 3.0485308969165126]),
        (0.25, [1.2259739663129916, 0.4138324002289372, 1.3559599821770412, 1.2198940383749743]),
    ],
)
def test_a_little_is_enough_of_byzfl_lies_on_the_other_side(z: float, theirs: list[float]) -> None:
    """ALittleIsEnough(z) of byzfl 0.0.11 adds what the authors of bucketing, and we, take away."""
    assert mirrored(ALIE(z).lies(seen(X, [[0.0] * 4]))).tolist() == pytest.approx(theirs, abs=1e-14)


def test_mimic_of_byzfl_copies_a_worker_by_its_position() -> None:
    """Mimic(3) of byzfl 0.0.11 gives the fourth row, which ours gives once it has chosen that worker."""
    memory = {"rounds": torch.tensor(1), "copied": torch.tensor([ord("d")])}
    assert Mimic().lies(seen(X, [[0.0] * 4], memory=memory)).tolist() == [-1.5, 0.75, 1.0, 2.0]


# ---- wrong settings that tests/test_wrong_inputs.py does not try -----------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ([], r"bits is empty: name a bit, such as \[32\]"),
        ([33], "bits=33 must be at least 1 and at most 32"),
        ([0], "bits=0 must be at least 1"),
        ([32, 32], r"bits=\(32, 32\) names a bit twice"),
        ([1.5], "bits=1.5 must be a whole number"),
    ],
)
def test_bits_that_are_none_are_refused(bits: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BitFlip(bits=bits)
