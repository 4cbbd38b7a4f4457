"""State of a worker's own optimizers and schedulers that is kept from round to round.

By default nothing, as in FedAvg's paper: clients of a phone's kind cannot keep state (Reddi et al., *Adaptive Federated
Optimization*, 2021). A worker that takes part often, such as a hospital, may keep the state of its optimizers (momenta,
moments), and its schedulers may go on by its own total of steps. Either is own state: it lies with the worker, and a
round that fails does not change it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch.optim import Optimizer

from lightning_fed.core.arguments import one_of
from lightning_fed.state import OwnTables
from lightning_fed.wire import LocalTraining
from lightning_fed.worker import optimizer_rows, schedule_changes
from lightning_fed.worker.optimizer_rows import Slot, dtype_of, put, row_of, size_of, slots_of
from lightning_fed.worker.schedule_changes import changed, changes_of, room_for, settings_of

OPTIMIZER, SCHEDULE = "local.optimizer", "local.schedule"


@final
@dataclass(frozen=True)
class Kept:
    """Choice of what is kept of a worker's optimizers and schedulers.

    Args:
        optimizer_state: ``"fresh"``: a round begins without momenta; ``"kept"``: with those of the worker's last round.
        schedule: ``"restart"``: schedulers, and settings such as learning rates that user code changes, begin anew in
            each round; ``"continue"``: they go on by the worker's own total of steps and epochs.
        rounds: In how many rounds a worker is expected to take part; for the length of its training that
            user code finds on ``self.trainer`` with ``"continue"``.
        training: How long a worker trains in a round; user code finds it on ``self.trainer`` before there is a worker.

    Raises:
        TypeError: If ``optimizer_state`` or ``schedule`` is no string.
        ValueError: If ``optimizer_state`` or ``schedule`` is a string that is not named here.
    """

    optimizer_state: str = "fresh"
    schedule: str = "restart"
    rounds: float = 1.0
    training: LocalTraining = LocalTraining()  # noqa: RUF009 - it is frozen

    def __post_init__(self) -> None:
        one_of("local_optimizer_state", self.optimizer_state, ("fresh", "kept"))
        one_of("local_schedule", self.schedule, ("restart", "continue"))

    @property
    def keeps_optimizers(self) -> bool:
        """Whether the state of optimizers for each parameter is kept."""
        return self.optimizer_state == "kept"

    @property
    def keeps(self) -> str | None:
        """The argument by which something is kept; None if nothing is."""
        if self.keeps_optimizers:
            return "local_optimizer_state='kept'"
        return "local_schedule='continue'" if self.schedule == "continue" else None

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables of own state in which it is kept."""
        kept = (OPTIMIZER,) if self.keeps_optimizers else ()
        return (*kept, SCHEDULE) if self.schedule == "continue" else kept


