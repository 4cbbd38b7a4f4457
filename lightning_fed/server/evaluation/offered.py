"""Loaders that the workers have for an evaluation, looked up at its start to agree on them over all processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import count
from typing import NamedTuple, final

from lightning_fed._lightning import pl
from lightning_fed.core.processes import Processes
from lightning_fed.core.watch import Watch
from lightning_fed.population import EvaluationKind, WorkerPool, num_batches
from lightning_fed.server.processes import processes_of


@final
class Offer(NamedTuple):
    """Loaders that the workers have.

    Args:
        loaders: The number of loaders of each worker; 0: no worker has any.
        worker: The worker on which this was looked up.
        part: The evaluated fraction of each loader; None: all of it.
        lengths: The numbers of batches in the loaders of this process's workers, of all first ones, all second ones
            and so on; None: they were not looked up.
    """

    loaders: int = 1
    worker: str | None = None
    part: float | None = None
    lengths: tuple[int, ...] | None = None

    def refuse_other_number(self, loaders: int) -> None:
        """Refuse a worker that has another number of loaders.

        Args:
            loaders: Its number.

        Raises:
            ValueError: If it is another one.
        """
        if loaders != self.loaders:
            raise ValueError(
                f"it gives {loaders} of them and worker {self.worker!r} gives {self.loaders}; let all workers give as "
                "many, or none"
            )

    def numbers(self, loader: Iterable[object], kind: EvaluationKind) -> Iterable[int]:
        """Return the numbers of a loader's evaluated batches, as a Trainer counts them.

        Args:
            loader: One worker's loader.
            kind: Which of its loaders that is.

        Raises:
            ValueError: If only a part is evaluated, and that is less than one batch, or the loader has no length.
        """
        batches = num_batches(loader)
        if self.part is None:
            return count() if batches is None else range(batches)
        limit = f"limit_{kind}_batches={self.part}"
        instead = "give an int, which counts the batches of all workers together"
        if batches is None:
            raise ValueError(f"{limit} is a part of its batches, whose number cannot be told; {instead}")
        if batches and batches * self.part < 1:
            raise ValueError(
                f"{limit} of {batches} batches is less than one; give at least {least_part(batches)}, or {instead}"
            )
        return range(int(batches * self.part))


def least_part(batches: int) -> float:
    """Return the smallest fraction that selects one batch, rounded up: ``int(49 * (1 / 49))`` is 0.

    >>> least_part(2), least_part(49)
    (0.5, 0.02041)
    """
    scale: int = 10 ** (3 + len(str(batches)))
    parts = scale // batches
    while batches * (parts / scale) < 1:
        parts += 1
    return parts / scale


@final
class Problem(NamedTuple):
    """Reason why a part of a loader cannot be taken.

    Args:
        batches: The number of its batches; 0 if it is unknown.
        says: The reason, in words.
    """

    batches: int
    says: str


def offer_of(
    pool: WorkerPool, names: Sequence[str], kind: EvaluationKind, trainer: pl.Trainer | None
) -> tuple[Offer, Problem | None]:
    """Look up the loaders of this process's workers, up to the first worker that has some.

    All workers are looked up if only a part of each loader is evaluated. An error of a worker is ignored here: it is
    raised again when the worker is evaluated.

    Args:
        pool: The workers.
        names: Those that are evaluated, on all processes together.
        kind: Which of their loaders.
        trainer: The Trainer, which may be limited to a part of each loader; None: there is none.

    Returns:
        The workers' loaders; and the reason why the part cannot be taken, if it cannot: that of the loader with the
        fewest batches, as the fix for this loader works for all others.
    """
    processes = processes_of(trainer)
    limit = 1.0 if trainer is None else getattr(trainer, f"limit_{kind}_batches")
    part = limit if isinstance(limit, float) and limit < 1 else None
    round = 0 if trainer is None else trainer.global_step
    offer, has_raised, watch = Offer(0, part=part), False, Watch()
    problems: list[Problem] = []
    for name in names[processes.rank :: processes.size]:
        try:
            with watch.over(name, round):
                loaders = pool[name].evaluation_loaders(kind)
                lengths = tuple(num_batches(loader) or 0 for loader in loaders)
        except Exception:
            has_raised = True
            continue
        if loaders and not offer.loaders:
            offer = Offer(len(loaders), name, part, None if part is None else (0,) * len(loaders))
        if offer.loaders and part is None:
            break
        if offer.lengths is not None and len(loaders) == offer.loaders:
            for loader in loaders:
                try:
                    offer.numbers(loader, kind)
                except ValueError as error:
                    problems.append(Problem(num_batches(loader) or 0, f"worker {name!r}: {error}"))
            offer = offer._replace(lengths=tuple(map(sum, zip(offer.lengths, lengths, strict=True))))
    if has_raised and not offer.loaders:
        return Offer(part=part, lengths=None if part is None else (math.ceil(1 / part),)), None
    return offer, min(problems, default=None)


def agreed(own: Offer, problem: Problem | None, kind: EvaluationKind, processes: Processes) -> Offer:
    """Agree with the other processes on how many loaders there are.

    Args:
        own: The loaders of this process's workers.
        problem: The reason why they cannot be taken, if they cannot.
        kind: Which of their loaders.
        processes: The processes.

    Raises:
        ValueError: On all of them, if there is a problem on one, or one would have nothing to evaluate, and stop.
    """
    shares = processes.gather((own, problem))
    problems = [theirs for _, theirs in shares if theirs is not None]
    if problems:
        raise ValueError(min(problems).says)
    first = next((offer for offer, _ in shares if offer.worker is not None), None)
    if first is None:
        return max((offer for offer, _ in shares), key=lambda offer: offer.loaders)
    totals = [offer.lengths or (0,) for offer, _ in shares]
    if first.part is not None and processes.size > 1 and not all(map(all, totals)):
        raise ValueError(
            f"limit_{kind}_batches={first.part}: one of {processes.size} processes has no batches of its workers; give "
            "an int, which counts the batches of a process, or use fewer devices"
        )
    return first._replace(lengths=own.lengths)
