"""The lengths of the messages of a session, without sending one. All numbers are little endian, all lengths exact."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple, final

from lightning_fed.core.words import packed_length
from lightning_fed.secure.attendance import Attendance
from lightning_fed.secure.parameters import Parameters

KEY_BYTES = 32
"""The length of all keys, secrets and digests."""
TAG_BYTES = 16
"""The length that sealing adds to a text."""
SIGNATURE_BYTES = 64
"""The length of a signature (Ed25519)."""
SHARE_BYTES = 33
"""The length of one share: a number below 2²⁵⁶ + 297."""
BOX_BYTES = 2 * SHARE_BYTES + TAG_BYTES
"""The length of a sealed box with a share of each of a worker's two secrets."""
REPLY_BYTES = 4 + 1 + SHARE_BYTES
"""The length of one line of the last step: whose share it is, of which secret, and the share."""
INVITATION_BYTES = 1 + 2 * KEY_BYTES + Parameters.LENGTH
"""The length of an invitation: a version, the session, the rules and the digest of the job."""


@final
class Lengths(NamedTuple):
    """Bytes of a session, of all its workers together.

    Args:
        down: The bytes sent to the workers.
        up: The bytes sent by the workers.
        vectors: The part of ``up`` for the words of vectors, which would be sent without the protocol, too.
    """

    down: int = 0
    up: int = 0
    vectors: int = 0


def keys_length(signed: bool) -> int:
    """Return the length of a worker's advertisement.

    Args:
        signed: Whether workers sign their keys.
    """
    return 2 * KEY_BYTES + (SIGNATURE_BYTES if signed else 0)


def text_length(text: str) -> int:
    """Return the length of a text in a message, after its own length."""
    return 2 + len(text.encode())


def lengths(
    attendance: Attendance,
    confirmed: Collection[int],
    replied: Collection[int],
    form: tuple[int, tuple[str, ...]],
    bits: int,
    signed: bool = False,
) -> Lengths:
    """Return the bytes of a session that has come to a sum.

    Args:
        attendance: Who has come how far.
        confirmed: With identities, the indices of those that have confirmed the survivors.
        replied: The indices of those that have answered at the end.
        form: The number of words, and the names of scalars.
        bits: The bits of a word.
        signed: Whether workers have identities.
    """
    size, scalars = form
    names, neighbours = attendance.names, attendance.neighbours
    shared, sent = attendance.shared, attendance.sent
    n, k = len(names), attendance.degree.neighbours
    flags = -(-k // 8)
    roster = 8 + 4 + sum(map(text_length, scalars)) + 4 + sum(text_length(name) + keys_length(signed) for name in names)
    boxes = {v: sum(u in shared for u in neighbours[v]) for v in attendance.able}
    vector = packed_length(size, bits)
    down = n * (INVITATION_BYTES + roster)
    up = n * keys_length(signed) + len(shared) * (KEY_BYTES + k * BOX_BYTES)
    down += sum(flags + held * BOX_BYTES for held in boxes.values())
    up += len(sent) * (8 * len(scalars) + vector)
    down += len(sent) * -(-n // 8)
    if signed:
        up += len(confirmed) * SIGNATURE_BYTES
        down += sum(flags + SIGNATURE_BYTES * sum(u in confirmed for u in neighbours[v]) for v in sent)
    up += sum((boxes[v] + 1) * REPLY_BYTES for v in replied)
    return Lengths(down, up, len(sent) * vector)
