"""Messages come back as they were, and whatever else comes is refused by an abort."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from sessions import JOB, Session, agreed

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.messages import (
    Form,
    Keys,
    Roster,
    bits_of,
    flags_of,
    forwarded_of,
    of_neighbours,
    replies_of,
    signatures_of,
)

KEYS = st.binary(min_size=32, max_size=32)


@given(st.lists(st.tuples(st.text(max_size=20), KEYS, KEYS), max_size=5), st.booleans(), st.integers(0, 2**40))
def test_a_roster_comes_back(rows: list[tuple[str, bytes, bytes]], signed: bool, size: int) -> None:
    signature = bytes(64) if signed else b""
    try:
        names = tuple(name.encode().decode() for name, _, _ in rows)
    except UnicodeEncodeError:
        return
    roster = Roster(names, tuple(Keys(one, other, signature) for _, one, other in rows), Form(size, names))
    assert Roster.of(roster.to_bytes(), signed) == roster


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_an_abort(data: bytes) -> None:
    for read in (
        lambda: Roster.of(data, False),
        lambda: Keys.of(data, True),
        lambda: replies_of(data),
        lambda: forwarded_of(data, [1, 2, 3]),
        lambda: signatures_of(data, [1, 2, 3]),
        lambda: flags_of(data, 9),
    ):
        try:
            read()
        except AbortError:
            continue


def test_a_roster_that_says_it_is_long_takes_no_memory() -> None:
    many = b"\xff\xff\xff\xff" + bytes(200)
    with pytest.raises(AbortError, match="ends before its last worker"):
        Roster.of(bytes(8) + many, False)
    with pytest.raises(AbortError, match="ends before its last worker"):
        Roster.of(bytes(12) + many, False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m + b"0", "goes on after its last worker"),
        (lambda m: m[:-1], "ends before its last worker"),
        (lambda m: m[:14] + b"\xff\xff" + m[16:], "no text"),
    ],
)
def test_a_roster_of_another_length(change, said: str) -> None:  # type: ignore[no-untyped-def]
    session = Session(3, agreed(3))
    roster = session.server.roster(session.advertised(), session.form)
    with pytest.raises(AbortError, match=said):
        session.workers["w0"].share(change(roster))


@given(st.lists(st.booleans(), max_size=70))
def test_flags_come_back(flags: list[bool]) -> None:
    assert flags_of(bits_of(flags), len(flags)) == flags


@given(st.sets(st.sampled_from([3, 5, 8, 13])))
def test_parts_of_neighbours_come_back(senders: set[int]) -> None:
    neighbours = [3, 5, 8, 13]
    parts = {v: bytes([v]) * 64 for v in senders}
    assert signatures_of(of_neighbours(parts, neighbours), neighbours) == parts


@given(st.integers(0, 10**6), st.integers(1, 255), st.sampled_from(["roster", "forwarded", "survivors"]))
def test_a_flipped_byte_is_an_abort_or_does_no_harm(at: int, change: int, which: str) -> None:
    """It comes to one worker of five; the others go on, and whatever the server comes to is right.

    A worker that holds another roster for right than the others (by a byte in a name, of which no key depends but by
    the context) seals shares that nobody can open: then there is no sum.
    """
    session = Session(5, agreed(5))

    def changed(message: bytes) -> bytes:
        data = bytearray(message)
        data[at % len(data)] ^= change
        return bytes(data)

    advertised = session.advertised()
    roster = session.server.roster(advertised, session.form)
    shares: dict[str, bytes] = {}
    for name in session.names:
        shares |= session.each([name], "share", changed(roster) if (name, which) == ("w0", "roster") else roster)
    forwarded = session.server.forward(shares)
    there = []
    for name, message in forwarded.items():
        message = changed(message) if (name, which) == ("w0", "forwarded") else message
        masked = session.each([name], "mask", message, JOB, session.words[name], session.scalars[name])
        there += [sent for sent, numbers in masked.items() if session.server.take(sent, numbers)]
    if which == "roster" and "w0" in shares:
        assert not there
        return
    survivors = session.server.survivors()
    replies: dict[str, bytes] = {}
    for name in there:
        told = changed(survivors) if (name, which) == ("w0", "survivors") else survivors
        replies |= session.each([name], "unmask", told)
    session.assert_right(session.server.unmask(replies))
