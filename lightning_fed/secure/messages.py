"""Encoding and decoding of the protocol's messages. Readers treat all messages as untrusted.

All numbers are little endian. Lengths are exact: a message that is longer or shorter than declared is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, final

from lightning_fed.core.words import packed_length
from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.lengths import (
    BOX_BYTES,
    INVITATION_BYTES,
    KEY_BYTES,
    REPLY_BYTES,
    SHARE_BYTES,
    SIGNATURE_BYTES,
    keys_length,
)
from lightning_fed.secure.masks import digest
from lightning_fed.secure.parameters import Parameters

VERSION = 1
_REPLY = struct.Struct("<IB")
_MOST_TEXT = 2**16 - 1


@final
class Invitation(NamedTuple):
    """Step 0, to every worker.

    Args:
        session: 32 bytes, different in every round.
        parameters: The rules that the server proposes, as bytes.
        job: The digest of the job that will be sent.
    """

    session: bytes
    parameters: bytes
    job: bytes

    def to_bytes(self) -> bytes:
        return bytes([VERSION]) + self.session + self.parameters + self.job

    @staticmethod
    def of(message: bytes) -> Invitation:
        if len(message) != INVITATION_BYTES or message[0] != VERSION:
            raise AbortError(f"this is no invitation of version {VERSION} to secure aggregation: install one version")
        end = 1 + KEY_BYTES + Parameters.LENGTH
        return Invitation(message[1 : 1 + KEY_BYTES], message[1 + KEY_BYTES : end], message[end:])


@final
class Keys(NamedTuple):
    """Step 0, from a worker: public keys, for masks and for sealed boxes, and if it has an identity its signature.

    Args:
        mask: 32 bytes.
        channel: 32 bytes.
        signature: 64 bytes, or none.
    """

    mask: bytes
    channel: bytes
    signature: bytes = b""

    def to_bytes(self) -> bytes:
        return self.mask + self.channel + self.signature

    @staticmethod
    def of(message: bytes, signed: bool) -> Keys:
        if len(message) != keys_length(signed):
            wanted = "two keys and a signature" if signed else "two keys"
            raise AbortError(f"{len(message)} bytes are not {wanted}, which are {keys_length(signed)}")
        return Keys(message[:KEY_BYTES], message[KEY_BYTES : 2 * KEY_BYTES], message[2 * KEY_BYTES :])


@final
class Form(NamedTuple):
    """The form of each worker's contribution to the sum.

    Args:
        size: The number d of words in its vector.
        scalars: The names of the m numbers that are added modulo 2⁶⁴, in order. All workers must have the same list: if
            only one worker added its loss, the sum would reveal it.
    """

    size: int
    scalars: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        head = self.size.to_bytes(8, "little") + len(self.scalars).to_bytes(4, "little")
        return head + b"".join(map(_text, self.scalars))


@final
class Roster(NamedTuple):
    """Step 1, to every worker: the participants in the order of their indices, their keys, and the form of the sum.

    Args:
        names: Their names.
        keys: Their keys.
        form: The form of what each adds.
    """

    names: tuple[str, ...]
    keys: tuple[Keys, ...]
    form: Form

    def to_bytes(self) -> bytes:
        parts = [self.form.to_bytes(), len(self.names).to_bytes(4, "little")]
        for name, keys in zip(self.names, self.keys, strict=True):
            parts += [_text(name), keys.to_bytes()]
        return b"".join(parts)

    @staticmethod
    @lru_cache(maxsize=4)  # in a simulation all workers read the same one
    def of(message: bytes, signed: bool) -> Roster:
        reader = _Reader(message)
        size, scalars = reader.whole(8), tuple(reader.text() for _ in range(reader.count(least=2)))
        names, rows, length = [], [], keys_length(signed)
        for _ in range(reader.count(least=2 + length)):
            names.append(reader.text())
            rows.append(Keys.of(reader.take(length), signed))
        if reader.rest:
            raise AbortError("a roster goes on after its last worker")
        return Roster(tuple(names), tuple(rows), Form(size, scalars))


def _text(text: str) -> bytes:
    written = text.encode()
    if len(written) > _MOST_TEXT:
        raise AbortError(f"the name {text[:20]!r}... is too long: {_MOST_TEXT} bytes are the most")
    return len(written).to_bytes(2, "little") + written


class _Reader:
    """Reads an untrusted message from its beginning on."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._at = 0

    @property
    def rest(self) -> int:
        """The number of unread bytes."""
        return len(self._message) - self._at

    def take(self, length: int) -> bytes:
        if length > self.rest:
            raise AbortError("a roster ends before its last worker")
        self._at += length
        return self._message[self._at - length : self._at]

    def whole(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def count(self, least: int) -> int:
        """Read the number of following items, each of at least so many bytes."""
        count = self.whole(4)
        if count * least > self.rest:  # before a loop over an untrusted number
            raise AbortError("a roster ends before its last worker")
        return count

    def text(self) -> str:
        try:
            return self.take(self.whole(2)).decode()
        except UnicodeDecodeError:
            raise AbortError("a name in a roster is no text") from None


@final
class Shares(NamedTuple):
    """Step 1, from a worker: a commitment to its own mask, and a sealed box for each neighbour, in ascending order.

    Args:
        commitment: 32 bytes.
        boxes: 82 bytes each.
    """

    commitment: bytes
    boxes: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return self.commitment + b"".join(self.boxes)

    @staticmethod
    def of(message: bytes, neighbours: int) -> Shares:
        if len(message) != KEY_BYTES + neighbours * BOX_BYTES:
            raise AbortError(f"{len(message)} bytes are not the shares for {neighbours} neighbours")
        begins = range(KEY_BYTES, len(message), BOX_BYTES)
        return Shares(message[:KEY_BYTES], tuple(message[at : at + BOX_BYTES] for at in begins))


def of_neighbours(parts: Mapping[int, bytes], neighbours: Sequence[int]) -> bytes:
    """Steps 2 and 4, to a worker: the parts from some of its neighbours, after a bit for each neighbour.

    Args:
        parts: The parts, all of one length, by the index of the sender.
        neighbours: The indices of the worker's neighbours, in ascending order.
    """
    return bits_of([v in parts for v in neighbours]) + b"".join(parts[v] for v in neighbours if v in parts)


def forwarded_of(message: bytes, neighbours: Sequence[int]) -> dict[int, bytes]:
    """Read the sealed boxes of step 2."""
    return _parts_of(message, neighbours, BOX_BYTES)


def signatures_of(message: bytes, neighbours: Sequence[int]) -> dict[int, bytes]:
    """Read the signatures of step 4."""
    return _parts_of(message, neighbours, SIGNATURE_BYTES)


def _parts_of(message: bytes, neighbours: Sequence[int], length: int) -> dict[int, bytes]:
    begin = -(-len(neighbours) // 8)
    there = flags_of(message[:begin], len(neighbours))
    if len(message) != begin + sum(there) * length:
        raise AbortError("what the neighbours have sent is not as long as it says")
    senders = [v for v, is_there in zip(neighbours, there, strict=True) if is_there]
    return {v: message[begin + i * length : begin + (i + 1) * length] for i, v in enumerate(senders)}


def masked_length(form: Form, bits: int) -> int:
    """Step 2, from a worker: the length of its masked numbers, first those modulo 2⁶⁴, then packed words."""
    return 8 * len(form.scalars) + packed_length(form.size, bits)


def bits_of(flags: Sequence[bool]) -> bytes:
    """Step 3, to every worker: a bit for each, the first one lowest.

    >>> bits_of([True, False, False, True]).hex()
    '09'
    """
    total = sum(1 << i for i, flag in enumerate(flags) if flag)
    return total.to_bytes(-(-len(flags) // 8), "little")


def flags_of(bits: bytes, count: int) -> list[bool]:
    """Read what :func:`bits_of` wrote."""
    total = int.from_bytes(bits, "little")
    if len(bits) != -(-count // 8) or total >> count:
        raise AbortError(f"{len(bits)} bytes are not a bit for each of {count} workers")
    return [bool(total >> i & 1) for i in range(count)]


@final
class Reply(NamedTuple):
    """One line of step 4, from a worker: a share that it holds of another's secret, or of its own.

    Args:
        worker: The index of whose secret it is.
        of_seed: Whether it is a share of the seed of the worker's own mask; else of its private key for masks.
        share: The share.
    """

    worker: int
    of_seed: bool
    share: int

    def to_bytes(self) -> bytes:
        return _REPLY.pack(self.worker, self.of_seed) + self.share.to_bytes(SHARE_BYTES, "little")


def replies_of(message: bytes) -> list[Reply]:
    """Read the lines of step 4."""
    if len(message) % REPLY_BYTES:
        raise AbortError(f"{len(message)} bytes are not whole shares")
    found = []
    for at in range(0, len(message), REPLY_BYTES):
        worker, kind = _REPLY.unpack_from(message, at)
        if kind > 1:
            raise AbortError(f"there are shares of two kinds, and none of kind {kind}")
        end = at + REPLY_BYTES
        found.append(Reply(worker, bool(kind), int.from_bytes(message[end - SHARE_BYTES : end], "little")))
    return found


def context_of(invitation: Invitation, roster: bytes) -> bytes:
    """Return the context of all keys of a session: the session, its parameters, its job and its roster."""
    return digest(*invitation, roster)