class Recollection:
    """Restores the state of a worker's optimizers and schedulers before its training, and stages it afterwards.

    Args:
        kept: The state that is kept.
        own: The workers' own state.
    """

    def __init__(self, kept: Kept, own: OwnTables) -> None:
        self._kept = kept
        self._own = own
        self._slots: list[Slot] | None = None
        self._fresh: dict[str, Any] = {}
        self._epochs = 0
        self._sizes: list[list[int]] = []
        self._seen: tuple[int, set[str]] = -1, set()  # the cohort, and its workers so far

    @property
    def is_prepared(self) -> bool:
        """Whether :meth:`prepare` has been called, or need not be."""
        return self._slots is not None or not self._kept.keeps_optimizers

    def prepare(self, optimizers: Sequence[Optimizer]) -> None:
        """Find out what state optimizers have, by a step of optimizers that are used for nothing else.

        Args:
            optimizers: Fresh ones. They have taken a step afterwards, and parameters are as they were.

        Raises:
            ValueError: If there are no optimizers, or their state is something else than numbers for each parameter.
        """
        if not optimizers:
            raise ValueError(
                "local_optimizer_state='kept': configure_optimizers() returned no optimizer to keep; return those that "
                "training_step steps, wherever they are made, or take local_optimizer_state='fresh'"
            )
        self._slots = slots_of(optimizers, self._kept.schedule == "continue")

    def recall(
        self, cohort: int, worker: str, optimizers: Sequence[Optimizer], schedulers: Sequence[Any]
    ) -> tuple[int, int | None]:
        """Bring fresh optimizers and schedulers to where those of a worker were.

        Args:
            cohort: The cohort's number.
            worker: The worker's name.
            optimizers: Those that ``configure_optimizers`` returned.
            schedulers: Their schedulers.

        Returns:
            How many epochs the worker has trained in rounds before, none if schedules restart; and the server's epoch
            in its last round, None if there is none.

        Raises:
            ValueError: If what is kept is of other optimizers or schedulers, or the worker is trained twice.
        """
        if self._seen[0] != cohort:
            self._seen = cohort, set()
        if worker in self._seen[1]:
            raise ValueError(f"{self._kept.keeps} goes with one training of a worker in a round, and this is another")
        self._seen[1].add(worker)
        self._sizes = _sizes(optimizers)
        if self._slots is not None and self._slots:
            nothing = torch.zeros(size_of(self._slots), dtype=dtype_of(self._slots))
            row = self._row(OPTIMIZER, worker, nothing, optimizer_rows.OTHERS)
            put(row, self._slots, optimizers)
        if self._kept.schedule != "continue":
            return 0, None
        self._fresh = settings_of(optimizers, schedulers)
        nothing = torch.zeros(room_for(self._fresh), dtype=torch.uint8)
        row = self._row(SCHEDULE, worker, nothing, schedule_changes.OTHERS)
        text = bytes(row.tolist()).rstrip(b"\0").decode()
        kept: dict[str, Any] = json.loads(text) if text else {"epochs": 0, "server": None, "changes": {}}
        now = changed(self._fresh, kept["changes"])
        for scheduler, state in zip(schedulers, now["schedulers"], strict=True):
            scheduler.load_state_dict(state)
        for optimizer, groups in zip(optimizers, now["groups"], strict=True):
            for group, settings in zip(optimizer.param_groups, groups, strict=True):
                group.update(settings)
        self._epochs = kept["epochs"]
        return self._epochs, kept["server"]

    def _row(self, table: str, worker: str, nothing: torch.Tensor, others: str) -> torch.Tensor:
        try:
            return self._own.rows(table, [worker], nothing)[0]
        except ValueError as error:  # there are more or fewer numbers
            raise ValueError(others) from error

    def stage(
        self, worker: str, optimizers: Sequence[Optimizer], schedulers: Sequence[Any], epochs: int, server: int
    ) -> None:
        """Stage the state of a worker's optimizers and schedulers, to be kept if the round succeeds.

        Args:
            worker: The worker's name.
            optimizers: The optimizers after the worker's training.
            schedulers: Their schedulers.
            epochs: How many passes over its data the worker has begun in this round.
            server: The server's epoch.

        Raises:
            ValueError: If a scheduler's state cannot be written as JSON, or optimizers step on parameters that
                fresh ones leave out.
        """
        if self._kept.keeps is not None and _sizes(optimizers) != self._sizes:
            raise ValueError(
                f"{self._kept.keeps}: training gave an optimizer a parameter group or parameters that "
                "configure_optimizers() does not, so that the worker's next round begins without; give it all of them "
                "there (a learning rate of 0 or requires_grad=False holds them), or keep nothing"
            )
        if self._slots is not None and self._slots:
            self._own.stage(OPTIMIZER, [worker], row_of(self._slots, optimizers).unsqueeze(0))
        if self._kept.schedule != "continue":
            return
        changes = changes_of(self._fresh, settings_of(optimizers, schedulers))
        text = json.dumps({"epochs": self._epochs + epochs, "server": server, "changes": changes}).encode()
        row = torch.zeros(room_for(self._fresh), dtype=torch.uint8)
        if len(text) > len(row):
            raise ValueError(
                "local_schedule='continue': a scheduler remembers more and more, and there is room for what a fresh "
                "one does; take local_schedule='restart', or a scheduler whose state does not grow"
            )
        row[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._own.stage(SCHEDULE, [worker], row.unsqueeze(0))


def _sizes(optimizers: Sequence[Optimizer]) -> list[list[int]]:
    return [[len(group["params"]) for group in optimizer.param_groups] for optimizer in optimizers]
