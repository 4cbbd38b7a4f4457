"""The server's part in the protocol: it forwards encrypted shares, and adds up masked numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations, islice
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import torch

from lightning_fed.core.processes import Processes
from lightning_fed.core.words import unpack
from lightning_fed.secure import shamir
from lightning_fed.secure.attendance import Attendance
from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.lengths import KEY_BYTES, SIGNATURE_BYTES, Lengths, lengths
from lightning_fed.secure.masks import KeyPair, Masking
from lightning_fed.secure.messages import (
    Form,
    Invitation,
    Keys,
    Roster,
    Shares,
    bits_of,
    context_of,
    masked_length,
    of_neighbours,
    replies_of,
)
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.worker import commitment, mask_key, sign_of

_TRIES = 200
"""The number of subsets of a worker's shares that are tried if some shares are wrong."""


@final
class Sum(NamedTuple):
    """The result of a session.

    Args:
        words: The sum of the survivors' vectors modulo 2ᵇ; uint32 ``[d]``, whose higher bits are undefined.
        scalars: The sums of their scalars modulo 2⁶⁴; uint64 ``[m]``.
        survivors: Their names, in the order of the roster.
    """

    words: npt.NDArray[np.uint32]
    scalars: npt.NDArray[np.uint64]
    survivors: tuple[str, ...]


