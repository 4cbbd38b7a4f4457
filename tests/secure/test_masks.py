"""The cryptography by known answers: RFC 7748, HKDF by its definition, and AES in counter mode."""

from __future__ import annotations

import hmac

import numpy as np
import pytest

pytest.importorskip("cryptography")

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.masks import (
    Agreements,
    Identity,
    KeyPair,
    Masking,
    derived,
    digest,
    is_signed,
    opened,
    sealed,
)

ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
BOB = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
KEY = bytes(range(32))


def test_an_exchange_as_in_rfc_7748() -> None:
    """Section 6.1."""
    shared = KeyPair(bytes.fromhex(ALICE)).agreed(bytes.fromhex(BOB))
    assert shared.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


def test_both_ends_agree_and_keys_are_new() -> None:
    one, other = KeyPair(), KeyPair()
    assert one.agreed(other.public) == other.agreed(one.public)
    assert one.public != other.public
    assert KeyPair(one.secret).public == one.public


@pytest.mark.parametrize("point", [bytes(32), (1).to_bytes(32, "little")])
def test_a_point_of_low_order_is_refused(point: bytes) -> None:
    with pytest.raises(AbortError, match="low order"):
        KeyPair().agreed(point)


def test_a_digest_tells_parts_apart() -> None:
    assert digest(b"a", b"bc").hex() == "9a8acca1b6c6c0befd3fbc756aed625da998c998f7252e738c4ef061906b9b21"
    assert digest(b"a", b"bc") != digest(b"ab", b"c")


def test_a_derived_key_is_hkdf_of_one_block() -> None:
    """Sections 2.2 and 2.3 of RFC 5869, by hand."""
    context = digest(b"session")
    extracted = hmac.digest(b"lightning_fed secure aggregation 1", KEY, "sha256")
    assert derived(KEY, b"mask", context) == hmac.digest(extracted, b"mask" + context + b"\x01", "sha256")
    assert derived(KEY, b"mask", context) != derived(KEY, b"share", context) != derived(KEY, b"mask", bytes(32))


def added(size: int, scalars: int = 0, key: bytes = KEY) -> tuple[list[int], list[int]]:
    words, numbers = np.zeros(size, np.uint32), np.zeros(scalars, np.uint64)
    Masking(numbers, words).add_(key, 1)
    return numbers.tolist(), words.tolist()


def test_a_mask_is_aes_in_counter_mode() -> None:
    assert added(4)[1] == [3053490418, 3500099882, 1788539817, 2155294429]


def test_scalars_take_the_first_numbers_and_words_go_on_after_them() -> None:
    numbers, words = added(4, 2)
    first, rest = np.array(added(8)[1], "<u4"), np.array(words, "<u4")
    assert numbers == first[:4].view("<u8").tolist()
    assert rest.tolist() == first[4:].tolist()


@pytest.mark.parametrize("size", [0, 1, 16_383, 16_384, 16_385, 40_000])
def test_pieces_make_no_difference(size: int) -> None:
    """A mask is made 2¹⁴ words at a time."""
    words = np.zeros(size, np.uint32)
    Masking(*(words[begin : begin + 777] for begin in range(0, size, 777))).add_(KEY, 1)
    assert words.tolist() == added(size)[1]


def test_what_is_added_can_be_taken_away() -> None:
    words = np.arange(50_000, dtype=np.uint32)
    masking = Masking(words)
    masking.add_(KEY, 1)
    assert not np.array_equal(words, np.arange(50_000))
    masking.add_(KEY, -1)
    assert np.array_equal(words, np.arange(50_000))


def test_both_ends_agree_on_a_secret_that_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, third = KeyPair(), KeyPair(), KeyPair()
    expected, asked = one.agreed(other.public), []
    exchange = KeyPair.agreed
    monkeypatch.setattr(KeyPair, "agreed", lambda own, public: asked.append(own) or exchange(own, public))
    agree = Agreements()
    assert agree(one, other.public) == agree(other, one.public) == expected
    assert asked == [one]
    assert agree(one, third.public) != expected
    assert agree(third, one.public) == exchange(one, third.public)
    assert asked == [one, one]
    assert agree(one, other.public) == expected, "nothing is left of what both ends have"
    assert asked == [one, one, one]


def test_a_sealed_box_opens_with_its_key_and_about_what_it_is() -> None:
    box = sealed(KEY, b"secret", b"from 1 to 2")
    assert len(box) == len(b"secret") + 16
    assert opened(KEY, box, b"from 1 to 2") == b"secret"
    assert opened(bytes(32), box, b"from 1 to 2") is None
    assert opened(KEY, box, b"from 2 to 1") is None
    assert opened(KEY, box[:-1] + bytes([box[-1] ^ 1]), b"from 1 to 2") is None


def test_signatures() -> None:
    identity = Identity()
    signature = identity.signed(b"text")
    assert is_signed(Identity(identity.secret).public, signature, b"text")
    assert not is_signed(identity.public, signature, b"other")
    assert not is_signed(Identity().public, signature, b"text")
    assert not is_signed(b"no key", signature, b"text")


@pytest.mark.parametrize("secret", [KeyPair(), Identity()], ids=lambda thing: type(thing).__name__)
def test_nothing_of_a_key_is_shown(secret: KeyPair | Identity) -> None:
    assert secret.secret.hex() not in repr(secret)
    assert str(secret.secret) not in str(vars(secret))
