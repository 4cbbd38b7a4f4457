"""Unix sockets of a node's processes, in a folder private to the user. Imports no torch and no numpy."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import stat
import tempfile
from pathlib import Path

from lightning_fed.node.settings import Settings

_LONGEST = 103
"""The longest path of a unix socket, in bytes: 107 on Linux, 103 elsewhere."""


class ResidentError(RuntimeError):
    """The resident process of a node has not answered."""


def socket_of(settings: Settings, identity: str) -> Path:
    """Return the path of a node's socket. Other settings lead to another socket.

    Args:
        settings: The node's settings.
        identity: Distinguishes this node from others of the same user, and this socket from others of the node.

    Raises:
        ResidentError: If there is no folder that is private to this user, or its path is too long for a socket.
    """
    # A digest, as paths of sockets are short
    named = [identity, os.getuid(), settings.environment()]
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:16]
    path = _folder() / f"{digest}.sock"
    if len(os.fsencode(path)) > _LONGEST:
        raise ResidentError(
            f"the path of the node's socket is longer than {_LONGEST} bytes: set TMPDIR to a shorter folder"
        )
    return path


def listening(path: Path) -> socket.socket:
    """Return a listening socket that accepts connections of this user only.

    Args:
        path: Its path; the leftover of a killed process is removed.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    listener.listen(16)
    return listener


def is_running(process: int) -> bool:
    """Return whether there is a process of this id.

    Args:
        process: The id.
    """
    with contextlib.suppress(PermissionError):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return False
    return True


def _folder() -> Path:
    """Return a folder private to this user, whose parent folder others may write to."""
    folder = Path(tempfile.gettempdir()) / f"lightning-fed-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ResidentError(f"{folder} is not a folder of this user alone (mode 0700): remove it, or set TMPDIR")
    return folder
