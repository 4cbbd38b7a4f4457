"""Loaders of cohorts, over which a Trainer iterates in training, and of evaluation batches with their workers' names.

The loaders are plain iterables, not DataLoaders: into a DataLoader Lightning would put a distributed sampler.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, final

from lightning_fed.core.arguments import listed, whole
from lightning_fed.core.watch import EndingError
from lightning_fed.population.crowd import how_many
from lightning_fed.selection import CohortSampler
from lightning_fed.wire import describe

_HAS = (
    "no batch of a worker reaches the server. It has .workers, .number, .seed, and when the round is over .size(0), "
    "the number of examples; code about batches belongs into hooks of the module, which run on workers"
)


@final
class Cohort:
    """The workers of one round: the batch of ``FederatedModule.training_step``, and of callbacks in training.

    A cohort has the size of a batch: when its round is over, ``cohort.size(0)``, ``len(cohort)`` and the same of any
    part (``cohort[0].size(0)``) are the number of examples on which its workers have trained. Callbacks that measure
    throughput therefore work unchanged.

    A cohort is neither a tuple nor a dataclass: Lightning would search those for tensors several times a round.

    Args:
        number: The running number of the cohort. Number, ``seed`` and a worker's name decide the worker's randomness.
        seed: The seed of the run.
        workers: The names.
        positions: Their positions in the population.

    >>> cohort = Cohort(0, 0, ("alice", "bob"))
    >>> cohort.end_round(24)
    >>> cohort.size(0), cohort.shape, len(cohort[0])
    (24, (24,), 24)
    """

    def __init__(self, number: int, seed: int, workers: tuple[str, ...], positions: Sequence[int] = ()) -> None:
        self.number = number
        self.seed = seed
        self.workers = workers
        self.positions = positions
        self._size: int | None = None

    def end_round(self, examples: float) -> None:
        """Record the end of the round.

        Args:
            examples: The number of examples on which its workers have trained; 0 if that is hidden: then the number of
                workers counts.
        """
        self._size = int(examples) or max(len(self.workers), 1)

    def size(self, dim: int = 0) -> int:
        """Return the number of examples.

        Raises:
            RuntimeError: If the round is not over.
            IndexError: If ``dim`` is another dimension than the first.
        """
        return self.shape[dim]

    @property
    def shape(self) -> tuple[int]:
        """The number of examples, as the only dimension."""
        if self._size is None:
            raise RuntimeError(f"cohort {self.number} has a size when its round is over, as in on_train_batch_end")
        return (self._size,)

    def __len__(self) -> int:
        return self.size()

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, part: Any) -> Cohort:
        return self

    def __iter__(self) -> Iterator[Any]:
        # else Python would ask for one part after the other
        raise TypeError(
            f"the batch of a round is its cohort, which cannot be unpacked: {_HAS}; a module is trained on workers by "
            "trainer.fit(FederatedModule(net), data)"
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the batch of a round is its cohort, which has no {name!r}: {_HAS}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cohort) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"Cohort(number={self.number}, seed={self.seed}, workers={_SHORT.repr(self.workers)})"

    @property
    def _key(self) -> tuple[int, int, tuple[str, ...]]:
        return self.number, self.seed, self.workers


_SHORT = reprlib.Repr()
_SHORT.maxtuple, _SHORT.maxstring = 20, 80


class EvaluationBatch(NamedTuple):
    """The user's own batch with its worker's name, for the Trainer; hooks and callbacks see the batch alone.

    Args:
        worker: The worker's name, or None for central data.
        batch: The batch of the loader.
        loader: The number of the loader, if there are several.
    """

    worker: str | None
    batch: Any
    loader: int | None = None


@final
@dataclass
class Position:
    """The place of a run in its sequence of cohorts; all loaders of a datamodule share one.

    Args:
        next: The number of the next cohort; the rounds of earlier cohorts are over. It is the cohort to train next, and
            not the one to hand out next, as an interrupted round is run again.
        taken: The number after that of the last cohort that the Trainer has taken.
    """

    next: int = 0
    taken: int = 0

    def move(self, number: int) -> None:
        """Continue with another cohort.

        Args:
            number: Its number.
        """
        self.next = self.taken = number


class DataFacts(NamedTuple):
    """The part of a checkpoint that is about data.

    Args:
        position: The place of the run in its sequence of cohorts.
        settings: The settings that decide which workers train when, by the names of FederatedDataModule's arguments.
        names: All workers.
    """

    position: Position
    settings: dict[str, Any]
    names: Sequence[str]


@final
class CohortLoader:
    """Yields one epoch of cohorts, beginning where the last epoch (or the checkpoint) ended.

    Iteration has no side effects: ``position`` is moved from outside. User code may therefore get any number of loaders
    from the datamodule.

    Args:
        names: All workers.
        cohort_size: The number of workers in a round.
        sampler: Chooses the workers; None takes all, in order.
        seed: The seed of the run.
        length: The number of cohorts in an epoch.
        position: The place in the sequence of cohorts at which an iteration begins.
        sampling_seed: The seed of the choice of workers; None: the seed of the run.
        repeats: The number of cohorts after which the same workers return, under other numbers; None: always new ones.
    """

    def __init__(
        self,
        names: Sequence[str],
        cohort_size: int,
        sampler: CohortSampler | None,
        seed: int,
        length: int,
        position: Position,
        sampling_seed: int | None = None,
        repeats: int | None = None,
    ) -> None:
        self._names = names
        self._cohort_size = cohort_size
        self._sampler = sampler
        self._seed = seed
        self._length = length
        self._position = position
        self._sampling_seed = seed if sampling_seed is None else sampling_seed
        self._repeats = repeats

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"CohortLoader({self._length} cohorts of {self._cohort_size}, of {how_many(len(self._names))})"

    def __iter__(self) -> Iterator[Cohort]:
        first = self._position.next
        for number in range(first, first + self._length):
            positions = self._choose(number % self._repeats if self._repeats else number)
            yield Cohort(number, self._seed, tuple(self._names[position] for position in positions), positions)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"one batch of the server is a cohort, and its loader has no {name!r}; a worker's own loader is that "
            "of its datamodule, and code that runs on a worker sees its own as self.trainer.train_dataloader"
        )

    def _choose(self, number: int) -> Sequence[int]:
        """Return the positions of a cohort."""
        if self._sampler is None:
            return range(len(self._names))
        given = self._sampler.sample(len(self._names), self._cohort_size, number, self._sampling_seed)
        name = f"{type(self._sampler).__name__}.sample()"
        positions = [whole(name, position) for position in listed(name, given, what="positions in the population")]
        first, last = min(positions, default=0), max(positions, default=0)
        if len(set(positions)) < len(positions) or first < 0 or last >= len(self._names):
            raise ValueError(
                f"{name} gave {positions}: positions must lie in [0, {len(self._names)}) and differ from each other"
            )
        return positions

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: ``server/checkpoint/`` holds the position.

        Without this method Lightning would warn of a loader without state when a run resumes within an epoch.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load nothing; see :meth:`state_dict`."""


def what_failed(code: str, error: Exception) -> str:
    """Return a sentence that names the code of a worker and its error.

    Args:
        code: The code, in words.
        error: The error.

    >>> what_failed("its val_dataloader", KeyError("label"))
    "its val_dataloader raised KeyError: 'label'"
    """
    return f"{code}: {error}" if isinstance(error, EndingError) else f"{code} raised {describe(error)}"
