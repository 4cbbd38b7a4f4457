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
    """State after the last finished round; the next round replaces it as a whole.

    Args:
        tensors: The state of algorithm and aggregator at the server, by name (``server/memory.py``).
        last: The number of the last cohort whose workers keep the own state that they staged.
        failed: The numbers of earlier cohorts whose workers drop it.
        bound: The clipping bound of the next round, under a promise that has one.
        logged: The values that the workers have logged in the current epoch.
        validated: The values that the last validation has logged.
        traffic: The traffic of all rounds.
        coverage: The workers that have taken part in any round; a set, which all states of a run share.
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
        """Return the state after a server step.

        Args:
            rounds: The round of its one cohort, or of several whose gradients were accumulated.
            bound: The clipping bound of the next round.
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
        """Return the content for a checkpoint, with the references to the workers' own state.

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
        """Build the state from the content of a checkpoint.

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
    """Load the workers' own state of a checkpoint.

    Its files are searched first relative to the checkpoint, as a run folder may have been moved or copied as a whole;
    then at their original paths; last in the folder of this run.

    Args:
        own: The workers' state.
        state: The result of :meth:`ServerState.state_dict`.
        found_at: The path of the checkpoint.
        processes: The processes; where they have no disk in common, one sends the files to the others.
        fitting: Whether training resumes.

    Raises:
        FileNotFoundError: If a file of the checkpoint is missing.
        DamagedFileError: If a file differs from the written one.
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
