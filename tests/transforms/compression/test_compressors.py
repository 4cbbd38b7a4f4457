"""What each compressor makes of a tensor: known answers first, then the contract, then bytes from anyone."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lightning_fed.testing import check_compressor
from lightning_fed.transforms import EDEN, Compressor, Form, KBit, PowerSGD, RandomK, Sign, TopK
from lightning_fed.transforms.compression import eden
from lightning_fed.transforms.compression.eden import CENTROIDS
from lightning_fed.transforms.compression.randomness import uniforms
from lightning_fed.wire import WireError

ALL: dict[str, Callable[[], Compressor]] = {
    "EDEN 1": lambda: EDEN(1),
    "EDEN 2": lambda: EDEN(2),
    "EDEN 3": lambda: EDEN(3),
    "EDEN 4": lambda: EDEN(4),
    "KBit 1": lambda: KBit(1),
    "KBit 3": lambda: KBit(3),
    "KBit 8": lambda: KBit(8),
    "TopK": lambda: TopK(0.1),
    "RandomK": lambda: RandomK(0.1),
    "RandomK unscaled": lambda: RandomK(0.1, scaled=False),
    "Sign": Sign,
    "PowerSGD": lambda: PowerSGD(2),
}


def through(compressor: Compressor, tensor: Tensor, seeds: Sequence[int] = (0,)) -> Tensor:
    """The tensor as it arrives, once for each seed."""
    form = Form(tuple(tensor.shape), tensor.dtype)
    codes = compressor.encode(tensor.expand(len(seeds), *tensor.shape), list(seeds))
    return compressor.decode(codes, form, list(seeds))


def error(decoded: Tensor, tensor: Tensor) -> float:
    """The mean squared error over rows, as a part of the tensor's squared length."""
    return float(((decoded - tensor) ** 2).sum() / len(decoded) / (tensor**2).sum())


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BETWEEN = ("EDEN 2", "EDEN 3", "KBit 3", "RandomK unscaled")  # others of their kind have fewer and more bits


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in BETWEEN else ()) for name in ALL]
)
def test_the_contract(name: str) -> None:
    check_compressor(ALL[name])


# ---- EDEN ------------------------------------------------------------------------------------------------------------

ERRORS = {1: 0.5707963, 2: 0.1331212, 3: 0.0357840, 4: 0.0095921}


@pytest.mark.parametrize("bits", CENTROIDS)
def test_centroids_are_means_of_their_cells(bits: int) -> None:
    """The condition of Lloyd and Max, and the error that follows: M / (1 - M)."""
    half = torch.tensor(CENTROIDS[bits], dtype=torch.float64)
    ends = torch.cat([torch.zeros(1), (half[1:] + half[:-1]) / 2, torch.tensor([math.inf])]).double()
    density = torch.exp(-(ends**2) / 2) / math.sqrt(2 * math.pi)
    share = torch.erf(ends / math.sqrt(2)).diff() / 2
    torch.testing.assert_close(-density.diff() / share, half, rtol=1e-6, atol=0)  # as published
    left_over = 1 - float(2 * (half**2 * share).sum())
    assert left_over / (1 - left_over) == pytest.approx(ERRORS[bits], rel=1e-5)


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "lognormal"])
@pytest.mark.parametrize("bits", CENTROIDS)
def test_the_error_of_eden_is_that_of_the_table_whatever_the_distribution(bits: int, heavy: bool) -> None:
    x = normal(2**17)
    x = x.sign() * normal(2**17, seed=1).exp() if heavy else x
    assert error(through(EDEN(bits), x, range(4)), x) == pytest.approx(ERRORS[bits], rel=0.02)


def test_one_bit_of_eden_is_a_sign_and_a_scale() -> None:
    """DRIVE: R x̂ = sign(y) ‖y‖² / ‖y‖₁, so ⟨x̂, x⟩ = ‖x‖² exactly, and ‖x̂‖² = p ‖x‖⁴ / ‖y‖₁²."""
    x = normal(4096).double()
    codes = EDEN(1).encode(x.unsqueeze(0), [3])
    assert codes.shape == (1, 8 + 512)
    (decoded,) = through(EDEN(1), x, [3])
    assert float(decoded @ x) == pytest.approx(float(x @ x), rel=1e-12)
    (scale,) = struct.unpack("<d", codes[0, :8].numpy().tobytes())
    assert float(decoded @ decoded) == pytest.approx(4096 * (scale * 4096) ** 2, rel=1e-12)


