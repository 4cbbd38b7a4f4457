"""Words in bytes come back, whatever their bits."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.core.words import BITS, pack, packed_length, unpack


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40), st.sampled_from(list(BITS)))
def test_packed_words_come_back(words: list[int], bits: int) -> None:
    packed = pack(np.array(words, np.uint32), bits)
    assert len(packed) == packed_length(len(words), bits) == math.ceil(len(words) * bits / 8)
    assert unpack(packed, len(words), bits).tolist() == [word % 2**bits for word in words]
