"""A worker's part in the protocol: its messages in each step, and its refusals."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, final

import numpy as np
import numpy.typing as npt

from lightning_fed.core.words import pack
from lightning_fed.secure import shamir
from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.graph import neighbours_of, order
from lightning_fed.secure.lengths import SHARE_BYTES
from lightning_fed.secure.masks import Identity, KeyPair, Masking, derived, digest, is_signed, opened, sealed
from lightning_fed.secure.messages import (
    Form,
    Invitation,
    Keys,
    Reply,
    Roster,
    Shares,
    context_of,
    flags_of,
    forwarded_of,
    signatures_of,
)
from lightning_fed.secure.parameters import Parameters

P = ParamSpec("P")
R = TypeVar("R")


def _step(number: int) -> Callable[..., Any]:
    """Return a decorator of a step's method: callable once, after earlier steps; a refusal ends the machine."""

    def decorate(
        method: Callable[Concatenate[SecureWorker, P], R],
    ) -> Callable[Concatenate[SecureWorker, P], R]:
        @wraps(method)
        def once(self: SecureWorker, /, *arguments: P.args, **options: P.kwargs) -> R:
            if self._next != number:
                self.wipe()
                raise AbortError(f"a message of step {number} came out of turn")
            try:
                result = method(self, *arguments, **options)
            except BaseException:
                self.wipe()
                raise
            if self._next == number:
                self._next = number + 1
            return result

        return once

    return decorate


_OVER = 99


