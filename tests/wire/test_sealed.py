"""Sealed numbers cross in place of everything else, in the bits that count."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from typing import Any

import pytest
import torch

from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates, WireError
from lightning_fed.wire.codec import decode_updates, encode_updates, updates_bytes
from lightning_fed.wire.sealed import Sealed, Sealer

JOB = Job(0, 4, 0, GlobalModel({"w": torch.zeros(5)}, {"count": torch.zeros(2)}), LocalTraining())
NAMES = ("ann", "bob")


class Plain(Sealer):
    """Words for the parameters, and nothing else."""

    def __init__(self, bits: int = 32, size: int = 5) -> None:
        self._bits = bits
        self._size = size

    @property
    def bits(self) -> int:
        return self._bits

    def size(self, job: Job, stays: Set[str]) -> int:
        return self._size


def updates(bits: int = 32, size: int = 5) -> Updates:
    generator = torch.Generator().manual_seed(bits)
    words = torch.randint(-(2**31), 2**31, (2, size), generator=generator).to(torch.int32)
    nothing = torch.full((2,), float("nan"), dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    scalars = {"weight": torch.tensor([2**62, -5]), "loss": torch.tensor([7, 8])}
    return Updates(
        4,
        NAMES,
        torch.zeros(1, 1).expand(2, 5),
        {"count": torch.zeros(2, 2)},
        one,
        one,
        nothing,
        one,
        sealed=Sealed(words, scalars, bits),
    )


def test_words_that_stay_with_the_worker_leave_all_else_as_it_is() -> None:
    sent = updates(20)
    assert sent.sealed is not None
    data = encode_updates(replace(sent, sealed=sent.sealed.withheld()), JOB)
    read = decode_updates(data, JOB, workers=NAMES, sealer=Plain(20).withholding()).sealed
    assert read is not None
    assert (read.words.shape, read.bits, sorted(read.scalars)) == ((2, 0), 20, ["loss", "weight"])


@pytest.mark.parametrize("bits", [32, 24, 20, 8])
def test_they_come_back(bits: int) -> None:
    sent = updates(bits)
    data = encode_updates(sent, JOB)
    read = decode_updates(data, JOB, workers=NAMES, sealer=Plain(bits))
    assert sent.sealed is not None
    assert read.sealed is not None
    low = 2**bits - 1
    assert torch.equal(read.sealed.words.to(torch.int64) & low, sent.sealed.words.to(torch.int64) & low)
    assert {name: numbers.tolist() for name, numbers in read.sealed.scalars.items()} == {
        "weight": [2**62, -5],
        "loss": [7, 8],
    }
    assert not read.delta.any()
    assert torch.equal(read.buffers["count"], torch.zeros(2, 2))


@pytest.mark.parametrize("bits", [32, 12])
def test_the_length_of_a_message_is_known_without_making_it(bits: int) -> None:
    both = updates(bits)
    first = both.rows(torch.tensor([True, False]))
    assert updates_bytes(both, JOB)[0] == len(encode_updates(first, JOB))
    assert updates_bytes(updates(32), JOB)[0] > updates_bytes(updates(12), JOB)[0]


def test_some_of_them() -> None:
    second = updates().rows(torch.tensor([False, True])).sealed
    assert second is not None
    assert second.words.shape == (1, 5)
    assert second.scalars["weight"].tolist() == [-5]
    both = Sealed.together([second, second])
    assert both.scalars["loss"].tolist() == [8, 8]


@pytest.mark.parametrize(
    ("sender", "receiver", "said"),
    [
        (updates(32), Plain(20), "sealed/words has the shape"),
        (updates(32), Plain(size=6), "sealed/words has the shape"),
        (updates(32), None, "delta"),
        (updates(size=0), Plain(), "sealed/words has the shape"),
    ],
)
def test_what_does_not_fit_is_refused(sender: Updates, receiver: Any, said: str) -> None:
    with pytest.raises(WireError, match=said):
        decode_updates(encode_updates(sender, JOB), JOB, workers=NAMES, sealer=receiver)


def test_a_plain_update_where_sealed_ones_are_awaited() -> None:
    one = torch.ones(2, dtype=torch.float64)
    plain = Updates(4, NAMES, torch.ones(2, 5), {"count": torch.zeros(2, 2)}, one, one, one, one)
    with pytest.raises(WireError):
        decode_updates(encode_updates(plain, JOB), JOB, workers=NAMES, sealer=Plain())
