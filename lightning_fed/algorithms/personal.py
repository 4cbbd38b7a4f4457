"""Parameters and buffers that stay with the worker: what the algorithms of personalisation have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import ClassVar

import torch
from torch import Tensor

from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.state.own_state import AlgorithmState
from lightning_fed.wire import Aggregate, Job, Layout, Model, Updates

PARAMETERS, BUFFERS = "personal", "personal_buffers"
"""The tables of the state."""


def matching(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Give the names that a pattern stands for.

    >>> matching(["body.weight", "head.weight", "head.bias"], ["head.*"])
    ['head.weight', 'head.bias']
    """
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def require_patterns(patterns: Sequence[str]) -> None:
    """Check patterns as far as that is possible without a module.

    Raises:
        ValueError: If there is none, or a string in place of a list.
    """
    if isinstance(patterns, str) or not patterns:
        raise ValueError(f"personal={patterns!r} must be a list of name patterns, such as ['head.*']")


def personal_names(job: Job, patterns: Sequence[str]) -> list[str]:
    """Give the parameters that patterns stand for.

    Raises:
        ValueError: If a pattern stands for none, or all of them together for every parameter.
    """
    for pattern in patterns:
        if not matching([*job.model.parameters, *job.model.buffers], [pattern]):
            raise ValueError(
                f"personal: {pattern!r} matches none of the trained parameters {sorted(job.model.parameters)}"
            )
    names = matching(job.model.parameters, patterns)
    if len(names) == len(job.model.parameters):
        raise ValueError(f"personal={list(patterns)} matches every parameter, so there is no global model to learn")
    return names


def own_model(
    job: Job, worker: str, state: AlgorithmState, parameters: Collection[str], buffers: Collection[str]
) -> Model:
    """Give the global model with a worker's own parameters and buffers in it, as far as it has any.

    Args:
        job: With the global model.
        worker: The worker's name.
        state: What is remembered.
        parameters: The names of the parameters that are the worker's own.
        buffers: Those of the buffers.
    """
    vector = job.model.vector.clone()
    own = Layout({name: job.model.parameters[name] for name in parameters})
    if state.has(PARAMETERS, worker):
        mine = own.unflatten(state.rows(PARAMETERS, [worker], vector.new_zeros(own.size))[0])
        for name, view in job.model.layout.unflatten(vector).items():
            if name in mine:
                view.copy_(mine[name])
    remembered = {}
    if state.has(BUFFERS, worker):
        layout = Layout({name: job.model.buffers[name] for name in buffers})
        row = state.rows(BUFFERS, [worker], torch.zeros(layout.size, dtype=layout.dtype))[0]
        remembered = {
            n: b.to(job.model.buffers[n].device, job.model.buffers[n].dtype) for n, b in layout.unflatten(row).items()
        }
    return Model(vector, remembered)


def remember(
    job: Job, updates: Updates, state: AlgorithmState, parameters: Collection[str], buffers: Collection[str]
) -> None:
    """Stage the workers' own parameters and buffers as they are after local training."""
    trained = job.model.layout.unflatten(job.model.vector - updates.delta)
    if parameters:
        own = Layout({name: job.model.parameters[name] for name in parameters})
        state.stage(PARAMETERS, updates.workers, own.flatten(trained, stacked=True))
    if buffers:
        layout = Layout({name: job.model.buffers[name] for name in buffers})
        state.stage(BUFFERS, updates.workers, layout.flatten(updates.buffers, stacked=True))


def without(job: Job, updates: Updates, parameters: Collection[str], buffers: Collection[str]) -> Updates:
    """Take out of updates what is to stay with the workers: it has not moved, as far as the server can see."""
    n = len(updates.workers)
    global_buffers = {name: job.model.buffers[name].expand(n, *job.model.buffers[name].shape) for name in buffers}
    own = [*(job.model.parameters[name] for name in parameters), *(job.model.buffers[name] for name in buffers)]
    return replace(
        updates,
        delta=_zeroed(job, updates.delta, parameters),
        buffers={**updates.buffers, **global_buffers},
        own_bytes=sum(tensor.nbytes for tensor in own),
    )


def _zeroed(job: Job, vectors: Tensor, parameters: Collection[str]) -> Tensor:
    """A copy of vectors ``[..., size]`` with zeros in the places of some parameters."""
    zeroed = vectors.clone()
    for name, part in job.model.layout.unflatten(zeroed).items():
        if name in parameters:
            part.zero_()
    return zeroed


class PersonalLayers(Algorithm):
    """Some parameters and buffers stay with the worker, which goes on from them the next time that it takes part.

    The base of the algorithms that differ in which ones, and in how a worker trains them and the rest.
    """

    tables: ClassVar[tuple[str, ...]] = (PARAMETERS, BUFFERS)

    @abstractmethod
    def patterns(self, job: Job) -> Sequence[str]:
        """Give the patterns of the names that stay.

        Raises:
            ValueError: If the module has nothing of the kind.
        """

    def stays_local(self, job: Job) -> Collection[str]:
        return matching(job.model.buffers, self.patterns(job))

    def check(self, job: Job) -> None:
        self._names(job)

    def local(self, train: Train, job: Job, cohort: Sequence[str], personal: Sequence[str]) -> Iterator[Result]:
        """Train the workers.

        Args:
            train: See :meth:`visit`.
            job: With each worker's own model in ``start``.
            cohort: The names of the workers.
            personal: The names of the parameters that stay.
        """
        yield from train(job, cohort)

    def visit(self, train: Train, job: Job, cohort: Sequence[str], state: AlgorithmState) -> Iterator[Result]:
        parameters, buffers = self._names(job)
        models = {worker: own_model(job, worker, state, parameters, buffers) for worker in cohort}
        for result in self.local(train, replace(job, start=models), cohort, parameters):
            if isinstance(result, Updates):
                remember(job, result, state, parameters, buffers)
                result = without(job, result, parameters, buffers)
            yield result

    def aggregator(self) -> WeightedMean:
        return WeightedMean()

    def conclude(self, aggregate: Aggregate, job: Job, state: AlgorithmState, replies: float) -> Aggregate:
        # What stays with the workers has not moved; but noise that makes the sum private is on every place of it.
        return replace(aggregate, delta=_zeroed(job, aggregate.delta, self._names(job)[0]))

    def model_of(self, job: Job, worker: str, state: AlgorithmState) -> Model:
        return own_model(job, worker, state, *self._names(job))

    def _names(self, job: Job) -> tuple[list[str], list[str]]:
        patterns = self.patterns(job)
        return personal_names(job, patterns), matching(job.model.buffers, patterns)