@final
class SecureWorker:
    """One worker in one session, a state machine: each method takes a message of the server's, and returns the answer.

    Each is called once and in order: :meth:`advertise`, :meth:`share`, :meth:`mask`, with identities :meth:`confirm`,
    and :meth:`unmask`. A refusal raises :class:`AbortError` and ends the session. The secrets are wiped then, and after
    the last step.

    Args:
        name: The worker's name.
        parameters: The rules that the worker accepts. All other rules of a server are refused.
        identity: The worker's identity, if workers have identities.
        known: The public keys of all workers' identities, by name.
        agree: Returns the shared secret of the worker's keys and another's public key.
    """

    def __init__(
        self,
        name: str,
        parameters: Parameters,
        identity: Identity | None = None,
        known: Mapping[str, bytes] | None = None,
        agree: Callable[[KeyPair, bytes], bytes] = KeyPair.agreed,
    ) -> None:
        self._name = name
        self._parameters = parameters
        self._identity = identity
        self._known = dict(known or {})
        self._agree = agree
        self._next = 0
        self._signed = identity is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def __reduce__(self) -> Any:
        raise TypeError("a worker's secrets are not to be written anywhere")

    def wipe(self) -> None:
        """Delete all secrets; no further step is possible."""
        self._next = _OVER
        for secret in ("_mask_keys", "_channel_keys", "_seed", "_own_share", "_shares", "_channels"):
            vars(self).pop(secret, None)

    @_step(0)
    def advertise(self, invitation: bytes) -> bytes:
        """Step 0: answer an invitation with public keys, made for this session only."""
        invited = Invitation.of(invitation)
        if invited.parameters != self._parameters.to_bytes():
            raise AbortError(f"the server invites with other parameters than {self._parameters}, which were agreed on")
        self._invitation = invited
        self._mask_keys, self._channel_keys = KeyPair(), KeyPair()
        both = self._mask_keys.public + self._channel_keys.public
        signature = (
            b"" if self._identity is None else self._identity.signed(_about_keys(invited.session, both, self._name))
        )
        self._keys = Keys(self._mask_keys.public, self._channel_keys.public, signature)
        return self._keys.to_bytes()

    @_step(1)
    def share(self, roster: bytes) -> bytes:
        """Step 1: read the roster, and send each neighbour sealed shares of this worker's two secrets."""
        listed = Roster.of(roster, self._signed)
        n = len(listed.names)
        if not self._parameters.least <= n <= self._parameters.most:
            least, most = self._parameters.least, self._parameters.most
            raise AbortError(f"{n} workers take part, and from {least} to {most} were agreed on")
        if len(set(listed.names)) < n:
            raise AbortError("a name stands twice in the roster")
        if self._name not in listed.names or listed.keys[listed.names.index(self._name)] != self._keys:
            raise AbortError("this worker's own keys are not at its own place in the roster")
        publics = [public for keys in listed.keys for public in (keys.mask, keys.channel)]
        if len(set(publics)) < len(publics):
            raise AbortError("a key stands twice in the roster")
        if self._signed:
            self._check_signatures(listed)
        self._names, self._roster, self._form = listed
        self._me = listed.names.index(self._name)
        self._context = context_of(self._invitation, roster)
        degree = self._parameters.degree(n)
        if 2 * degree.threshold <= degree.neighbours + 1 or degree.threshold < 2:
            raise AbortError(f"{degree.threshold} of {degree.neighbours + 1} shares are no majority")
        self._threshold = degree.threshold
        self._neighbours = neighbours_of(self._me, order(listed.names, self._invitation.session), degree.neighbours)
        self._seed = secrets.token_bytes(32)
        places = [v + 1 for v in (*self._neighbours, self._me)]
        of_seed = shamir.share(int.from_bytes(self._seed, "little"), degree.threshold, places)
        of_key = shamir.share(int.from_bytes(self._mask_keys.secret, "little"), degree.threshold, places)
        self._own_share = of_seed[-1]
        self._channels = {v: self._agree(self._channel_keys, self._roster[v].channel) for v in self._neighbours}
        boxes = []
        for v, one, other in zip(self._neighbours, of_seed, of_key, strict=False):
            text = one.to_bytes(SHARE_BYTES, "little") + other.to_bytes(SHARE_BYTES, "little")
            boxes.append(sealed(self._channel(self._me, v), text, self._about(self._me, v)))
        return Shares(commitment(self._seed, self._context), tuple(boxes)).to_bytes()

    @property
    def form(self) -> Form:
        """The form of all workers' contributions, from the roster.

        Raises:
            AbortError: If the roster has not arrived yet.
        """
        if self._next < 2:
            raise AbortError("numbers are asked for before a roster has come")
        return self._form

    @_step(2)
    def mask(
        self, forwarded: bytes, job: bytes, words: npt.NDArray[np.uint32], scalars: npt.NDArray[np.uint64]
    ) -> bytes:
        """Step 2: open the neighbours' shares, and send this worker's numbers under masks.

        Args:
            forwarded: The server's message.
            job: The digest of the job of the numbers, which must be the same for all workers, or masks do not cancel.
            words: The vector in the ring; uint32 ``[d]``; read only.
            scalars: The numbers that are added modulo 2⁶⁴, in the order of :attr:`form`; uint64 ``[m]``.
        """
        size, names = self._form
        if words.shape != (size,) or scalars.shape != (len(names),):
            raise AbortError(
                f"there are {words.shape} words and {scalars.shape} scalars to mask, and the roster says {size} and "
                f"{len(names)}"
            )
        if job != self._invitation.job:
            raise AbortError("this worker was sent another job than it was invited to")
        boxes = forwarded_of(forwarded, self._neighbours)
        if len(boxes) + 1 < self._threshold:
            raise AbortError(
                f"{len(boxes) + 1} of those who hold this worker's shares are left, {self._threshold} needed"
            )
        self._shares = {}
        for v, box in boxes.items():
            text = opened(self._channel(v, self._me), box, self._about(v, self._me))
            if text is None:
                raise AbortError(f"the shares of {self._names[v]!r} were changed on the way, or are of another session")
            one, other = text[:SHARE_BYTES], text[SHARE_BYTES:]
            self._shares[v] = int.from_bytes(one, "little"), int.from_bytes(other, "little")
        total_scalars, total = scalars.astype("<u8"), words.astype("<u4")
        masking = Masking(total_scalars, total)
        for key, sign in ((mask_key(self._seed, self._context), 1), *self._pairwise()):
            masking.add_(key, sign)
        return total_scalars.tobytes() + pack(total, self._parameters.bits)

    @_step(3)
    def confirm(self, survivors: bytes) -> bytes:
        """Step 3: sign the list of survivors, as proof that all workers got the same list; with identities only.

        Args:
            survivors: A bit for each worker of the roster.
        """
        if self._identity is None:
            raise AbortError("this worker has no identity with which it could confirm anything")
        self._confirmed = survivors
        self._check_survivors(survivors)
        self._own_confirmation = self._identity.signed(about_survivors(self._context, survivors, self._name))
        return self._own_confirmation

    def unmask(self, message: bytes) -> bytes:
        """Step 4: send the shares that remove the survivors' own masks and the others' pairwise masks.

        Args:
            message: The survivors, a bit for each worker of the roster; or, with identities, the neighbours' signatures
                of the list that this worker has confirmed.
        """
        if self._next == 3 and not self._signed:
            self._next = 4
        answer: bytes = self._unmask(message)
        self.wipe()
        return answer

    @_step(4)
    def _unmask(self, message: bytes) -> bytes:
        alive = self._check_survivors(self._confirmed if self._signed else message)
        if self._signed:
            self._check_confirmations(message)
        lines = [Reply(v, alive[v], self._shares[v][0 if alive[v] else 1]) for v in sorted(self._shares)]
        lines.append(Reply(self._me, True, self._own_share))
        return b"".join(line.to_bytes() for line in lines)

    def _check_survivors(self, survivors: bytes) -> list[bool]:
        alive = flags_of(survivors, len(self._names))
        if not alive[self._me]:
            raise AbortError("this worker is called lost, and has sent its numbers")
        if sum(alive) < self._parameters.least:
            raise AbortError(
                f"the sum would be of {sum(alive)} workers, and at least {self._parameters.least} were agreed on"
            )
        here = sum(alive[v] for v in self._shares)
        if here + 1 < self._threshold:
            raise AbortError(f"{here + 1} of those who hold this worker's shares are left, {self._threshold} needed")
        for v in self._neighbours:
            if alive[v] and v not in self._shares:
                raise AbortError(f"{self._names[v]!r} is called a survivor, and has never shared its secrets")
        return alive

    def _check_signatures(self, listed: Roster) -> None:
        for name, keys in zip(listed.names, listed.keys, strict=True):
            text = _about_keys(self._invitation.session, keys.mask + keys.channel, name)
            if name not in self._known or not is_signed(self._known[name], keys.signature, text):
                raise AbortError(f"the keys of {name!r} are not signed by it, or nobody of that name is known")

    def _check_confirmations(self, confirmations: bytes) -> None:
        good = 0
        for v, signature in signatures_of(confirmations, self._neighbours).items():
            name = self._names[v]
            good += is_signed(self._known[name], signature, about_survivors(self._context, self._confirmed, name))
        if good + 1 < self._threshold:
            raise AbortError(f"{good + 1} workers confirm this list of survivors, {self._threshold} needed")

    def _pairwise(self) -> list[tuple[bytes, int]]:
        """Return the keys of the masks that this worker shares with the remaining workers, and their signs."""
        return [
            (mask_key(self._agree(self._mask_keys, self._roster[v].mask), self._context), sign_of(self._me, v))
            for v in self._shares
        ]

    def _channel(self, sender: int, receiver: int) -> bytes:
        other = receiver if sender == self._me else sender
        return derived(self._channels[other], b"share" + self._about(sender, receiver), self._context)

    def _about(self, sender: int, receiver: int) -> bytes:
        return sender.to_bytes(4, "little") + receiver.to_bytes(4, "little") + self._context


def commitment(seed: bytes, context: bytes) -> bytes:
    """Return a worker's commitment to the seed of its own mask, made before the survivors are known."""
    return digest(b"commit", seed, context)


def mask_key(secret: bytes, context: bytes) -> bytes:
    """Return the key of the mask that is derived from a secret."""
    return derived(secret, b"mask", context)


def sign_of(worker: int, other: int) -> int:
    """Return the sign with which a worker adds the mask that it shares with another worker, who has the other sign."""
    return 1 if other < worker else -1


def about_survivors(context: bytes, survivors: bytes, name: str) -> bytes:
    """Return the text that a worker signs to confirm a list of survivors.

    The text includes the worker's name, since all workers of a node share one identity but confirm separately.
    """
    return b"survivors" + context + survivors + name.encode()


def _about_keys(session: bytes, keys: bytes, name: str) -> bytes:
    return b"keys" + session + keys + name.encode()
