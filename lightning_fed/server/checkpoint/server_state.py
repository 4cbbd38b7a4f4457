"""The server's state from round to round, besides the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.server.coverage import Coverage
from lightning_fed.server.epoch_values import EpochValues
from lightning_fed.server.round_result import Round
from lightning_fed.server.state_files import share_files
from lightning_fed.server.traffic import Traffic
from lightning_fed.state import OwnState


@final
@dataclass(frozen=True)
class ServerState:
    """As of the last round that is over; the next one takes its place as a whole.

    Args:
        tensors: What algorithm and aggregator remember at the server, by name (``server/memory.py``).
        last: The number of the last cohort whose workers keep what they staged.
        failed: The numbers of earlier ones whose workers do not.
        bound: The clipping bound of the round to come, if one is promised.
        logged: What the workers have logged in the epoch that is running.
        validated: What the last validation has logged.
        traffic: What has travelled in all rounds.
        coverage: Who has taken part in any; what is noted twice counts once, so all states of a run share it.
    """

    tensors: Tensors = field(default_factory=dict)
    last: int | None = None
    failed: tuple[int, ...] = ()
    bound: float | None = None
    logged: EpochValues = field(default_factory=EpochValues)
    validated: Mapping[str, float] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    coverage: Coverage = field(default_factory=Coverage)

    def after(self, rounds: Sequence[Round], bound: float | None, epoch: int) -> ServerState:
        """Return what is remembered after a server step.

        Args:
            rounds: What came of its one cohort, or of several whose gradients were accumulated.
            bound: The clipping bound of the round to come.
            epoch: The Trainer's epoch.
        """
        last, failed, logged, traffic = self.last, self.failed, self.logged, self.traffic
        for past in rounds:
            traffic = traffic.plus(past.traffic)
            self.coverage.add(past.took_part)
            logged = logged.after(epoch, past.logged)
            if past.outcome.succeeded:
                last = past.cohort
            elif len(past.outcome.report):  # workers have staged something
                failed += (past.cohort,)
        server = rounds[-1].outcome.server
        return replace(self, tensors=server, last=last, failed=failed, bound=bound, logged=logged, traffic=traffic)

    def state_dict(self, own: OwnState) -> dict[str, Any]:
        """Return what a checkpoint holds of it, and of what the workers remember.

        Args:
            own: The workers' state.
        """
        state: dict[str, Any] = {
            "server": {name: tensor.detach().cpu().clone() for name, tensor in self.tensors.items()},
            "workers": own.state_dict(self.last),
            "last_cohort": self.last,
            "failed_cohorts": list(self.failed),
            "traffic": list(self.traffic),
        }
        if len(self.coverage.state):
            state["took_part"] = self.coverage.state
        if self.logged.values:
            state["logged"] = self.logged.state_dict()
        if self.validated:
            state["validated"] = dict(self.validated)
        if own.files:
            state["files"] = {"run": own.folder.run, "root": str(own.folder.path.parent)}
        return state

    @staticmethod
    def of(state: dict[str, Any], bound: float | None) -> ServerState:
        """Return what a checkpoint holds.

        Args:
            state: The result of :meth:`state_dict`.
            bound: The clipping bound there.
        """
        return ServerState(
            dict(state["server"]),
            state.get("last_cohort"),
            tuple(state.get("failed_cohorts", ())),
            bound,
            EpochValues.of(state.get("logged", {})),
            state.get("validated", {}),
            Traffic(*state.get("traffic", ())),
            Coverage(state.get("took_part")),
        )


def take_up(own: OwnState, state: dict[str, Any], found_at: str | None, processes: Processes, *, fitting: bool) -> None:
    """Take the workers' own state from a checkpoint.

    Its files are looked for as they lay about the checkpoint, so that a run folder can be moved or copied as a whole;
    then where they were written, and at last in the folder of this run.

    Args:
        own: The workers' state.
        state: The result of :meth:`ServerState.state_dict`.
        found_at: The path of the checkpoint.
        processes: The processes; where they have no disk in common, one gives the files to the others.
        fitting: Whether training is to go on.

    Raises:
        FileNotFoundError: If a file is gone that the checkpoint refers to.
        DamagedFileError: If a file is not what was written.
    """
    files = state.get("files", {})
    roots = [Path(files["root"])] if files else []
    if found_at is not None and "from_here" in files:
        roots.insert(0, Path(found_at).parent / files["from_here"])
    share_files(state["workers"], own.folder.path, processes, roots)
    own.load_state_dict(state["workers"], roots)
    lie_in = {path.parent for path in own.files}
    if fitting and files and len(lie_in) == 1:
        own.folder.take_over(files["run"], lie_in.pop())
