"""Server state between rounds, written into checkpoints and read from them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, final

from torch import nn

from lightning_fed._lightning import pl
from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.privacy import PrivateRun
from lightning_fed.server.checkpoint import format
from lightning_fed.server.checkpoint.io import CheckpointIO
from lightning_fed.server.checkpoint.server_state import ServerState, take_up
from lightning_fed.server.checkpoint.server_step import Evaluation, Held, ServerStep
from lightning_fed.server.checkpoint.settings import Settings
from lightning_fed.server.loaders import Position
from lightning_fed.server.memory import OF_AGGREGATOR
from lightning_fed.server.round_result import Round
from lightning_fed.server.trained import TrainedParameters
from lightning_fed.state import OwnState, refuse_unwritable
from lightning_fed.worker.outbox import Outbox


@final
class Keeper:
    """State of the rounds, always as of the last finished one.

    Args:
        module: The user's module.
        own: The workers' own state.
    """

    def __init__(self, module: nn.Module, own: OwnState) -> None:
        self._module = module
        self._own = own
        self.state = ServerState()
        """The server's state."""
        self.moved: set[str] = set()
        """The names of parameters that are not trained and have moved since the start of the run."""
        self.held = Held()
        """The global model, while the module holds a worker's own."""
        self._trained: list[str] | None = None  # the names of the trained parameters that state is about
        self._step: ServerStep | None = None  # as long as there may be need of the way back
        self._evaluation: Evaluation | None = None
        self._validating: pl.Trainer | None = None  # while a fit validates
        self._loaded: dict[str, Any] = {}  # the federated part of the checkpoint that the fit goes on from

    def attach(self, trainer: pl.Trainer) -> None:
        """Begin with a Trainer, after any end of the last run."""
        self.held.put_back()
        self._step = self._evaluation = self._validating = None
        self._loaded = {}
        CheckpointIO.attach(trainer, self._own.folder)

    # ---- rounds ----------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Begin a fit whose cohorts are numbered from 0 again, and clear the numbers of an earlier fit."""
        self._own.settle(self.state.last)
        self.state = ServerState(self.state.tensors)
        self.moved.clear()

    def promise(self, run: PrivateRun | None) -> None:
        """Record the promise from the first round on.

        Args:
            run: The private side of the run, if there is one.
        """
        self.state = replace(self.state, bound=None if run is None else run.bound)

    def refuse_other_layers(self, outbox: Outbox, aggregator: Aggregator[Any], names: Sequence[str]) -> None:
        """Refuse to freeze or unfreeze layers if some state holds vectors of all trained parameters.

        Args:
            outbox: The algorithm, the transforms, and the kept state of the workers' optimizers.
            aggregator: The aggregator.
            names: The parameters that are trained now.

        Raises:
            ValueError: If the trained parameters have changed.
        """
        of_aggregator = {name for name in self.state.tensors if name.startswith(OF_AGGREGATOR)}
        of_algorithm = self.state.tensors.keys() - of_aggregator
        that_remember = [type(transform).__name__ for transform in outbox.transforms if transform.tables]
        who, fix = "", ""
        if outbox.algorithm.tables or of_algorithm:
            who = type(outbox.algorithm).__name__
            fix = "use an algorithm that remembers nothing, such as FedAvg or FedProx"
        elif of_aggregator:
            who = type(aggregator).__name__
            fix = "use an aggregator that remembers nothing, such as Median or GeometricMedian"
        elif that_remember:
            who, fix = that_remember[0], "leave it out of transforms"
        elif outbox.kept.keeps_optimizers:
            who, fix = "local_optimizer_state='kept'", "leave it out"
        if self._trained is None or not who:
            self._trained = list(names)
        elif list(names) != self._trained:
            other = min(set(names) ^ set(self._trained))
            raise ValueError(
                f"{who} remembers numbers of the trained parameters, and {other!r} was frozen or unfrozen since; {fix}"
            )

    def refuse_unwritable(self, algorithm: Algorithm, workers: int) -> None:
        """Refuse a folder that is not writable, if the workers' state may exceed the memory for it.

        Args:
            algorithm: The algorithm.
            workers: The number of all workers.

        Raises:
            OSError: If the folder is not writable.
        """
        size = sum(tensor.nbytes for tensor in (*self._module.parameters(), *self._module.buffers()))
        if self._own.may_spill(size * workers):
            refuse_unwritable(
                self._own.folder.path,
                f"what {type(algorithm).__name__} remembers about {workers} workers may exceed the memory for it, and "
                "would lie there; give FederatedModule(state_dir=...) another folder, or a larger state_memory_mb",
            )

    @contextmanager
    def stepping(self, position: Position) -> Iterator[None]:
        """Make a server step atomic: if it is interrupted, all its changes are undone.

        Args:
            position: The place of the run in its sequence of cohorts.
        """
        self._step = None
        try:
            yield
        except BaseException:
            if self._step is not None:
                self._step.take_back()
                self.state, position.next = self._step.state, self._step.cohort
                self._step = None
            raise

    def begin_step(self, trainer: pl.Trainer, names: Collection[str], position: Position) -> None:
        """Record the values that a server step changes, unless they are recorded already.

        Args:
            trainer: The Trainer.
            names: The names of the parameters and buffers that it changes.
            position: The place of the run in its sequence of cohorts.
        """
        if self._step is None:
            self._step = ServerStep(trainer, self._module, names, self.state, position.next)

    def before_step(self) -> Tensors:
        """Return the values before the server step that changes them; read only."""
        assert self._step is not None, "begin_step() comes first"
        return self._step.tensors

    def after(self, rounds: Sequence[Round], run: PrivateRun | None, epoch: int) -> None:
        """Store the result of a server step.

        Args:
            rounds: Its one cohort, or several whose gradients were accumulated.
            run: The private side of the run, if there is one.
            epoch: The Trainer's epoch.
        """
        self.state = self.state.after(rounds, None if run is None else run.bound, epoch)

    def end_step(self) -> None:
        """Drop the record for undoing the step: Lightning has counted the step."""
        self._step = None

    def begin_evaluation(self, trainer: pl.Trainer) -> None:
        """Record the model, for checkpoints that are written while another is in its place.

        Args:
            trainer: The Trainer.
        """
        self._evaluation = Evaluation(self._module)
        self._validating = trainer if trainer.state.fn == "fit" and not trainer.sanity_checking else None

    def end_evaluation(self) -> None:
        """Record the logged values of a fit's validation; the model is back in place."""
        self.state = self._validated()
        self._evaluation = self._validating = None

    def _validated(self) -> ServerState:
        if self._validating is None:
            return self.state
        connector = self._validating._logger_connector
        if connector._first_loop_iter is not None:  # it has not passed over all its batches
            return self.state
        logged = connector.metrics["callback"]  # of the loop that is running, and of no other
        return replace(self.state, validated={name: float(value) for name, value in logged.items()})

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def put_in_global_model(self, checkpoint: dict[str, Any]) -> None:
        """Write the global model after the last finished round into a checkpoint that Lightning has begun.

        Args:
            checkpoint: The checkpoint; changed in place.
        """
        self.held.write_to(checkpoint, self._module)
        if self._step is not None and not self._step.is_over:
            self._step.write_to(checkpoint)
        if self._evaluation is not None:
            self._evaluation.write_to(checkpoint)

    def save(
        self,
        checkpoint: dict[str, Any],
        settings: dict[str, Any],
        engine: str | None,
        privacy: dict[str, Any] | None,
        account: dict[str, Any],
        position: Position,
        record: dict[str, Any],
    ) -> None:
        """Write the federated part of a checkpoint.

        Args:
            checkpoint: The checkpoint; changed in place.
            settings: The settings of the run, as plain values.
            engine: The decisions of the engine.
            privacy: The spent privacy budget.
            account: Its account, stretch by stretch.
            position: The place of the run in its sequence of cohorts.
            record: The results of the run so far.
        """
        state, cohort = self._validated(), position.next
        if self._step is not None and not self._step.is_over:
            state, cohort = self._step.state, self._step.cohort
        part: dict[str, Any] = {
            "algorithm": settings["algorithm"]["class"],
            "settings": settings,
            "engine": engine,
            "state": {**state.state_dict(self._own), "moved": sorted(self.moved), "trained": self._trained},
            "cohort": cohort,
            "record": record,
        }
        if privacy is not None:
            part["privacy"] = privacy if state.bound is None else {**privacy, "bound": state.bound}
            part["account"] = account
        format.write(checkpoint, part, unfinished=position.taken - cohort)

    def load(
        self, checkpoint: dict[str, Any], settings: Settings, processes: Processes, *, fitting: bool
    ) -> dict[str, Any]:
        """Load the state of a checkpoint.

        Args:
            checkpoint: The checkpoint.
            settings: The settings of this run.
            processes: The processes, which need not have a disk in common.
            fitting: Whether training resumes.

        Returns:
            The federated part; empty if there is none.

        Raises:
            ValueError: If this run cannot resume from it, or a file of the workers' state is damaged.
            FileNotFoundError: If a file of the workers' state is missing.
        """
        part = format.read(checkpoint, fitting)
        if fitting:
            settings.check(part, checkpoint["state_dict"])
            self._loaded = part
        if "state" in part:
            state = part["state"]
            if settings.goes_with(part):
                take_up(self._own, state, part.get("found_at"), processes, fitting=fitting)
            self.state = ServerState.of(state, (part.get("privacy") or {}).get("bound"))
            self.moved = set(state.get("moved", ()))
            self._trained = state.get("trained")
        return part

    def check_optimizer(self, trainer: pl.Trainer, trained: TrainedParameters) -> None:
        """Compare the server's optimizer with that of the checkpoint, before it loads the state.

        Args:
            trainer: The Trainer.
            trained: The parameters that are trained here; they become those of the checkpoint.

        Raises:
            ValueError: If the optimizer cannot continue from that state.
        """
        if self._loaded:
            saved = self._loaded.get("settings", {}).get("trained")
            states = self._loaded.get("optimizer_states", ())
            trained.load_state_dict(saved if isinstance(saved, dict) else None, trainer.optimizers, states)
            Settings.check_optimizer(self._loaded, trainer)
            self._loaded = {}
