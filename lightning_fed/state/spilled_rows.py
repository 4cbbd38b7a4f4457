"""One row for each of very many workers: the newest in memory, the others in files that are never changed.

When the rows in memory exceed a budget, the older half of them goes into a new file. A row that is written again is
newest again, and its old place is garbage; a file that is mostly garbage is read back and let go. Since a file is
complete before it gets its name and is not changed afterwards, a checkpoint can refer to it: whatever happens to the
process, what the last checkpoint refers to is there.
"""

from __future__ import annotations

import os
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

_KEY = "rows"


@final
class SpilledRows:
    """Rows of one length and dtype by name, most of them on disk if need be.

    Args:
        budget: How many bytes of rows to keep in memory; one row at least.
        folder: Gives the folder for files, when the first one is needed.
        name: Begins the names of the files.
    """

    def __init__(self, budget: int, folder: Callable[[], Path], name: str) -> None:
        self._budget = budget
        self._folder = folder
        self._name = name
        self._recent: OrderedDict[str, Tensor] = OrderedDict()  # the longest unwritten first
        self._places: dict[str, tuple[int, int]] = {}  # of rows on disk: number of the file, and row in it
        self._files: dict[int, Path] = {}
        self._alive: dict[int, int] = {}  # how many rows of a file are not garbage
        self._lengths: dict[int, int] = {}
        self._kept: set[int] = set()  # files that a checkpoint refers to
        self._next = 0

    def __len__(self) -> int:
        return len(self._recent) + len(self._places)

    @property
    def row_size(self) -> int | None:
        """The length of a row; None if there is none in memory."""
        return next((len(row) for row in self._recent.values()), None)

    def __contains__(self, name: str) -> bool:
        return name in self._recent or name in self._places

    def read(self, names: Sequence[str], out: Tensor) -> None:
        """Read rows; a row that there is none of is left as it is.

        Args:
            names: The n names.
            out: Where to put them; ``[n, size]``.
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
        """Return every row by name; reads from disk what lies there."""
        return self.some([*self._recent, *self._places])

    def some(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return some rows by name; reads from disk what lies there.

        Args:
            names: The names of rows that there are.
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
        """Remember rows.

        Args:
            names: The n names.
            rows: ``[n, size]``, of the dtype and size of all other rows; on the CPU.
        """
        for name, row in zip(names, rows, strict=True):
            self._forget_place(name)
            self._recent[name] = row.clone()  # a view would keep all of the rows that came with it
            self._recent.move_to_end(name)
        self._keep_to_budget()
        self._compact()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the rows in memory, and where those on disk lie. Their files stay from now on."""
        self._kept.update(self._files)
        numbers = list(self._files)
        order = {number: position for position, number in enumerate(numbers)}
        return {
            "names": list(self._recent),
            "rows": torch.stack(list(self._recent.values())) if self._recent else torch.empty(0),
            "files": [str(self._files[number]) for number in numbers],
            "lengths": [self._lengths[number] for number in numbers],
            "names_on_disk": list(self._places),
            "places": torch.tensor([(order[file], row) for file, row in self._places.values()], dtype=torch.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; a file is looked for where it was, and in the folder of this run.

        Raises:
            FileNotFoundError: If a file is gone.
        """
        self._recent = OrderedDict((name, row.clone()) for name, row in zip(state["names"], state["rows"], strict=True))
        self._files = {number: self._find(path) for number, path in enumerate(state["files"])}
        self._lengths = dict(enumerate(state["lengths"]))
        self._kept = set(self._files)
        self._next = len(self._files)
        places = [(file, row) for file, row in state["places"].tolist()]
        self._places = dict(zip(state["names_on_disk"], places, strict=True))
        self._alive = dict.fromkeys(self._files, 0)
        for file, _ in places:
            self._alive[file] += 1

    def _find(self, path: str) -> Path:
        own, written = self._folder(), Path(path)
        for candidate in (written, own / written.name, own.parent / written.parent.name / written.name):
            if candidate.exists():
                return candidate
        raise FileNotFoundError(
            f"the state of workers in {path} is gone, which the checkpoint refers to; put the file back there or into "
            f"{self._folder()}, or go on from another checkpoint"
        )

    def _read_file(self, file: int, rows: Tensor) -> Tensor:
        with safe_open(self._files[file], framework="pt") as opened:
            everything: Tensor = opened.get_tensor(_KEY)  # mapped: only the pages of the rows below are read
            return everything[rows]

    def _forget_place(self, name: str) -> None:
        place = self._places.pop(name, None)
        if place is not None:
            self._alive[place[0]] -= 1

    def _keep_to_budget(self) -> None:
        """Move rows to disk if those in memory exceed the budget: half of them, or more if need be."""
        row_bytes = next(iter(self._recent.values())).nbytes if self._recent else 0
        if len(self._recent) * row_bytes > self._budget:
            self._spill(max(len(self._recent) // 2, len(self._recent) - self._budget // row_bytes))

    def _spill(self, count: int) -> None:
        """Move the longest unwritten rows into a new file, which gets its name when it is complete."""
        names = [name for name, _ in zip(self._recent, range(count), strict=False)]
        folder = self._folder()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self._name}-{uuid.uuid4().hex}.safetensors"
        unfinished = path.with_suffix(".unfinished")
        save_file({_KEY: torch.stack([self._recent.pop(name) for name in names])}, unfinished)
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(path)
        number, self._next = self._next, self._next + 1
        self._files[number], self._alive[number], self._lengths[number] = path, len(names), len(names)
        self._places.update({name: (number, row) for row, name in enumerate(names)})

    def _compact(self) -> None:
        """Let go of files that are mostly garbage; what is alive in one becomes part of a newer one."""
        for number in [n for n, alive in self._alive.items() if 2 * alive < self._lengths[n]]:
            names = [name for name, (file, _) in self._places.items() if file == number] if self._alive[number] else []
            if names:
                rows = self._read_file(number, torch.tensor([self._places[name][1] for name in names]))
                for name, row in zip(names, rows, strict=True):
                    del self._places[name]
                    self._recent[name] = row.clone()
                    self._recent.move_to_end(name, last=False)
            path = self._files.pop(number)
            del self._alive[number], self._lengths[number]
            self._keep_to_budget()  # file by file: one cohort may be the end of many
            if number not in self._kept:
                path.unlink(missing_ok=True)
