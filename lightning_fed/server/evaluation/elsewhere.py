"""An evaluation of workers whose data lie on other machines: stand-ins for their batches, and their answers.

Each worker is evaluated where its data are, by the user's own steps, and comes back as the share of a process does
(:mod:`lightning_fed.wire.share`). A Trainer goes through batches even so, and its bar with it: through one stand-in for
each worker. Where the Trainer is limited to fewer batches than there are workers, a stand-in is one for several.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, final

from torch import nn

from lightning_fed._lightning import pl
from lightning_fed.core.processes import Processes
from lightning_fed.population import EvaluationKind
from lightning_fed.population.crowd import how_many
from lightning_fed.server.evaluation.agreement import Agreement
from lightning_fed.server.evaluation.named_batches import EvaluationLoader
from lightning_fed.server.evaluation.seen_indices import SeenIndices
from lightning_fed.server.loaders import EvaluationBatch
from lightning_fed.wire import Share, WireError, WorkerError, decode_share
from lightning_fed.wire.container import Buffer
from lightning_fed.worker.metric_states import metrics_of

_HAS = (
    "no batch of a worker whose data lie elsewhere reaches the server: code about batches belongs into hooks of the "
    "module, which run where the data are. It has .workers, and .size(0), the number of their examples"
)


@final
class StandIn:
    """Stands for all batches of workers whose data lie elsewhere: the batch that callbacks see in an evaluation.

    Args:
        workers: Their names; mostly one.
        loader: Which of their loaders, if each has several.

    >>> batch = StandIn(["bob"])
    >>> batch.examples = 24
    >>> batch.size(0), batch.shape
    (24, (24,))
    """

    def __init__(self, workers: Sequence[str], loader: int = 0) -> None:
        self.workers = workers
        self.loader = loader
        self.examples = 0
        """The number of their examples, as far as batches have a size; 0 before they have been evaluated."""

    @property
    def shape(self) -> tuple[int]:
        """The number of their examples, as the only dimension; 1 if it cannot be told."""
        return (max(self.examples, 1),)

    def size(self, dim: int = 0) -> int:
        """Return the number of their examples.

        Raises:
            IndexError: If ``dim`` is another dimension than the first.
        """
        return self.shape[dim]

    def __len__(self) -> int:
        return self.size()

    def __getitem__(self, part: Any) -> StandIn:
        return self

    def __iter__(self) -> Iterator[Any]:
        raise TypeError(_HAS)  # else Python would ask for one part after the other

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"there is no {name!r} of a batch: {_HAS}")

    def __repr__(self) -> str:
        return f"StandIn({self.workers[0]!r})" if len(self.workers) == 1 else f"StandIn({how_many(len(self.workers))})"


@final
class Predicted(NamedTuple):
    """Result of a prediction elsewhere: the predictions lie where the data are.

    Args:
        worker: The worker.
        batches: The number of its batches.
        examples: The number of its examples; None: its batches have no size that can be read.
    """

    worker: str
    batches: int
    examples: int | None


@final
class StandInLoader(EvaluationLoader):
    """Yields stand-ins for workers, each process those for every n-th worker.

    Args:
        names: The workers that are evaluated, on all processes together.
        kind: Which of their loaders.
        processes: The processes.
        limit: The Trainer's ``limit_<kind>_batches``.
        number: The number of the loader, if each worker has several.
    """

    def __init__(
        self,
        names: Sequence[str],
        kind: EvaluationKind,
        processes: Processes,
        limit: int | float = 1.0,
        number: int | None = None,
    ) -> None:
        self._names = names[processes.rank :: processes.size]
        self._number = number
        self._length, self._parts = _length_and_parts(len(self._names), limit)
        if kind == "predict":
            self.batch_sampler = SeenIndices()

    def __repr__(self) -> str:
        return f"StandInLoader({how_many(len(self._names))})"

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return (named.batch for named in self.named())

    def named(self) -> Iterator[EvaluationBatch]:
        seen = vars(self).get("batch_sampler")
        if seen is not None:
            seen.begin()
        for part in range(self._parts):
            workers = self._names[_begin(self._names, self._parts, part) : _begin(self._names, self._parts, part + 1)]
            if seen is not None:
                seen.note(self, part)
            only = workers[0] if len(workers) == 1 else None
            yield EvaluationBatch(only, StandIn(workers, self._number or 0), self._number)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the loader of an evaluation elsewhere has no {name!r}: the workers' loaders are where their data are"
        )


def _length_and_parts(workers: int, limit: int | float) -> tuple[int, int]:
    """Return the length of a loader for some workers, and the number of stand-ins that a Trainer takes from it.

    A Trainer takes the first batches of a loader, or a part of its length: in these, all workers must find a place.

    Args:
        workers: Their number.
        limit: The number of batches that it takes, or their part.

    >>> _length_and_parts(10, 1.0), _length_and_parts(10, 4), _length_and_parts(10, 0.25), _length_and_parts(3, 0.1)
    ((10, 10), (10, 4), (40, 10), (30, 3))
    """
    is_part = isinstance(limit, float)
    length = math.ceil(workers / limit) if is_part and 0 < limit < 1 else workers
    taken = int(length * limit) if is_part else int(limit)
    return length, min(max(taken, 1), workers)


def _begin(names: Sequence[str], parts: int, part: int) -> int:
    """Return the position at which a part of some workers begins."""
    return len(names) * part // parts


def stand_in_loaders(
    names: Sequence[str], kind: EvaluationKind, loaders: int, trainer: pl.Trainer | None, processes: Processes
) -> StandInLoader | list[StandInLoader]:
    """Return the loader of an evaluation elsewhere; or if each worker has several, or none, the list of them.

    Args:
        names: The workers that are evaluated, on all processes together.
        kind: Which of their loaders.
        loaders: The number of them that each worker has.
        trainer: The Trainer; None: there is none.
        processes: The processes.
    """
    limit = 1.0 if trainer is None else getattr(trainer, f"limit_{kind}_batches")
    if kind == "predict":
        loaders = min(loaders, 1)  # what comes back of predictions does not tell loaders apart
    if loaders == 1:
        return StandInLoader(names, kind, processes, limit)
    return [StandInLoader(names, kind, processes, limit, number) for number in range(loaders)]


@final
class Question(NamedTuple):
    """Question to the machines where the data are.

    Args:
        workers: The workers that are evaluated by this process, in order.
        limit: The number of batches of each, or the part of them; None: all.
    """

    workers: Sequence[str]
    limit: int | float | None


def question(names: Sequence[str], kind: EvaluationKind, trainer: pl.Trainer, processes: Processes) -> Question:
    """Return the question that a Trainer's evaluation asks.

    An int in ``limit_<kind>_batches`` counts each worker's batches. A sanity check asks as many workers as it has steps
    for as many batches each.

    Args:
        names: The workers that are evaluated, on all processes together.
        kind: On which of their loaders.
        trainer: The Trainer.
        processes: The processes.
    """
    workers = names[processes.rank :: processes.size]
    limit = getattr(trainer, f"limit_{kind}_batches")
    own = None if isinstance(limit, float) and limit == 1.0 else limit
    steps = trainer.num_sanity_val_steps
    if not trainer.sanity_checking or math.isinf(steps):
        return Question(workers, own)
    parts = _length_and_parts(len(workers), limit)[1]
    firsts = [workers[_begin(workers, parts, part)] for part in range(min(int(steps), parts))]
    return Question(firsts, min(int(steps), own) if isinstance(own, int) else int(steps))


@final
class Answers:
    """Answers of workers elsewhere, each taken once, in whichever order they come.

    Args:
        answers: Each worker's answer with its name.
        module: The user's module, which says what can be merged.
        round: The number of rounds so far, for errors.
        most_examples: How much a worker may count in a mean, at most; None: there is no bound.
    """

    def __init__(
        self,
        answers: Iterator[tuple[str, Buffer | WorkerError]],
        module: nn.Module,
        round: int,
        most_examples: int | None = None,
    ) -> None:
        self._answers = answers
        self._module = module
        self._round = round
        self._most = math.inf if most_examples is None else most_examples
        self._early: dict[str, Buffer | WorkerError] = {}
        self._agreement = Agreement()

    def of(self, worker: str) -> Share:
        """Wait for a worker's answer.

        Args:
            worker: Its name.

        Raises:
            WorkerError: If it has failed, or what has come cannot be read or merged.
        """
        while worker not in self._early:
            name, answer = next(self._answers, (worker, WorkerError(worker, self._round, _SILENT)))
            self._early[name] = answer
        answer = self._early.pop(worker)
        if isinstance(answer, WorkerError):
            raise self._error(worker, answer.reason) from answer
        try:
            share = decode_share(answer, worker)
            self._check(worker, share)
        except (WireError, ValueError) as error:
            raise self._error(worker, f"{_REFUSED}: {error}") from error
        for failure in share.failures:
            raise self._error(worker, failure.reason[:_TOLD]) from failure
        return share

    def _error(self, worker: str, reason: str) -> WorkerError:
        return WorkerError(worker, self._round, reason)

    def odd(self) -> list[WorkerError]:
        """Return an error for each worker whose answer cannot be merged with those of most others."""
        reasons = self._agreement.odd()
        return [self._error(worker, f"{_REFUSED}: {reason}") for worker, reason in reasons.items()]

    def _check(self, worker: str, share: Share) -> None:
        """Refuse a share that does not go with the server's module."""
        self._check_values(worker, share)
        metrics, kind = metrics_of(self._module), type(self._module).__name__
        for name, path in share.logged.objects.items():
            if path not in metrics:
                raise ValueError(
                    f"it logs {name!r} as the torchmetrics object {path!r}, which the server's {kind} lacks"
                )
        for path, state in share.states.items():
            metric = metrics.get(path)
            if metric is None or state.states.keys() != metric._defaults.keys():
                raise ValueError(f"its torchmetrics object {path!r} is not that of the server's {kind}")
        self._agreement.note(worker, share, metrics)

    def _check_values(self, worker: str, share: Share) -> None:
        """Refuse values that would count for more than a worker's data, or take the place of another's."""
        logged = share.logged
        names = {*logged.pooled, *logged.objects, *logged.options, *logged.steps, *logged.workers.get(worker, {})}
        if len(names) > _MOST_VALUES:
            raise ValueError(f"it logs {len(names)} values, and {_MOST_VALUES} are the most")
        for name, part in logged.pooled.items():
            if part.weight > self._most:
                raise ValueError(f"{name!r} counts {part.weight:g} examples, and no worker has more than {self._most}")
        loaders = max(share.loaders or 0, 1)
        if max(logged.examples.values(), default=0) > self._most * loaders:
            raise ValueError(
                f"it has seen {logged.examples[worker]} examples, and no worker has more in {loaders} loaders"
            )
        for name, option in logged.options.items():
            if option.loader is not None and not 0 <= option.loader < (share.loaders or 0):
                raise ValueError(f"{name!r} is of loader {option.loader}, and it gives {share.loaders or 0}")


_MOST_VALUES = 500
"""How many values one worker may log: each is drawn, and a node could keep the server busy with them."""

_TOLD = 1000
"""How many characters of a worker's words are passed on."""

_REFUSED = "its evaluation cannot be taken in"

_SILENT = "nothing has come back of its evaluation"
