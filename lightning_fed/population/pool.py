"""A bounded pool of built workers."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, final

from lightning_fed._lightning import pl
from lightning_fed.core.rng import restored, seed_generators
from lightning_fed.core.watch import Watch
from lightning_fed.population.base import Population
from lightning_fed.population.crowd import how_many
from lightning_fed.population.datamodule_states import DatamoduleStates
from lightning_fed.population.given import BATCH_SIZE, datamodule_of
from lightning_fed.population.prepared import Prepared
from lightning_fed.population.workers import AS_THEY_ARE, Worker, data_seed, prepares
from lightning_fed.wire import describe


@final
class WorkerPool:
    """Builds workers at their first use, and keeps the ``capacity`` most recently used.

    Args:
        population: Every worker's datamodule by name; lazy or not. A lazy one may return other kinds of data as well.
        capacity: The number of built workers to keep.
        seed: The seed of the run; together with a worker's name it determines the draws of its datamodule.
        batch_size: The number of examples in a batch of a worker that is given without a datamodule and a loader.
    """

    def __init__(
        self,
        population: Mapping[str, pl.LightningDataModule],
        capacity: int,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self._population = population
        self._batch_size = batch_size
        self.seed = seed
        self.capacity = capacity
        self._built: OrderedDict[str, Worker] = OrderedDict()
        self.trainer: pl.Trainer | None = None
        self.prepared: Prepared | None = None
        """The workers that other processes have prepared; None: there are no others."""
        self.states = DatamoduleStates()
        """The states of datamodules that are currently not built."""
        self._draws_nothing = isinstance(population, Population) and population.draws_nothing
        self._looks_up_plainly = self._draws_nothing or isinstance(population, dict)

    def __repr__(self) -> str:
        return f"WorkerPool({how_many(len(self._population))}, {len(self._built)} of them built)"

    def __getitem__(self, name: str) -> Worker:
        worker = self._built.get(name)
        if worker is not None:
            self._built.move_to_end(name)
            return worker
        with AS_THEY_ARE if self._looks_up_plainly else restored():
            return self._build(name, self._looked_up(name))

    def reseed(self, seed: int) -> None:
        """Set the seed of the run that begins; workers that were set up by another are torn down.

        Args:
            seed: The seed.
        """
        if seed != self.seed:
            self.clear()
            self.seed = seed

    def ready(self, name: str) -> Worker:
        """Return a worker that is set up for training, for an engine that then seeds the global generators.

        The generators are not restored, since the engine sets them.

        Args:
            name: The worker's name.

        Raises:
            Exception: Any exception of the worker's data.
        """
        # Restoring the generators twice would double the time for a worker whose data are in memory.
        worker = self._built.get(name)
        if worker is None:
            worker = self._build(name, self._looked_up(name))
        else:
            self._built.move_to_end(name)
        worker.make_ready()
        return worker

    def at_hand(self, name: str) -> Worker | None:
        """Return a worker if it is set up, and no user code takes part in drawing its batches; else None.

        Args:
            name: The worker's name.
        """
        worker = self._built.get(name)
        if worker is None or not worker.draws_plainly:
            return None
        self._built.move_to_end(name)
        return worker

    def _build(self, name: str, datamodule: pl.LightningDataModule) -> Worker:
        seed = None if self._draws_nothing else self.seed
        worker = self._built[name] = Worker(name, datamodule, self.trainer, seed, self.prepared, self.states)
        if len(self._built) > self.capacity:
            _, oldest = self._built.popitem(last=False)
            self._let_go(oldest)
        return worker

    def _looked_up(self, name: str) -> pl.LightningDataModule:
        """Look up a datamodule, which may build it and draw; the caller restores the generators."""
        if not self._looks_up_plainly:
            seed_generators(data_seed(self.seed, name))
        return datamodule_of(self._population[name], f"workers[{name!r}]", self._batch_size)

    @property
    def population(self) -> Mapping[str, pl.LightningDataModule]:
        """Every worker's datamodule by name; lazy or not."""
        return self._population

    @property
    def is_built(self) -> bool:
        """Whether every worker's datamodule exists from the start."""
        return isinstance(self._population, dict)

    def prepare(self, trainer: pl.Trainer) -> dict[str, str]:
        """Call ``prepare_data`` of all workers that define it, if all exist from the start.

        Args:
            trainer: The Trainer, possibly with several machines.

        Returns:
            The errors, as text, by worker.
        """
        failures: dict[str, str] = {}
        for name, datamodule in self._population.items() if self.is_built else ():
            if prepares(datamodule) and (datamodule.prepare_data_per_node or trainer.node_rank == 0):
                datamodule.trainer = trainer
                with restored():
                    seed_generators(data_seed(self.seed, name))
                    try:
                        with Watch().over(name, trainer.global_step):
                            datamodule.prepare_data()
                    except Exception as error:
                        failures[name] = describe(error)
        return failures

    def num_examples(self, name: str) -> int:
        """Return a worker's number of training examples; it is built only if the population does not provide it."""
        if isinstance(self._population, Population):
            return self._population.num_examples(name)
        batches = self[name].batches
        return (batches.num_rows if batches.num_examples is None else batches.num_examples) or 0

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the states of the workers' datamodules for a checkpoint, by worker.

        Raises:
            WorkerError: If a datamodule fails.
        """
        there = self._population.items() if self.is_built else [(n, w.datamodule) for n, w in self._built.items()]
        states = {name: self.states.of(name, datamodule, self._round) for name, datamodule in there}
        return {name: state for name, state in {**states, **self.states.state_dict()}.items() if state}

    def load_state_dict(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Load the states of the workers' datamodules from a checkpoint, at once or when they are set up.

        Args:
            states: The result of :meth:`state_dict`.
        """
        self.states.load_state_dict(states)
        for name, worker in self._built.items():
            if worker.is_set_up:
                self.states.give(name, worker.datamodule)

    @property
    def _round(self) -> int:
        return 0 if self.trainer is None else self.trainer.global_step

    def clear(self) -> None:
        """Tear down all built workers."""
        while self._built:
            _, worker = self._built.popitem(last=False)
            self._let_go(worker)

    def _let_go(self, worker: Worker) -> None:
        """Tear a worker down; an error is not raised, since it must not stop another worker's training."""
        try:
            if not self.is_built:  # else it always exists
                self.states.hold(worker.name, self.states.of(worker.name, worker.datamodule, self._round))
            with Watch().over(worker.name, self._round):
                worker.teardown()
        except Exception as error:
            warnings.warn(f"teardown() of worker {worker.name!r} failed: {describe(error)}", stacklevel=2)
