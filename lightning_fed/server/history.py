"""Rows of numbers about rounds, one row each."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any, final, overload

from lightning_fed.server.evaluation.report import beside

_WHOLE = {"round", "epoch", "cohort_size", "examples", "dropped", "stragglers", "bytes_down", "bytes_up"}


@final
class _Column:
    """Values of some of the rows, in order."""

    def __init__(self) -> None:
        self.rows = array("I")
        self.values = array("d")

    def put(self, row: int, value: float) -> None:
        """Set the value of the last row, or of one after it."""
        if self.rows and self.rows[-1] == row:
            self.values[-1] = value
            return
        self.rows.append(row)
        self.values.append(value)

    def of(self, row: int) -> float | None:
        """Return the value of a row; None: it has none."""
        place = bisect_left(self.rows, row)
        return self.values[place] if place < len(self.rows) and self.rows[place] == row else None

    def end_before(self, row: int) -> None:
        """Delete the values of a row and of those after it."""
        place = bisect_left(self.rows, row)
        del self.rows[place:], self.values[place:]


@final
class History(Sequence[dict[str, Any]]):
    """Numbers about the rounds that a FederatedModule has run, a flat row for each.

    A row has ``round`` (as on the x axis of the curves) and ``epoch``; ``loss``, the cohort's mean, if a worker came
    back; ``cohort_size``, the number of workers that came back; ``examples``; ``dropped``, the number of workers that
    did not; ``stragglers``; ``seconds``; ``bytes_down`` and ``bytes_up``. Then follow the values that the workers
    logged in training, reduced over the cohort. A round with an evaluation also has its metrics over all data, and
    ``workers/<metric>/p10`` or ``p90``: the worst decile of the workers. A metric with the name of one of the numbers
    above is called ``logged/<name>``. If several evaluations logged one name, the last one counts.

    Numbers lie in columns of doubles, and a row is built on access.

    Under a promise that hides the workers' metrics, a row has ``round``, ``epoch``, the planned bytes of a cohort, and
    the metrics of evaluations on central data.

    The rows are not part of checkpoints. A fit that resumes from a checkpoint appends to the rows up to its round, if
    the process has them, and deletes those of later rounds; in a new process the rows begin with its first round. A new
    fit deletes all rows. An evaluation of a model that was loaded from a checkpoint is in no row.

    Example::

        trainer.fit(fed, data)
        fed.history[-1]["loss"]
        pandas.DataFrame(fed.history).plot(x="round", y="workers/val_acc/p10")
    """

    def __init__(self) -> None:
        self._length = 0
        self._columns: dict[str, _Column] = {}

    # ---- reading -----------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        rows = range(self._length)[index]
        return self._row(rows) if isinstance(rows, int) else [self._row(row) for row in rows]

    def __repr__(self) -> str:
        if not self:
            return "History: no round has been run yet"
        first, last = self[0]["round"], self[-1]
        rounds = f"1 round, {first}" if len(self) == 1 else f"{len(self)} rounds, {first} to {last['round']}"
        shown = {name: value for name, value in last.items() if name not in ("round", "epoch")}
        values = ", ".join(f"{name} {v if isinstance(v, int) else format(v, '.5g')}" for name, v in shown.items())
        return f"History of {rounds}{'; the last: ' if values else ''}{values}"

    def _row(self, row: int) -> dict[str, Any]:
        values = ((name, column.of(row)) for name, column in self._columns.items())
        there = ((name, value) for name, value in values if value is not None)
        return {name: int(value) if name in _WHOLE and value.is_integer() else value for name, value in there}

    # ---- writing -----------------------------------------------------------------------------------------------------

    def begin(self, round: int) -> None:
        """Delete the rows of a round and of those after it, or all if the others do not lead up to it.

        Args:
            round: The number of the round that is the next.
        """
        rounds = self._columns["round"].values if self._columns else array("d")
        kept = bisect_left(rounds, round)
        if not kept or rounds[kept - 1] != round - 1:
            kept = 0
            self._columns = {}
        for column in self._columns.values():
            column.end_before(kept)
        self._length = kept

    def append(self, numbers: Mapping[str, float], logged: Mapping[str, float]) -> None:
        """Add the row of a round.

        Args:
            numbers: The numbers of every round, among them ``round``.
            logged: The values that its workers logged, by name.
        """
        self._length += 1
        self._put(numbers)
        self.add(logged)

    def add(self, metrics: Mapping[str, float]) -> None:
        """Add values to the last row, if there is one.

        Args:
            metrics: The values by name.
        """
        if self._length:
            self._put(beside(_RESERVED, metrics))

    def _put(self, values: Mapping[str, float]) -> None:
        row = self._length - 1
        for name, value in values.items():
            column = self._columns.get(name)
            if column is None:
                column = self._columns[name] = _Column()
            column.put(row, value)


_RESERVED = dict.fromkeys([*_WHOLE, "loss", "seconds"])
