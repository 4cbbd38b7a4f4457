"""The folder of a process's state files, and which of them a checkpoint refers to.

A file that holds rows no longer is deleted, unless a checkpoint refers to it; then it goes when the Trainer has deleted
or overwritten the last such checkpoint. Which checkpoint refers to what is noted in the folder, before the checkpoint
is written, so that a process that is killed leaves nothing that its successor would delete too early, or never.

Files carry the name of their run, and a run deletes its own files only. A process that goes on from a checkpoint takes
the run over, together with its notes, if no other process holds it; else it begins a run of its own. What a checkpoint
refers to that was deleted or moved by other hands stays: it may have been moved.
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
except ImportError:  # another system, on which no run is taken over
    fcntl = None  # type: ignore[assignment]


@final
class StateFolder(Shown):
    """Names new files, and deletes those that nobody refers to.

    Args:
        place: Returns the folder, when it is needed.
        live: Returns the files that hold rows now.
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
        """Delete a file that holds no rows any more, unless a checkpoint refers to it or another run wrote it."""
        self._delete([path.name])

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def hand_out(self, paths: Collection[Path]) -> None:
        """Note that a checkpoint is made that refers to files; until it is known where it lies they stay.

        Args:
            paths: The files.

        Raises:
            OSError: If it cannot be noted; then the checkpoint must not be written.
        """
        own = [path.name for path in paths if self._is_own(path.name)]
        if own:
            self._references.unplaced.update(own)
            self._hold(self.run)
            self._note()

    def placing(self, checkpoint: str, names: Iterable[str]) -> None:
        """Note where a checkpoint is about to be written; what it overwrites counts until that is done.

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
        """Note that what was being written is complete, as far as it is; delete what only an overwritten one had."""
        self._forget(self._references.replaced(self._found))

    def leaving(self, checkpoint: str) -> None:
        """Note that the Trainer is about to delete a checkpoint.

        Args:
            checkpoint: Its path.
        """
        key = self._key(checkpoint)
        if key in self._references.checkpoints:
            self._references.leaving.add(key)
            self._note()

    def left(self) -> None:
        """Delete what only those checkpoints referred to that have been deleted."""
        self._forget(self._references.gone(self._found))

    def take_over(self, run: str, folder: Path) -> None:
        """Go on with the run of a checkpoint, if its files lie here and no other process goes on with it.

        Args:
            run: The name of the run.
            folder: Where its files lie.
        """
        if run == self.run or not folder.is_dir() or not self.path.is_dir() or not folder.samefile(self.path):
            return
        noted = _References.read(self._notes(run))
        if noted is None or not self._hold(run):
            return
        self.run, self._references = run, noted
        with suppress(OSError):  # what is left over then goes another time
            for unfinished in folder.glob(f"*-{run}-*{UNFINISHED}"):
                unfinished.unlink()
        self.left()
        self.placed()
        self._delete(path.name for path in folder.glob(f"*-{run}-*.safetensors"))

    def _found(self, key: str) -> Any:
        return stamp(self.path / key)

    def _key(self, checkpoint: str) -> str:
        """Name a checkpoint by its path from here, so that a run folder can be moved as a whole."""
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
                with suppress(OSError):  # it takes room, and no more
                    (self.path / name).unlink(missing_ok=True)

    def _notes(self, run: str) -> Path:
        return self.path / f"{run}.checkpoints.json"

    def _note(self) -> None:
        try:
            write_whole(self._notes(self.run), self._references.write)
        except OSError:  # such as a full disk: without notes nobody takes the run over, and deletes what it should not
            self._notes(self.run).unlink(missing_ok=True)

    def _hold(self, run: str) -> bool:
        """Hold a run for this process, until it ends, however it ends.

        Returns:
            Whether no other holds it.
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
        """Return what a copy takes over: nothing, but whatever it refers to stays from now on."""
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
        """Let a checkpoint refer to files, besides what it referred to before."""
        self.unplaced.subtract(names)
        self.unplaced = +self.unplaced
        self._placing[checkpoint] = names, before
        self.checkpoints[checkpoint] = sorted({*self.checkpoints.get(checkpoint, ()), *names})
        self.leaving.discard(checkpoint)

    def replaced(self, found: Callable[[str], Any]) -> set[str]:
        """Forget what checkpoints referred to that have been overwritten by now; returns the names of the files."""
        names: set[str] = set()
        for checkpoint, (new, before) in list(self._placing.items()):
            if found(checkpoint) != before:
                names.update(set(self.checkpoints[checkpoint]) - set(new))
                self.checkpoints[checkpoint] = new
                del self._placing[checkpoint]
        return names

    def gone(self, found: Callable[[str], Any]) -> set[str]:
        """Forget checkpoints that were being deleted and are not there; returns the names of their files."""
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
        """Read what was noted; None if nothing was, or it cannot be read."""
        try:
            content = json.loads(path.read_text())
            references = cls()
            references.unplaced = Counter(content["unplaced"])
            references.checkpoints = {key: list(names) for key, names in content["checkpoints"].items()}
            references.leaving = set(content["leaving"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return references
