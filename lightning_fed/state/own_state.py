"""What an algorithm remembers from round to round: tensors of the server, and one vector for each worker.

Only vectors of the workers of one cohort are in use at a time, so those of all others can lie on disk. What a round
wants to be remembered is staged, and kept only once the round has succeeded: a worker's state and the global model
never tell of different rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.state.spilled_rows import SpilledRows


@final
class AlgorithmState:
    """Tensors of the server, and tables with one row for each worker that has taken part.

    Under several processes each holds all of it, so that a worker may be trained by any of them.

    Args:
        budget: How many bytes of workers' rows to keep in memory; the rest lies on disk.
        folder: Gives the folder for what lies on disk, when it is needed.
    """

    def __init__(self, budget: int, folder: Callable[[], Path]) -> None:
        self._budget = budget
        self._folder = folder
        self._tables: dict[str, SpilledRows] = {}
        self._staged: dict[str, list[tuple[tuple[str, ...], Tensor]]] = {}
        self.server: Tensors = {}
        """The server's own tensors by name; equal on every process. To be changed in ``Algorithm.conclude`` only."""

    def rows(self, table: str, workers: Sequence[str], default: Tensor) -> Tensor:
        """Give the rows of some workers.

        Args:
            table: What the rows are; a name of the algorithm's choice.
            workers: The n names.
            default: The row of a worker that has none yet; ``[size]``.

        Returns:
            ``[n, size]``, of the default's dtype, on its device.
        """
        rows = default.expand(len(workers), -1).clone()
        if table in self._tables:
            self._tables[table].read(workers, rows)
        return rows

    def has(self, table: str, worker: str) -> bool:
        """Whether a worker has a row."""
        return table in self._tables and worker in self._tables[table]

    def stage(self, table: str, workers: Sequence[str], rows: Tensor) -> None:
        """Have rows remembered if the round succeeds.

        Args:
            table: What the rows are.
            workers: The n names.
            rows: ``[n, size]``.
        """
        self._staged.setdefault(table, []).append((tuple(workers), rows.detach().cpu()))

    def begin(self, device: torch.device) -> None:
        """Begin a round: forget what one has staged that did not succeed.

        Args:
            device: Where the round computes; a checkpoint is read before the module has been placed.
        """
        self._staged.clear()
        self.server = {name: tensor.to(device) for name, tensor in self.server.items()}

    def commit(self, tables: Sequence[str], processes: Processes) -> None:
        """Remember what the workers of all processes staged.

        Args:
            tables: The names of all tables, the same on every process, whatever was staged there.
            processes: The processes.

        Raises:
            ValueError: If rows were staged in another table, which nobody would remember.
        """
        staged, self._staged = self._staged, {}
        if set(staged) - set(tables):
            raise ValueError(
                f"rows were staged in {sorted(set(staged) - set(tables))}, but the algorithm's `tables` names "
                f"{list(tables)}; name them there"
            )
        for table in tables:
            parts = staged.get(table, [])
            own = torch.cat([rows for _, rows in parts]) if parts else None
            names = [name for workers, _ in parts for name in workers]
            # A process whose workers staged nothing learns from the others what rows look like.
            heard = processes.gather((names, None if own is None else own[:0]))
            like = next((empty for _, empty in heard if empty is not None), None)
            if like is None:
                continue
            rows = processes.gather_rows(like if own is None else own)
            if table not in self._tables:
                self._tables[table] = SpilledRows(self._budget // len(tables), self._folder, table)
            self._tables[table].write([name for theirs, _ in heard for name in theirs], rows)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: all that is in memory, and where the rest lies."""
        return {
            "server": {name: tensor.detach().cpu().clone() for name, tensor in self.server.items()},
            "workers": {name: table.state_dict() for name, table in self._tables.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Args:
            state: What :meth:`state_dict` gave.

        Raises:
            FileNotFoundError: If a file is gone that holds rows.
        """
        self._staged.clear()
        self.server = dict(state["server"])
        self._tables = {}
        for name, part in state["workers"].items():
            table = self._tables[name] = SpilledRows(self._budget // len(state["workers"]), self._folder, name)
            table.load_state_dict(part)
