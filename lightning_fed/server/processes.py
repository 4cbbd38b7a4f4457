"""Facts about workers that the processes of a run share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_fed._lightning import pl
from lightning_fed.core.processes import Processes
from lightning_fed.core.watch import Watch
from lightning_fed.population import WorkerPool
from lightning_fed.wire import WorkerError, describe


def processes_of(trainer: pl.Trainer | None) -> Processes:
    """Return the processes of a Trainer's run; without a Trainer, this one."""
    return Processes() if trainer is None else Processes(trainer.global_rank, trainer.world_size, trainer.node_rank)


def sizes_of(
    names: Sequence[str], num_examples: Callable[[str], int], processes: Processes, round: int
) -> tuple[list[int], list[WorkerError]]:
    """Return every worker's number of examples, looked up on one of the processes.

    Args:
        names: The n workers, the same on every process.
        num_examples: Returns a worker's number of examples.
        processes: The processes.
        round: The round, for errors.

    Returns:
        The n numbers, 0 for a worker whose data raises, and the errors; the same on every process.
    """
    sizes: dict[str, int] = {}
    own: dict[str, WorkerError] = {}
    watch = Watch()
    for name in names[processes.rank :: processes.size]:
        try:
            with watch.over(name, round):
                sizes[name] = num_examples(name)
        except Exception as error:
            own[name] = WorkerError(name, round, f"its number of examples cannot be told: {describe(error)}")
            own[name].__cause__ = error
    shares = processes.gather((sizes, list(own.values())))
    told = {name: size for theirs, _ in shares for name, size in theirs.items()}
    # An error that was sent has lost its cause.
    failures = [own.get(failure.worker, failure) for _, theirs in shares for failure in theirs]
    return [told.get(name, 0) for name in names], failures


def tell_prepared(pool: WorkerPool, processes: Processes) -> None:
    """Share the names of prepared workers among the processes: none is then prepared twice on a machine."""
    if pool.prepared is not None and not pool.prepared.everyone:
        pool.prepared.hear(processes.gather(pool.prepared.news()))
