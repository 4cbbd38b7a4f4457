"""A worker's own state: one vector for each worker and table, kept from round to round where the worker is.

There are two slots. A round *stages* the new state of a worker, under the number of its cohort. A later job states
whether that cohort's round succeeded; the staged rows are then *kept*, or else dropped. So the state of a worker and
the global model always belong to the same round, even if the server died between the two, and also while gradients of
several cohorts are accumulated for one step.

In a simulation the state of all workers lies beside the engine, in memory up to a budget and on disk beyond it. A node
holds the state of its own workers in a folder (:meth:`OwnState.write_to`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_fed.core.processes import Processes
from lightning_fed.core.shown import Shown
from lightning_fed.state.files import DamagedFileError, checksum, write_whole
from lightning_fed.state.folder import StateFolder
from lightning_fed.state.spilled_rows import SpilledRows

_Staged: TypeAlias = dict[str, list[tuple[tuple[str, ...], Tensor]]]
"""The staged rows of a cohort: for each table the workers and their rows, in order of arrival."""


@final
class OwnState(Shown):
    """Tables with one row for each worker that has taken part.

    Each of several processes holds all rows, so any of them may train a worker.

    Args:
        tables: The names of the tables.
        budget: The number of bytes of rows to keep in memory; the rest lies on disk.
        folder: Returns the folder for rows on disk, at first use.
    """

    def __init__(self, tables: Sequence[str] = (), budget: int = 2**28, folder: Callable[[], Path] = Path) -> None:
        self._tables = tuple(tables)
        self._budget = budget
        self.folder = StateFolder(folder, self._files_of_rows)
        """The folder of the rows on disk, with the checkpoints' references."""
        self._kept: dict[str, SpilledRows] = {}
        self._staged: dict[int, _Staged] = {}  # by the number of the cohort
        self._cohort = 0
        self.settled: int | None = None
        """The number of the newest cohort with kept rows; None: there is none."""

    def begin(self, cohort: int, last: int | None, failed: Collection[int] = ()) -> None:
        """Begin a cohort's round: settle those before, and stage under a new number.

        Args:
            cohort: The number of the cohort that begins.
            last: The number of the last cohort whose round succeeded.
            failed: The numbers of earlier ones whose rounds did not.
        """
        for number in [number for number in self._staged if number in failed or number >= cohort]:
            del self._staged[number]
        self.settle(last)
        self._cohort = cohort

    def settle(self, last: int | None) -> None:
        """Keep the staged rows of cohorts whose rounds have succeeded.

        Args:
            last: The number of the last such cohort; all before it have succeeded, or were dropped.
        """
        if last is None:
            return
        for number in sorted(number for number in self._staged if number <= last):
            for table, parts in self._staged[number].items():
                if table not in self._kept:
                    self._kept[table] = self._table(table, len(self._tables))
                for workers, rows in parts:
                    self._kept[table].write(workers, rows)
            self.settled = number if self.settled is None else max(self.settled, number)
            del self._staged[number]  # last: after an interruption the step is repeated

    def drop(self, cohort: int) -> None:
        """Drop the staged rows of a cohort whose round did not succeed.

        Args:
            cohort: The cohort's number.
        """
        self._staged.pop(cohort, None)

    def rows(self, table: str, workers: Sequence[str], default: Tensor) -> Tensor:
        """Return the kept rows of some workers.

        Args:
            table: The name of the table.
            workers: The n names.
            default: The row of a worker without a kept row; ``[size]``.

        Returns:
            ``[n, size]``, of the default's dtype, on its device.
        """
        rows = default.expand(len(workers), -1).clone()
        if table in self._kept:
            size = self._kept[table].row_size
            if size is not None and size != len(default):
                raise ValueError(
                    f"workers remember {size} numbers each in the table {table!r}, and {len(default)} are asked for: "
                    "which layers are trained, or the shapes of buffers, have changed since; use an algorithm that "
                    "remembers nothing about workers (FedAvg, FedProx) where layers are frozen or unfrozen"
                )
            self._kept[table].read(workers, rows)
        return rows

    def has(self, table: str, worker: str) -> bool:
        """Whether a row of a worker is kept."""
        return table in self._kept and worker in self._kept[table]

    def stage(self, table: str, workers: Sequence[str], rows: Tensor) -> None:
        """Stage rows, to be kept if the round succeeds; a worker's newest row counts.

        Args:
            table: The name of the table.
            workers: The n names.
            rows: ``[n, size]``.

        Raises:
            ValueError: If there is no such table.
        """
        if table not in self._tables:
            raise ValueError(
                f"rows were staged in the table {table!r}, but `tables` names {list(self._tables)}; add it"
            )
        staged = self._staged.setdefault(self._cohort, {})
        staged.setdefault(table, []).append((tuple(workers), rows.detach().cpu()))

    def forget(self, worker: str) -> None:
        """Drop one worker's staged rows of the current cohort: its update did not count.

        Args:
            worker: The worker's name.
        """
        for parts in self._staged.get(self._cohort, {}).values():
            for position, (workers, rows) in enumerate(parts):
                if worker in workers:
                    keep = [row for row, name in enumerate(workers) if name != worker]
                    parts[position] = tuple(workers[row] for row in keep), rows[keep]

    def staged(self) -> dict[str, dict[str, Tensor]]:
        """Return the staged rows of the current cohort: ``{table: {worker: row}}``."""
        return _by_worker(self._staged.get(self._cohort, {}))

    def kept(self) -> dict[str, dict[str, Tensor]]:
        """Return all kept rows: ``{table: {worker: row}}``; rows on disk are read."""
        return {table: rows.all() for table, rows in self._kept.items()}

    def of(self, worker: str) -> dict[str, Tensor]:
        """Return the kept rows of one worker, by table."""
        return {table: next(iter(rows.some([worker]).values())) for table, rows in self._kept.items() if worker in rows}

    def take_in(self, worker: str, rows: dict[str, Tensor]) -> None:
        """Replace the kept rows of one worker by rows that were kept elsewhere.

        Args:
            worker: The worker's name.
            rows: The rows, by table.
        """
        self.load_state_dict({})
        self._cohort = -1
        for table, row in rows.items():
            self.stage(table, [worker], row.unsqueeze(0))
        self.settle(-1)

    def scope(self, prefix: str = "") -> OwnTables:
        """Return a view of the tables whose names begin with a prefix.

        Args:
            prefix: The prefix, which the view leaves out of the names.
        """
        return OwnTables(self, prefix)

    def exchange(self, processes: Processes) -> None:
        """Share the staged rows of the current cohort between all processes.

        Args:
            processes: The processes; each has the same tables.
        """
        if processes.size == 1:
            return
        staged = self._staged.setdefault(self._cohort, {})
        for table in self._tables:
            parts = staged.pop(table, [])
            own = torch.cat([rows for _, rows in parts]) if parts else None
            names = tuple(name for workers, _ in parts for name in workers)
            # A process whose workers staged nothing gets the size and dtype of rows from the others.
            heard = processes.gather((names, None if own is None else own[:0]))
            like = next((empty for _, empty in heard if empty is not None), None)
            if like is not None:
                rows = processes.gather_rows(like if own is None else own)
                staged[table] = [(tuple(name for theirs, _ in heard for name in theirs), rows)]

    def state_dict(self, last: int | None) -> dict[str, Any]:
        """Return the state for a checkpoint of the simulation: the rows in memory, and the places of rows on disk.

        Args:
            last: The number of the last cohort whose round succeeded; rows staged by later cohorts are excluded.
        """
        self.settle(last)
        return {name: table.state_dict() for name, table in self._kept.items()}

    def load_state_dict(self, state: dict[str, Any], roots: Sequence[Path] = ()) -> None:
        """Restore a checkpoint; an error leaves the state unchanged.

        Args:
            state: The result of :meth:`state_dict`.
            roots: Folders in which the folders of processes may lie, the likeliest first.

        Raises:
            FileNotFoundError: If a file with rows is missing.
            DamagedFileError: If a file is damaged.
        """
        kept = {name: self._table(name, len(state)) for name in state}
        for name, table in kept.items():
            table.load_state_dict(state[name], roots)
        self._staged.clear()
        self._kept, self.settled = kept, None

    def _table(self, name: str, tables: int) -> SpilledRows:
        return SpilledRows(self._budget // tables, self.folder, name.replace("/", "_"))

    @property
    def files(self) -> list[Path]:
        """The files that hold kept rows."""
        return [path for table in self._kept.values() for path in table.files]

    def _files_of_rows(self) -> list[Path]:
        return self.files

    def may_spill(self, bytes_of_all: int) -> bool:
        """Whether rows may have to lie on disk.

        Args:
            bytes_of_all: The number of bytes of all workers' rows in one table.
        """
        return bool(self._tables) and bytes_of_all > self._budget // len(self._tables)

    def write_to(self, folder: Path) -> None:
        """Write both slots into a folder, completely or not at all, for a node's restart.

        Args:
            folder: The folder; it is created if necessary.
        """
        tensors: dict[str, Tensor] = {}
        places: list[tuple[int, str, str]] = []  # the cohort (-1: kept), the table, the worker
        slots = {-1: self.kept(), **{number: _by_worker(staged) for number, staged in self._staged.items()}}
        for slot, tables in slots.items():
            for table, rows in tables.items():
                for worker, row in rows.items():
                    tensors[str(len(places))] = row.clone()  # rows may share memory, which the format refuses
                    places.append((slot, table, worker))
        folder.mkdir(parents=True, exist_ok=True)
        content = {"places": json.dumps(places), "settled": json.dumps(self.settled)}
        content["checksum"] = str(_checksum(content["places"] + content["settled"], tensors))
        write_whole(folder / _FILE, lambda unfinished: save_file(tensors, unfinished, content))

    def read_from(self, folder: Path) -> None:
        """Read both slots from a folder; an empty one has none.

        Args:
            folder: The folder of :meth:`write_to`.

        Raises:
            DamagedFileError: If the file is not what was written; then nothing is changed.
        """
        path, places, tensors, settled = folder / _FILE, [], dict[str, Tensor](), None
        if path.exists():
            try:
                with safe_open(path, framework="pt") as file:
                    content = file.metadata()
                    places = json.loads(content["places"])
                    said = content.get("settled", "")
                    settled = json.loads(said or "null")
                    tensors = {str(number): file.get_tensor(str(number)) for number in range(len(places))}
                is_old = not {"checksum", "settled"} & content.keys()
                right = is_old or int(content["checksum"]) == _checksum(content["places"] + said, tensors)
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                raise DamagedFileError(path, error) from error
            if not right:
                raise DamagedFileError(path, "its checksum is another")
        self.load_state_dict({})
        rows = list(tensors.values())
        for (self._cohort, table, worker), row in zip(places, rows, strict=True):
            self.stage(table, [worker], row.unsqueeze(0))
        self.settle(-1)
        self.settled = settled


@final
class OwnTables(Shown):
    """The tables of one part of :class:`OwnState`: of the algorithm, or of a transform.

    Args:
        state: The state.
        prefix: The prefix of the tables' names in the state.
    """

    def __init__(self, state: OwnState, prefix: str = "") -> None:
        self._state = state
        self._prefix = prefix

    def rows(self, table: str, workers: Sequence[str], default: Tensor) -> Tensor:
        """Return the kept rows of some workers; see :meth:`OwnState.rows`."""
        return self._state.rows(self._prefix + table, workers, default)

    def has(self, table: str, worker: str) -> bool:
        """Whether a row of a worker is kept."""
        return self._state.has(self._prefix + table, worker)

    def stage(self, table: str, workers: Sequence[str], rows: Tensor) -> None:
        """Stage rows, to be kept if the round succeeds; see :meth:`OwnState.stage`."""
        self._state.stage(self._prefix + table, workers, rows)


_FILE = "own_state.safetensors"


def _by_worker(staged: _Staged) -> dict[str, dict[str, Tensor]]:
    return {
        table: {worker: row for workers, rows in parts for worker, row in zip(workers, rows, strict=True)}
        for table, parts in staged.items()
    }


def _checksum(places: str, tensors: dict[str, Tensor]) -> int:
    """Return the checksum of all rows and of their places."""
    each = [zlib.crc32(places.encode()), *map(checksum, tensors.values())]
    return checksum(torch.tensor(each, dtype=torch.int64))
