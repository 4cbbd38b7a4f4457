"""Numbers of a few bits, as bytes and back."""

from __future__ import annotations

import pytest
import torch

from lightning_fed.transforms.compression.packing import as_bytes, from_bytes, pack, packed_bytes, unpack


@pytest.mark.parametrize("width", range(1, 33))
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 100])
def test_numbers_come_back(width: int, count: int) -> None:
    numbers = torch.randint(2**width, (3, count), generator=torch.Generator().manual_seed(width))
    numbers[0], numbers[1] = 0, 2**width - 1
    packed = pack(numbers, width)
    assert packed.dtype == torch.uint8
    assert packed.shape == (3, packed_bytes(count, width))
    assert torch.equal(unpack(packed, count, width), numbers)


@pytest.mark.parametrize("width", range(1, 33))
def test_bits_lie_one_behind_the_other_the_highest_first(width: int) -> None:
    numbers = torch.randint(2**width, (1, 13), generator=torch.Generator().manual_seed(width))
    text = "".join(format(number, f"0{width}b") for number in numbers[0].tolist())
    text = text.ljust(-(-len(text) // 8) * 8, "0")
    assert pack(numbers, width)[0].tolist() == [int(text[at : at + 8], 2) for at in range(0, len(text), 8)]


def test_bytes_at_odd_places_are_numbers_again() -> None:
    numbers = torch.tensor([[1.5, -2.0], [3.0, 0.25]])
    for n in (1, 2):
        raw = torch.cat([torch.zeros(n, 3, dtype=torch.uint8), as_bytes(numbers[:n])], dim=1)
        assert torch.equal(from_bytes(raw[:, 3:], torch.float32), numbers[:n])