@final
class SecureServer:
    """The server in one session: a state machine that never waits, and holds one vector for any number of workers.

    Its methods are called in order: :meth:`invite`, :meth:`roster`, :meth:`forward`, :meth:`take` for each vector that
    arrives, :meth:`survivors`, with identities :meth:`confirmations`, and :meth:`unmask`. The worker of an unusable
    message is left out, and :attr:`left_out` has the reason.

    Args:
        parameters: The rules of the session.
        session: 32 bytes that are unique to this session, such as ``os.urandom(32)``.
        job: The digest of the job that the workers are sent.
        identities: Whether workers sign their keys.
    """

    def __init__(self, parameters: Parameters, session: bytes, job: bytes, identities: bool = False) -> None:
        if len(session) != KEY_BYTES or len(job) != KEY_BYTES:
            raise ValueError(f"session and job must be {KEY_BYTES} bytes each, as digests are")
        self.parameters = parameters
        self._invitation = Invitation(session, parameters.to_bytes(), job)
        self.signed = identities
        """Whether workers sign their keys, and confirm the list of survivors."""
        self.left_out: dict[str, str] = {}
        """Why a worker's message could not be used, by its name."""
        self._is_closed = False
        self._sent: set[int] = set()
        self._confirmed: frozenset[int] = frozenset()
        self._replied: set[int] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that take part, in the order of the roster."""
        return self._attendance.names

    @property
    def sent(self) -> list[str]:
        """Those whose numbers are in the sum, in the order of the roster."""
        return [self.names[v] for v in sorted(self._sent)]

    def invite(self) -> bytes:
        """Step 0: return the message to every worker."""
        return self._invitation.to_bytes()

    def roster(self, advertised: Mapping[str, bytes], form: Form) -> bytes:
        """Step 1: return the message to all participants, with their list and the form of the sum.

        Args:
            advertised: The received messages, by name.
            form: What each adds.

        Raises:
            AbortError: If too few workers have answered.
        """
        listed: dict[str, Keys] = {}
        seen: set[bytes] = set()
        probe = KeyPair()
        for name, message in advertised.items():
            try:
                keys = Keys.of(message, self.signed)
                if {keys.mask, keys.channel} & seen or keys.mask == keys.channel:
                    raise AbortError("a key that it sends is another's, too")
                for public in (keys.mask, keys.channel):
                    probe.agreed(public)  # all others would refuse a roster with a key of low order
            except AbortError as error:
                self.left_out[name] = str(error)
                continue
            seen |= {keys.mask, keys.channel}
            listed[name] = keys
        roster = Roster(tuple(listed), tuple(listed.values()), form)
        self._form = form
        self._words = np.zeros(form.size, np.uint32)
        self._scalars = np.zeros(len(form.scalars), np.uint64)
        self._attendance = Attendance(self.parameters, self._invitation.session, roster.names)
        self._index = {name: i for i, name in enumerate(roster.names)}
        self._keys = roster.keys
        message = roster.to_bytes()
        self._context = context_of(self._invitation, message)
        return message

    def forward(self, shares: Mapping[str, bytes]) -> dict[str, bytes]:
        """Step 2: return each worker's message with the others' sealed shares; workers with too few are left out.

        Args:
            shares: The received messages, by name.

        Raises:
            AbortError: If too few workers have answered.
        """
        read: dict[int, Shares] = {}
        for name, message in shares.items():
            worker = self._index[name]
            try:
                read[worker] = Shares.of(message, len(self._attendance.neighbours[worker]))
            except AbortError as error:
                self.left_out[name] = str(error)
        self._commitments = {v: theirs.commitment for v, theirs in read.items()}
        able = self._attendance.share(read)
        neighbours = self._attendance.neighbours
        sealed = {v: dict(zip(neighbours[v], theirs.boxes, strict=True)) for v, theirs in read.items()}
        return {
            self._attendance.names[v]: of_neighbours(
                {u: sealed[u][v] for u in neighbours[v] if u in sealed}, neighbours[v]
            )
            for v in sorted(able)
        }

    def take(self, worker: str, masked: bytes | memoryview) -> bool:
        """Step 2: add a worker's masked numbers to the sum; False, if they cannot be used.

        Args:
            worker: Its name.
            masked: What it has sent.
        """
        index, length = self._index.get(worker), masked_length(self._form, self.parameters.bits)
        if self._is_closed:
            self.left_out[worker] = "its numbers came after the survivors had been told"
        elif index is None or index not in self._attendance.shared:
            self.left_out[worker] = "it has sent numbers, and has never shared its secrets"
        elif index in self._sent:
            self.left_out[worker] = "it has sent numbers twice, of which the first count"
        elif len(masked) != length:
            self.left_out[worker] = f"it has sent {len(masked)} bytes in place of {length}"
        else:
            end = 8 * len(self._form.scalars)
            self._scalars += np.frombuffer(masked[:end], "<u8")
            self._words += unpack(memoryview(masked)[end:], self._form.size, self.parameters.bits)
            self._sent.add(index)
            return True
        return False

    def together(self, processes: Processes) -> None:
        """Add up the sums of several processes' servers, each of other workers; all processes continue with the total.

        Args:
            processes: The processes.
        """
        if processes.size == 1:
            return
        words = torch.from_numpy(self._words.astype(np.int64))  # gloo has no unsigned numbers
        numbers = torch.from_numpy(self._scalars.view(np.int64))  # wraps around as they do
        processes.sum_([words])
        processes.sum_([numbers])
        self._words = words.numpy().astype(np.uint32)
        self._scalars = numbers.numpy().view(np.uint64)
        for sent, left_out in processes.gather((self._sent, self.left_out)):
            self._sent |= sent
            self.left_out |= left_out

    def survivors(self) -> bytes:
        """Step 3: close the sum, and return the message to all survivors with their list.

        Raises:
            AbortError: If too few have sent theirs.
        """
        self._is_closed = True
        self._attendance.send(self._sent)
        return bits_of([v in self._sent for v in range(len(self._attendance.names))])

    def confirmations(self, signatures: Mapping[str, bytes]) -> dict[str, bytes]:
        """Step 4: return each survivor's message with its neighbours' signatures of the list of survivors.

        Args:
            signatures: The received messages, by name.
        """
        by_index = {self._index[name]: s for name, s in signatures.items() if len(s) == SIGNATURE_BYTES}
        self._confirmed = frozenset(by_index)
        neighbours, names = self._attendance.neighbours, self._attendance.names
        return {names[v]: of_neighbours(by_index, neighbours[v]) for v in sorted(self._sent)}

    def unmask(self, replies: Mapping[str, bytes]) -> Sum:
        """Step 4: remove all masks, and return the sum.

        Args:
            replies: The received messages, by name.

        Raises:
            AbortError: If too few have answered, or too many of their shares are wrong.
        """
        held, replied = self._read(replies)
        self._replied = replied
        attendance = self._attendance
        attendance.reply(replied)
        masking = Masking(self._scalars, self._words)
        for v in sorted(attendance.shared):
            secret = self._secret(v, held[v])
            if v in self._sent:
                masking.add_(mask_key(secret, self._context), -1)
            else:
                key = KeyPair(secret)
                for w in attendance.neighbours[v]:
                    if w in self._sent:
                        masking.add_(mask_key(key.agreed(self._keys[w].mask), self._context), -sign_of(w, v))
        return Sum(self._words, self._scalars, tuple(attendance.names[v] for v in sorted(self._sent)))

    @property
    def lengths(self) -> Lengths:
        """Return the bytes of the session's usable messages; call it after :meth:`unmask`."""
        return lengths(self._attendance, self._confirmed, self._replied, self._form, self.parameters.bits, self.signed)

    def _read(self, replies: Mapping[str, bytes]) -> tuple[dict[int, dict[int, int]], set[int]]:
        """Return the shares of each secret, by the position of the holder; and the workers with usable shares."""
        held: dict[int, dict[int, int]] = {v: {} for v in self._attendance.shared}
        replied: set[int] = set()
        for name, message in replies.items():
            u = self._index[name]
            try:
                lines = replies_of(message)
                for line in lines:
                    if line.worker not in held or u not in (*self._attendance.neighbours[line.worker], line.worker):
                        raise AbortError("it has sent a share that it does not hold")
                    if line.of_seed != (line.worker in self._sent):
                        raise AbortError("it has sent a share of the wrong secret")
            except AbortError as error:
                self.left_out[name] = str(error)
                continue
            replied.add(u)
            for line in lines:
                held[line.worker][u + 1] = line.share
        return held, replied

    def _secret(self, worker: int, shares: Mapping[int, int]) -> bytes:
        """Return a worker's secret, and record the workers with wrong shares of it.

        Raises:
            AbortError: If no tried subset yields the secret.
        """
        threshold = self._attendance.degree.threshold
        for tries, places in enumerate(islice(_subsets(sorted(shares), threshold), _TRIES)):
            secret = shamir.combine({place: shares[place] for place in places})
            if secret < 2 ** (8 * KEY_BYTES) and self._fits(worker, secret.to_bytes(KEY_BYTES, "little")):
                if tries:
                    self._name_others(shares, places)
                return secret.to_bytes(KEY_BYTES, "little")
        raise AbortError(
            f"the shares of {self._attendance.names[worker]!r} that came back do not fit each other: some "
            f"of the {len(shares)} workers that have sent one lie, or it has given out wrong ones itself"
        )

    def _fits(self, worker: int, secret: bytes) -> bool:
        """Whether a secret matches a worker's commitment."""
        if worker in self._sent:
            return commitment(secret, self._context) == self._commitments[worker]
        return KeyPair(secret).public == self._keys[worker].mask

    def _name_others(self, shares: Mapping[int, int], places: tuple[int, ...]) -> None:
        """Record the workers whose shares are not on the polynomial of the recovered secret.

        This identifies a single malicious worker. Several colluding ones can cause an honest worker to be named in
        their place, but cannot change the secret, which matches its worker's commitment.
        """
        right = {place: shares[place] for place in places}
        for place in shares.keys() - right.keys():
            if shamir.combine(right, at=place) != shares[place]:
                self.left_out[self._attendance.names[place - 1]] = (
                    "it has sent a share that does not fit those of others"
                )


def _subsets(places: list[int], size: int) -> Iterator[tuple[int, ...]]:
    """Yield subsets of a size; each member is missing from one of the first few."""
    for begin in range(0, len(places), max(len(places) - size, 1)):
        turned = places[begin:] + places[:begin]
        yield tuple(turned[:size])
    yield from combinations(places, size)
