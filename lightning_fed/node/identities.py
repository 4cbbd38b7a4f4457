"""Identities of workers: long-lived keys, with which a server can neither invent a worker nor impersonate one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import yaml

from lightning_fed.secure.lengths import KEY_BYTES
from lightning_fed.secure.masks import Identity


@final
@dataclass(frozen=True)
class Identities:
    """A node's identity, and the public keys of all workers that it takes part with.

    Args:
        own: The identity of the node; None: its workers have none, and rely on the server for who takes part.
        known: The public keys by the names of workers, its own among them.
    """

    own: Identity | None = field(default=None, repr=False)
    known: Mapping[str, bytes] = field(default_factory=dict)

    @staticmethod
    def read(identity: str | os.PathLike[str] | None, known: str | os.PathLike[str] | None) -> Identities:
        """Read the files of a node.

        Args:
            identity: Holds the node's private key, 64 hexadecimal digits.
            known: YAML with a line for each worker: its name, and the public key of its node, 64 hexadecimal digits.

        Raises:
            ValueError: If one is given without the other, or cannot be read; it names the file.
        """
        if identity is None or known is None:
            missing = "identity" if identity is None else "identities"
            raise ValueError(
                f"{missing}= is missing: a node signs with its own key (identity=), and looks up those of the others "
                "(identities=); give both files, or none"
            )
        try:
            content = yaml.safe_load(Path(known).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ValueError(f"identities={str(known)!r} cannot be read: {error}") from error
        if not isinstance(content, dict) or not content:
            raise ValueError(f"identities={str(known)!r} must have a line 'name: public key' for each worker")
        return Identities(
            Identity(_key(Path(identity).read_text(encoding="utf-8") if Path(identity).is_file() else "", identity)),
            {str(name): _key(str(public), f"{known}, {name}") for name, public in content.items()},
        )


def write_identity(path: Path) -> str:
    """Make a new identity, write its private key where its owner alone can read it, and return the public one.

    Args:
        path: The file; it must not be there yet.

    Raises:
        FileExistsError: If the file exists: other nodes hold its public key.
    """
    identity = Identity()
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(identity.secret.hex() + "\n")
    return identity.public.hex()


def _key(text: str, where: object) -> bytes:
    try:
        key = bytes.fromhex(text.strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError(f"{where}: there is no key of {2 * KEY_BYTES} hexadecimal digits; make one by write_identity")
    return key
