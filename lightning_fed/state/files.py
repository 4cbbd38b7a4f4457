"""Files that are either complete or missing, with checksums of rows, and errors that name the file and the fix."""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

UNFINISHED = ".unfinished"
_ROWS = "rows"
_CHECKSUMS = "checksums"


@final
class DamagedFileError(ValueError):
    """A file of workers' state is damaged.

    Args:
        path: The file.
        reason: The damage.
    """

    def __init__(self, path: Path, reason: object) -> None:
        super().__init__(
            f"the state of workers in {path} is damaged ({reason}); put back a copy of the file, or go on from a "
            "checkpoint that does not refer to it"
        )


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file that replaces an older one only when it is complete and on the disk.

    Args:
        path: The file.
        write: Writes the file to the path that it receives.

    Raises:
        OSError: If the file could not be written; no part of it remains.
    """
    unfinished = path.with_name(path.name + UNFINISHED)
    try:
        try:
            write(unfinished)
        except SafetensorError as error:
            raise OSError(str(error)) from error
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not supported by every filesystem
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk: a checkpoint will refer to them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's numbers.

    Args:
        tensor: Of any shape and dtype; on the CPU.
    """
    return zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def write_rows(path: Path, rows: Tensor) -> int:
    """Write rows into a new file.

    Args:
        path: The file.
        rows: ``[n, size]``.

    Returns:
        A checksum of all rows, to be stored elsewhere.

    Raises:
        OSError: If the file could not be written; no part of it remains.
    """
    checksums = torch.tensor([checksum(row) for row in rows], dtype=torch.int64)
    write_whole(path, lambda unfinished: save_file({_ROWS: rows, _CHECKSUMS: checksums}, unfinished))
    return checksum(checksums)


def read_rows(path: Path, places: Tensor | None, expected: int | None) -> Tensor:
    """Read rows from a file, and compare them with their checksums.

    Args:
        path: The file.
        places: Which of them, int64 ``[n]``; None: all.
        expected: What :func:`write_rows` returned; None: the file is of an older format, which has no checksums.

    Returns:
        ``[n, size]``.

    Raises:
        DamagedFileError: If the file is damaged.
        OSError: If it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            everything: Tensor = opened.get_tensor(_ROWS)  # mapped: only the pages of the rows below are read
            rows = everything.clone() if places is None else everything[places]
            if expected is None:
                return rows
            checksums: Tensor = opened.get_tensor(_CHECKSUMS)
    except OSError as error:
        raise OSError(f"the state of workers in {path} cannot be read ({error})") from error
    except (SafetensorError, IndexError, KeyError, UnicodeDecodeError) as error:
        raise DamagedFileError(path, error) from error
    if checksum(checksums) != expected or len(checksums) != len(everything):
        raise DamagedFileError(path, "its checksum is another: it is damaged, or a file of something else")
    there = checksums if places is None else checksums[places]
    for row, known in zip(rows, there.tolist(), strict=True):
        if checksum(row) != known:
            raise DamagedFileError(path, "a row does not have its checksum")
    return rows


def free_space(folder: Path) -> str:
    """Return the free space on the disk of a folder, as text; the folder need not exist."""
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.0f} MB are free there"
    except OSError:
        return "it cannot be reached"


def refuse_unwritable(folder: Path, what: str) -> None:
    """Refuse a folder in which no file can be created.

    Args:
        folder: The folder. It is not created if it does not exist: removing a created parent folder again could
            disturb other processes that check folders beside it.
        what: The content of the folder and the way to choose another one, for the message.

    Raises:
        OSError: If no file can be created there.
    """
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    try:
        with tempfile.TemporaryDirectory(prefix="probe-", suffix=UNFINISHED, dir=there) as probe:
            Path(probe, "file").write_bytes(b"\0")
    except OSError as error:
        raise OSError(f"nothing can be written to {folder} ({error}; {free_space(folder)}): {what}") from error


def stamp(path: str | Path) -> Any:
    """Return a value that changes when a file is rewritten; None if there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size