def test_eden_needs_two_rotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one, (2, 1, 0, 0, ...) comes out biased, and a one-hot vector exactly."""
    one_hot = torch.zeros(1024)
    one_hot[5] = 3.0
    assert error(through(EDEN(1), one_hot, range(200)), one_hot) == pytest.approx(ERRORS[1], rel=0.05)
    two, hadamard = eden._Rotations.of, eden.hadamard
    monkeypatch.setattr(eden._Rotations, "of", lambda self, length: two(self, length)[:, :1])
    monkeypatch.setattr(eden, "hadamard", lambda rows: hadamard(rows) * math.sqrt(rows.shape[1]))
    with pytest.raises(AssertionError, match=r"EDEN\(bits=1\) is biased: of \(2, 1, 0, 0, \.\.\.\)"):
        check_compressor(lambda: EDEN(1))


@pytest.mark.parametrize(
    ("size", "length"),
    [(1, 36), (255, 36), (256, 36), (257, 68), (4096, 516), (4097, 552), (6000, 776), (6145, 1032), (10**6, 126_036)],
)
def test_the_length_of_codes_of_one_bit(size: int, length: int) -> None:
    """Blocks of 4096 and a shorter last one, a bit for each number and a scale for each block."""
    assert EDEN(1).num_bytes(Form((size,))) == length


def test_errors_average_out_if_each_worker_has_a_seed_of_its_own() -> None:
    x = normal(2**14)
    own = through(EDEN(1), x, range(30)).mean(dim=0, keepdim=True)
    shared = through(EDEN(1), x, [5] * 30).mean(dim=0, keepdim=True)
    assert error(own, x) == pytest.approx(ERRORS[1] / 30, rel=0.05)
    assert error(shared, x) == pytest.approx(ERRORS[1], rel=0.05)


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1.0, 1e30])
def test_eden_of_very_small_and_large_numbers(size: float) -> None:
    x = normal(4096) * size
    decoded = through(EDEN(2), x)
    assert bool(torch.isfinite(decoded).all())
    if size > 1e-40:  # beyond, the scale itself has three digits at most
        assert error(decoded.double(), x.double()) == pytest.approx(ERRORS[2], rel=0.05)


# ---- the others, by their formulas -----------------------------------------------------------------------------------


def test_kbit_by_hand() -> None:
    """Levels 0, 1, 2, 3: a number between two goes up with the probability by which it is above the lower one."""
    x = torch.tensor([0.0, 3.0, 1.25, 2.0])
    drawn = uniforms(9, 4, torch.device("cpu"))
    up = float(drawn[2]) >= 0.75
    assert through(KBit(2), x, [9]).tolist() == [[0.0, 3.0, 2.0 if up else 1.0, 2.0]]
    codes = KBit(2).encode(x.unsqueeze(0), [9])[0].tolist()
    assert bytes(codes[:8]) == struct.pack("<ff", 0.0, 1.0)
    assert codes[8:] == [0b00110000 | (0b1000 if up else 0b0100) | 0b10]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_error_of_kbit(bits: int) -> None:
    """Exactly Σ f (1 - f) Δ², f the fractional part of (x - lo) / Δ."""
    x = normal(2**15).double()
    step = (x.max() - x.min()) / (2**bits - 1)
    f = ((x - x.min()) / step).frac()
    expected = float((f * (1 - f)).sum() * step**2 / (x**2).sum())
    assert error(through(KBit(bits), x, range(4)), x) == pytest.approx(expected, rel=0.02)


def test_sign_by_hand() -> None:
    x = torch.tensor([3.0, -1.0, 0.0, -4.0])
    assert through(Sign(), x).tolist() == [[2.0, -2.0, 2.0, -2.0]]
    assert Sign().encode(x.unsqueeze(0), [0])[0].tolist() == [*struct.pack("<f", 2.0), 0b10100000]
    x = normal(2**15)
    assert error(through(Sign(), x), x) == pytest.approx(
        1 - float(x.abs().sum() ** 2 / (x.numel() * (x**2).sum())), rel=1e-4
    )


def test_topk_by_hand() -> None:
    x = torch.tensor([[1.0, -5.0, 0.5, 4.0]])
    assert through(TopK(0.5), x).tolist() == [[[0.0, -5.0, 0.0, 4.0]]]
    assert TopK(0.5).encode(x.unsqueeze(0), [0])[0].tolist() == [*struct.pack("<ff", -5.0, 4.0), 0b01110000]
    assert TopK(0.3).num_bytes(Form((4,))) == 2 * 4 + 1


@pytest.mark.parametrize(("fraction", "expected"), [(0.01, 0.9155), (0.1, 0.5607)])
def test_the_error_of_topk_for_normal_numbers(fraction: float, expected: float) -> None:
    x = normal(2**17)
    assert error(through(TopK(fraction), x), x) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(("scaled", "expected"), [(True, 9.0), (False, 0.9)])
def test_the_error_of_randomk(scaled: bool, expected: float) -> None:
    x = normal(10_000)
    assert error(through(RandomK(0.1, scaled), x, range(20)), x) == pytest.approx(expected, rel=0.02)
    (kept,) = through(RandomK(0.1, scaled), x)
    assert int((kept != 0).sum()) == 1000
    torch.testing.assert_close(kept[kept != 0], x[kept != 0] * (10 if scaled else 1))


def test_powersgd_comes_near_the_singular_values_beyond_its_rank() -> None:
    x = normal(256, 8) @ normal(8, 300, seed=1) + 0.1 * normal(256, 300, seed=2)
    squares = torch.linalg.svdvals(x) ** 2
    # Where singular values lie close together, as those of the first eight do, an iteration takes longer to tell them.
    for rank, iterations, most in ((8, 3, 1.001), (4, 3, 1.25), (4, 30, 1.01)):
        best = float(squares[rank:].sum() / squares.sum())
        assert best * 0.9999 <= error(through(PowerSGD(rank, iterations), x), x) <= most * best
    assert (
        error(through(PowerSGD(8), normal(20, 5) @ normal(5, 30, seed=1)), normal(20, 5) @ normal(5, 30, seed=1)) < 1e-9
    )


def test_powersgd_takes_a_convolution_for_a_matrix() -> None:
    x = normal(16, 3, 5, 5)
    flat = through(PowerSGD(2), x.reshape(16, 75))
    assert torch.equal(through(PowerSGD(2), x), flat.view(1, 16, 3, 5, 5))


# ---- bytes from anyone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("places", [[3, 3], [3, 1], [1, 7]], ids=["twice", "descending", "beyond"])
def test_places_that_cannot_be_are_refused(places: list[int]) -> None:
    form = Form((7,))
    packed = (places[0] << 3 | places[1]) << 2
    codes = torch.tensor([[*struct.pack("<ff", 1.0, 2.0), packed]], dtype=torch.uint8)
    with pytest.raises(WireError, match=r"the places of the 2 numbers that were kept do not ascend below 7"):
        TopK(0.2).decode(codes, form, [0])


def test_a_scale_that_is_nan_is_decoded_as_nan() -> None:
    for compressor in (EDEN(2), KBit(8), Sign()):
        codes = compressor.encode(normal(1, 300), [0])
        codes[:, :4] = torch.tensor([0, 0, 192, 127], dtype=torch.uint8)
        assert bool(compressor.decode(codes, Form((300,)), [0]).isnan().any())


# ---- the suite says what is wrong ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain(Compressor):
    """Numbers as they are."""

    unbiased = True
    contracts = True

    def num_bytes(self, form: Form) -> int:
        return form.num_bytes

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        return rows.flatten(1).contiguous().view(torch.uint8)

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        return codes.clone().view(form.dtype).view(len(codes), *form.shape)


class Halves(Plain):
    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        return super().decode(codes, form, seeds) / 2


class Triples(Plain):
    unbiased = False

    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        return super().decode(codes, form, seeds) * 3


class Longer(Plain):
    def num_bytes(self, form: Form) -> int:
        return form.num_bytes + 1


class Centred(Plain):
    unbiased = False

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        return super().encode(rows - rows.mean(dim=0), seeds)


class Draws(Plain):
    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        return super().encode(rows + 1e-3 * torch.randn_like(rows), seeds)


class Writes(Plain):
    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        return super().encode(rows.mul_(1.5), seeds)


class Squares(Plain):
    unbiased = contracts = False
    linear = True

    def encode(self, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        return super().encode(rows**2, seeds)


class Trusts(Plain):
    def decode(self, codes: Tensor, form: Form, seeds: Sequence[int]) -> Tensor:
        places = codes.clone().view(form.dtype).nan_to_num().abs().long()
        torch.arange(100)[places.clamp(max=10**6)]
        return super().decode(codes, form, seeds)


def test_numbers_as_they_are_fulfil_the_contract() -> None:
    check_compressor(Plain)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Halves, r"Halves\(\) is biased: of a dense tensor, the mean of 2000 is off by 0\.25"),
        (Triples, r"the error of a dense tensor is 4 of it: it does not contract"),
        (Longer, r"codes have the shape \[3, 4\], and num_bytes says 5"),
        (Centred, r"a row that is alone gets other codes"),
        (Draws, r"the same seed gives other codes next time"),
        (Writes, r"encode\(\) has written to what it was given"),
        (Squares, r"is not linear"),
        (Trusts, r"bytes of anyone's end in IndexError"),
    ],
)
def test_what_is_wrong_with_a_compressor_is_said(wrong: type[Compressor], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_compressor(wrong)
