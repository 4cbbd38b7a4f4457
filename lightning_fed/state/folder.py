"""The folder of a process's state files, with the checkpoints' references to them.

A file without current rows is deleted, unless a checkpoint refers to it; it is then deleted once the Trainer has
deleted or overwritten the last such checkpoint. References are recorded in the folder before a checkpoint is written,
so after a killed process its successor deletes no file too early, and leaves none forever.

File names contain the name of their run, and a run deletes its own files only. A process that resumes from a checkpoint
takes over the run and its records, if no other process holds it; else it begins a new run. Files of a checkpoint that
was removed by other means stay, since the checkpoint may have been moved.
"""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from lightning_fed.core.shown import Shown
from lightning_fed.state.files import UNFINISHED, stamp, write_whole

try:
    import fcntl
except ImportError:  # on this system no run is taken over
    fcntl = None  # type: ignore[assignment]


@final
class StateFolder(Shown):
    """Names new files, and deletes files without references.

    Args:
        place: Returns the folder, at first use.
        live: Returns the files with current rows.
    """

    def __init__(self, place: Callable[[], Path], live: Callable[[], Iterable[Path]] = tuple) -> None:
        self._place = place
        self._live = live
        self.run = uuid.uuid4().hex[:12]
        """The name of the run, which is part of its files' names."""
        self._references = _References()
        self._lock: int | None = None

    @property
    def path(self) -> Path:
        """The folder; it need not exist."""
        return self._place()

    def new_file(self, table: str) -> Path:
        """Return the path of a file that does not exist, in a folder that does.

        Args:
            table: Begins its name.

        Raises:
            OSError: If the folder cannot be made.
        """
        folder = self.path
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{table}-{self.run}-{uuid.uuid4().hex}.safetensors"

    def let_go(self, path: Path) -> None:
        """Delete a file without current rows, unless a checkpoint refers to it or another run wrote it."""
        self._delete([path.name])

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def hand_out(self, paths: Collection[Path]) -> None:
        """Record that a new checkpoint refers to files; they stay until the checkpoint's path is known.

        Args:
            paths: The files.

        Raises:
            OSError: If the record cannot be written; the checkpoint must then not be written.
        """
        own = [path.name for path in paths if self._is_own(path.name)]
        if own:
            self._references.unplaced.update(own)
            self._hold(self.run)
            self._note()

    def placing(self, checkpoint: str, names: Iterable[str]) -> None:
        """Record the path of a checkpoint before it is written; an overwritten one counts until then.

        Args:
            checkpoint: Its path.
            names: The names of the files that it refers to, as in :meth:`hand_out`.
        """
        own = [name for name in names if self._is_own(name)]
        key = self._key(checkpoint)
        if own or key in self._references.checkpoints:
            self._references.place(key, own, stamp(checkpoint))
            self._note()

    def placed(self) -> None:
        """Record the complete checkpoints, and delete files to which only overwritten ones referred."""
        self._forget(self._references.replaced(self._found))

    def leaving(self, checkpoint: str) -> None:
        """Record that the Trainer is about to delete a checkpoint.

        Args:
            checkpoint: Its path.
        """
        key = self._key(checkpoint)
        if key in self._references.checkpoints:
            self._references.leaving.add(key)
            self._note()

    def left(self) -> None:
        """Delete files to which only deleted checkpoints referred."""
        self._forget(self._references.gone(self._found))

    def take_over(self, run: str, folder: Path) -> None:
        """Take over the run of a checkpoint, if its files are here and no other process holds it.

        Args:
            run: The name of the run.
            folder: The folder of its files.
        """
        if run == self.run or not folder.is_dir() or not self.path.is_dir() or not folder.samefile(self.path):
            return
        noted = _References.read(self._notes(run))
        if noted is None or not self._hold(run):
            return
        self.run, self._references = run, noted
        with suppress(OSError):  # remaining files are deleted later
            for unfinished in folder.glob(f"*-{run}-*{UNFINISHED}"):
                unfinished.unlink()
        self.left()
        self.placed()
        self._delete(path.name for path in folder.glob(f"*-{run}-*.safetensors"))

    def _found(self, key: str) -> Any:
        return stamp(self.path / key)

    def _key(self, checkpoint: str) -> str:
        """Return a checkpoint's path relative to the folder, so a run folder can be moved as a whole."""
        return os.path.relpath(os.path.abspath(checkpoint), self.path)

    def _is_own(self, name: str) -> bool:
        return f"-{self.run}-" in name

    def _forget(self, names: Collection[str]) -> None:
        if names:
            self._note()
            self._delete(names)

    def _delete(self, names: Iterable[str]) -> None:
        live = {path.name for path in self._live()}
        for name in names:
            if self._is_own(name) and name not in live and not self._references.to(name):
                with suppress(OSError):  # a remaining file only takes space
                    (self.path / name).unlink(missing_ok=True)

    def _notes(self, run: str) -> Path:
        return self.path / f"{run}.checkpoints.json"

    def _note(self) -> None:
        try:
            write_whole(self._notes(self.run), self._references.write)
        except OSError:  # such as a full disk: without records nobody takes the run over and deletes wrong files
            self._notes(self.run).unlink(missing_ok=True)

    def _hold(self, run: str) -> bool:
        """Lock a run for this process, until the process ends in any way.

        Returns:
            Whether no other process holds the run.
        """
        if fcntl is None:
            return run == self.run
        if self._lock is not None and run == self.run:
            return True
        lock = os.open(self.path / f"{run}.lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        if self._lock is not None:
            os.close(self._lock)
        self._lock = lock
        return True

    def __del__(self) -> None:
        if self._lock is not None:
            os.close(self._lock)

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty state for a copy; files to which the copy refers stay from now on."""
        live = list(self._live())
        if live:
            self.hand_out(live)
        return {"_place": self._place, "_live": self._live}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(vars(StateFolder(state["_place"], state["_live"])))


@final
class _References:
    """References of checkpoints to files, by the names of both."""

    def __init__(self) -> None:
        self.unplaced: Counter[str] = Counter()
        self.checkpoints: dict[str, list[str]] = {}
        self.leaving: set[str] = set()
        self._placing: dict[str, tuple[list[str], Any]] = {}

    def to(self, name: str) -> bool:
        """Whether a checkpoint refers to a file."""
        return self.unplaced[name] > 0 or any(name in names for names in self.checkpoints.values())

    def place(self, checkpoint: str, names: list[str], before: Any) -> None:
        """Add references of a checkpoint to files."""
        self.unplaced.subtract(names)
        self.unplaced = +self.unplaced
        self._placing[checkpoint] = names, before
        self.checkpoints[checkpoint] = sorted({*self.checkpoints.get(checkpoint, ()), *names})
        self.leaving.discard(checkpoint)

    def replaced(self, found: Callable[[str], Any]) -> set[str]:
        """Drop the references of overwritten checkpoints, and return the names of their files."""
        names: set[str] = set()
        for checkpoint, (new, before) in list(self._placing.items()):
            if found(checkpoint) != before:
                names.update(set(self.checkpoints[checkpoint]) - set(new))
                self.checkpoints[checkpoint] = new
                del self._placing[checkpoint]
        return names

    def gone(self, found: Callable[[str], Any]) -> set[str]:
        """Drop the references of deleted checkpoints, and return the names of their files."""
        names: set[str] = set()
        for checkpoint in [checkpoint for checkpoint in self.leaving if found(checkpoint) is None]:
            names.update(self.checkpoints.pop(checkpoint, ()))
            self._placing.pop(checkpoint, None)
            self.leaving.discard(checkpoint)
        return names

    def write(self, path: Path) -> None:
        content = {"unplaced": self.unplaced, "checkpoints": self.checkpoints, "leaving": sorted(self.leaving)}
        path.write_text(json.dumps(content))

    @classmethod
    def read(cls, path: Path) -> _References | None:
        """Read the recorded references; None if there is no readable record."""
        try:
            content = json.loads(path.read_text())
            references = cls()
            references.unplaced = Counter(content["unplaced"])
            references.checkpoints = {key: list(names) for key, names in content["checkpoints"].items()}
            references.leaving = set(content["leaving"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return references
