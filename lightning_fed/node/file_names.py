"""Names of files and folders for workers, whose own names may not be valid file names."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

_LONGEST = 200


def name_of_file(worker: str) -> str:
    """Return the name of a worker's file or folder: unique for every worker, and never a path out of its folder.

    Args:
        worker: The worker's name.

    >>> name_of_file("ward 7"), name_of_file("../../etc"), name_of_file("..")
    ('ward 7', '%2E.%2F..%2Fetc', '%2E.')
    """
    name = quote(worker, safe=" ")
    if name.startswith("."):
        name = f"%2E{name[1:]}"
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 2]}-{hashlib.sha256(worker.encode()).hexdigest()[:32]}"
    return name
