"""One row for each of very many workers: the newest rows in memory, the others in files that are never changed.

When the rows in memory exceed a budget, the older half of them is written to a new file. A row that is written again
becomes the newest, and its old place is garbage; a file that is mostly garbage is read back and released. A file is
complete before it gets its name and never changed afterwards, so checkpoints can refer to it, also after a crash.

A row leaves the memory only when its file is safe. If no file can be written, the rows stay in memory, with a warning,
and the next write tries again. After an interruption at any point, each row exists in one place or in two.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed.state.files import free_space, read_rows, write_rows
from lightning_fed.state.folder import StateFolder


@final
class SpilledRows:
    """Rows of one length and dtype by name, most of them on disk if necessary.

    Args:
        budget: The number of bytes of rows to keep in memory; one row at least.
        folder: The folder of the files.
        name: The prefix of the files' names.
    """

    def __init__(self, budget: int, folder: StateFolder, name: str) -> None:
        self._budget = budget
        self._folder = folder
        self._name = name
        self._recent: OrderedDict[str, Tensor] = OrderedDict()  # the oldest first
        self._places: dict[str, tuple[int, int]] = {}  # of rows on disk: number of the file, and row in it
        self._files: dict[int, Path] = {}
        self._checksums: dict[int, int | None] = {}  # None: an older format without checksums
        self._alive: dict[int, int] = {}  # the number of current rows in a file; never too small
        self._lengths: dict[int, int] = {}
        self._next = 0
        self._is_stuck = False

    def __len__(self) -> int:
        return len(self._recent.keys() | self._places.keys())

    @property
    def files(self) -> list[Path]:
        """The files that hold rows."""
        return list(self._files.values())

    @property
    def row_size(self) -> int | None:
        """The length of a row; None if there is none in memory."""
        return next((len(row) for row in self._recent.values()), None)

    def __contains__(self, name: str) -> bool:
        return name in self._recent or name in self._places

    def read(self, names: Sequence[str], out: Tensor) -> None:
        """Read rows into a tensor; missing rows leave it unchanged.

        Args:
            names: The n names.
            out: The tensor; ``[n, size]``.
        """
        wanted: dict[int, list[tuple[int, int]]] = {}
        for position, name in enumerate(names):
            if name in self._recent:
                out[position] = self._recent[name].to(out)
            elif name in self._places:
                file, row = self._places[name]
                wanted.setdefault(file, []).append((position, row))
        for file, pairs in wanted.items():
            positions, rows = (torch.tensor(column) for column in zip(*pairs, strict=True))
            out[positions.to(out.device)] = self._read_file(file, rows).to(out)

    def all(self) -> dict[str, Tensor]:
        """Return all rows by name; rows on disk are read."""
        return self.some(list(dict.fromkeys([*self._recent, *self._places])))

    def some(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return some rows by name; rows on disk are read.

        Args:
            names: The names of existing rows.
        """
        rows: dict[str, Tensor] = {}
        on_disk: dict[int, list[str]] = {}
        for name in names:
            if name in self._recent:
                rows[name] = self._recent[name]
            else:
                on_disk.setdefault(self._places[name][0], []).append(name)
        for file, here in on_disk.items():
            places = torch.tensor([self._places[name][1] for name in here])
            rows.update(zip(here, self._read_file(file, places), strict=True))
        return rows

    def write(self, names: Sequence[str], rows: Tensor) -> None:
        """Store rows.

        Args:
            names: The n names.
            rows: ``[n, size]``, of the dtype and size of all other rows; on the CPU.
        """
        for name, row in zip(names, rows, strict=True):
            self._recent[name] = row.clone()  # a view would keep the whole stack in memory
            self._recent.move_to_end(name)
            self._forget_place(name)
        self._keep_to_budget()
        self._compact()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint: the rows in memory, and the places of rows on disk; their files stay."""
        self._folder.hand_out(self.files)
        numbers = list(self._files)
        order = {number: position for position, number in enumerate(numbers)}
        places = {name: place for name, place in self._places.items() if name not in self._recent}
        return {
            "names": list(self._recent),
            "rows": torch.stack(list(self._recent.values())) if self._recent else torch.empty(0),
            "files": [f"{path.parent.name}/{path.name}" for path in self._files.values()],
            "checksums": [self._checksums[number] for number in numbers],
            "lengths": [self._lengths[number] for number in numbers],
            "names_on_disk": list(places),
            "places": torch.tensor([(order[file], row) for file, row in places.values()], dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any], roots: Sequence[Path] = ()) -> None:
        """Restore a checkpoint; every file is read once, and compared with its checksums.

        Args:
            state: The result of :meth:`state_dict`.
            roots: Folders in which to search for the files, the likeliest first; the last one is this run's folder.

        Raises:
            FileNotFoundError: If a file is missing.
            DamagedFileError: If a file is damaged.
        """
        files = {number: self._find(path, roots) for number, path in enumerate(state["files"])}
        checksums = dict(enumerate(state.get("checksums", [None] * len(files))))
        places = [(file, row) for file, row in state["places"].tolist()]
        for number, path in files.items():
            needed = [row for file, row in places if file == number]
            read_rows(path, None if checksums[number] is not None else torch.tensor(needed), checksums[number])
        self._recent = OrderedDict((name, row.clone()) for name, row in zip(state["names"], state["rows"], strict=True))
        self._files, self._checksums, self._lengths = files, checksums, dict(enumerate(state["lengths"]))
        self._next = len(self._files)
        self._places = dict(zip(state["names_on_disk"], places, strict=True))
        self._alive = dict.fromkeys(self._files, 0)
        for file, _ in places:
            self._alive[file] += 1

    def _find(self, recorded: str, roots: Sequence[Path]) -> Path:
        own = self._folder.path
        candidates = [root / recorded for root in (*roots, own.parent)] + [own / Path(recorded).name]
        for candidate in candidates:  # in an older format it may be an absolute path
            if candidate.exists():
                return candidate.absolute()
        raise FileNotFoundError(
            f"the state of workers in {candidates[0]} is gone, which the checkpoint refers to; put the file back there "
            f"or into {own}, or go on from another checkpoint"
        )

    def _read_file(self, file: int, rows: Tensor) -> Tensor:
        return read_rows(self._files[file], rows, self._checksums[file])

    def _forget_place(self, name: str) -> None:
        place = self._places.pop(name, None)
        if place is not None:
            self._alive[place[0]] -= 1

    def _keep_to_budget(self) -> None:
        """Move rows to disk if those in memory exceed the budget: half of them, or more if necessary."""
        row_bytes = next(iter(self._recent.values())).nbytes if self._recent else 0
        if len(self._recent) * row_bytes <= self._budget:
            return
        try:
            self._spill(max(len(self._recent) // 2, len(self._recent) - self._budget // row_bytes))
        except OSError as error:
            if not self._is_stuck:
                self._is_stuck = True
                warnings.warn(
                    f"the state of workers cannot be written to {self._folder.path} ({error}; "
                    f"{free_space(self._folder.path)}): {len(self._recent) * row_bytes / 2**20:.0f} MB of it stay in "
                    "memory, and the run goes on; make room there, or go on from a checkpoint with another "
                    "FederatedModule(state_dir=...)",
                    stacklevel=2,
                )
        else:
            self._is_stuck = False

    def _spill(self, count: int) -> None:
        """Move the oldest rows into a new file.

        Raises:
            OSError: If the file could not be written; all rows then stay in their places.
        """
        names = [name for name, _ in zip(self._recent, range(count), strict=False)]
        path = self._folder.new_file(self._name)
        number, self._next = self._next, self._next + 1
        try:
            self._checksums[number] = write_rows(path, torch.stack([self._recent[name] for name in names]))
            self._lengths[number], self._alive[number] = len(names), 0
            self._files[number] = path
        except BaseException:
            if number not in self._files:
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
        for row, name in enumerate(names):
            self._forget_place(name)
            self._alive[number] += 1
            self._places[name] = (number, row)
            del self._recent[name]

    def _compact(self) -> None:
        """Drop files with mostly outdated rows; their current rows are written to a newer file."""
        for number in [n for n, path in self._files.items() if 2 * self._alive[n] < self._lengths[n]]:
            names = [name for name, (file, _) in self._places.items() if file == number] if self._alive[number] else []
            if names:
                rows = self._read_file(number, torch.tensor([self._places[name][1] for name in names]))
                for name, row in zip(names, rows, strict=True):
                    if name not in self._recent:
                        self._recent[name] = row.clone()
                        self._recent.move_to_end(name, last=False)
                    self._forget_place(name)
            self._folder.let_go(self._files.pop(number))
            self._keep_to_budget()  # file by file: one cohort may make many files obsolete
