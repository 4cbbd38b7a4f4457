"""The cryptography of the protocol: keys, masks and sealed boxes, by the package ``cryptography`` (the extra
``secure``).

Every key is derived from a secret for one use, with a label and a context that all parties share. Each key encrypts
once, so a nonce of 0 is always correct.
"""

from __future__ import annotations

import hashlib
from typing import Any, final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.lengths import KEY_BYTES

_SALT = b"lightning_fed secure aggregation 1"
_PIECE = 2**16
"""The number of bytes of a mask that are made at a time; they stay in a processor's cache, which is faster."""
_ZEROS = memoryview(bytes(_PIECE))


def digest(*parts: bytes | bytearray | memoryview) -> bytes:
    """Return the SHA-256 of parts, each after its length, so different lists of parts have different digests.

    >>> digest(b"a", b"bc").hex()[:16]
    '9a8acca1b6c6c0be'
    """
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "little"))
        hashed.update(part)
    return hashed.digest()


def derived(secret: bytes, label: bytes, context: bytes) -> bytes:
    """Return a key for one use: HKDF (RFC 5869) with SHA-256.

    Args:
        secret: 32 bytes.
        label: The purpose of the key.
        context: 32 bytes that bind it to a session, its parameters, its roster and its job.
    """
    return HKDF(hashes.SHA256(), KEY_BYTES, _SALT, label + context).derive(secret)


@final
class KeyPair:
    """A pair of keys on Curve25519 (RFC 7748). The repr shows no key.

    Args:
        secret: The private key, 32 bytes; None: a new one.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._key = X25519PrivateKey.generate() if secret is None else X25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()
        """The public key, 32 bytes."""

    @property
    def secret(self) -> bytes:
        """The private key, 32 bytes."""
        return self._key.private_bytes_raw()

    def agreed(self, public: bytes) -> bytes:
        """Return the shared secret of an exchange, 32 bytes.

        Args:
            public: The other's public key, 32 bytes.

        Raises:
            AbortError: If the key is a point of low order, with which the secret is predictable.
        """
        try:
            return self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise AbortError("a public key is of low order, so that the secret would be none") from None


@final
class Agreements:
    """Shared secrets of pairs of keys in one process, each computed once for both ends.

    This saves half of the exchanges in a simulation (``benchmarks/secure.py``).
    """

    def __init__(self) -> None:
        self._of_one_end: dict[tuple[bytes, bytes], bytes] = {}

    def __call__(self, own: KeyPair, public: bytes) -> bytes:
        """Return the same as :meth:`KeyPair.agreed`.

        Args:
            own: The keys of one end.
            public: The other's public key, 32 bytes.
        """
        ends = min(own.public, public), max(own.public, public)
        secret = self._of_one_end.pop(ends, None)
        if secret is None:
            secret = self._of_one_end[ends] = own.agreed(public)
        return secret


@final
class Masking:
    """Adds masks to numbers in place: the random stream of AES-256 in counter mode for each key, from 0 on.

    Vectors are divided into pieces once for all masks, which is faster.

    Args:
        vectors: uint32 or uint64, contiguous; a mask goes on from one to the next.
    """

    def __init__(self, *vectors: npt.NDArray[Any]) -> None:
        self._out = bytearray(_PIECE + 15)
        self._pieces = []
        for vector in vectors:
            length = _PIECE // vector.itemsize
            for begin in range(0, len(vector), length):
                part = vector[begin : begin + length]
                mask = np.frombuffer(self._out, part.dtype, count=len(part))
                self._pieces.append((part, _ZEROS[: part.nbytes], mask))

    def add_(self, key: bytes, sign: int) -> None:
        """Add or subtract a mask, modulo the word size.

        Args:
            key: 32 bytes, used once.
            sign: 1 or -1.
        """
        encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
        change = np.add if sign > 0 else np.subtract
        for part, zeros, mask in self._pieces:
            encryptor.update_into(zeros, self._out)
            change(part, mask, out=part)


def sealed(key: bytes, text: bytes, about: bytes) -> bytes:
    """Encrypt and authenticate a text: AES-256-GCM.

    Args:
        key: 32 bytes, used once.
        text: Any bytes.
        about: The associated data, which must be the same for decryption.
    """
    return AESGCM(key).encrypt(bytes(12), text, about)


def opened(key: bytes, box: bytes, about: bytes) -> bytes | None:
    """Return the text of :func:`sealed`; None: another key, or other associated data."""
    try:
        return AESGCM(key).decrypt(bytes(12), box, about)
    except InvalidTag:
        return None


@final
class Identity:
    """A long-term key that identifies a worker (Ed25519, RFC 8032). The repr shows no key.

    Args:
        secret: The private key, 32 bytes; None: a new one.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._key = Ed25519PrivateKey.generate() if secret is None else Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()
        """The public key, 32 bytes."""

    @property
    def secret(self) -> bytes:
        """The private key, 32 bytes."""
        return self._key.private_bytes_raw()

    def signed(self, text: bytes) -> bytes:
        """Return the signature of a text, 64 bytes."""
        return self._key.sign(text)


def is_signed(public: bytes, signature: bytes, text: bytes) -> bool:
    """Whether a signature is that of a text by the holder of a public key."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except (InvalidSignature, ValueError):
        return False
    return True
