"""Parameters and buffers that stay with the worker: the common part of the personalised algorithms."""

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
from lightning_fed.core.arguments import listed, text
from lightning_fed.core.tree import Tensors
from lightning_fed.state import OwnTables
from lightning_fed.wire import Aggregate, GlobalModel, Job, Layout, Model, Updates

PARAMETERS, BUFFERS = "personal", "personal_buffers"
"""The names of the tables of own state."""


def matching(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match a pattern.

    >>> matching(["body.weight", "head.weight", "head.bias"], ["head.*"])
    ['head.weight', 'head.bias']
    """
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def require_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Check patterns as far as possible without a module, and return them.

    Raises:
        TypeError: If the patterns are not a list, or one of them is not a string.
        ValueError: If there is no pattern, a string in place of a list, or an empty pattern.
    """
    if isinstance(patterns, str):
        raise ValueError(f"personal={patterns!r} must be a list of name patterns, such as ['head.*']")
    checked = [
        text(f"personal[{i}]", pattern)
        for i, pattern in enumerate(listed("personal", patterns, what="name patterns, such as ['head.*']"))
    ]
    if not checked:
        raise ValueError(f"personal={patterns!r} must be a list of name patterns, such as ['head.*'], and not empty")
    return tuple(checked)


def personal_names(model: GlobalModel, patterns: Sequence[str]) -> list[str]:
    """Return the parameters that match the patterns.

    Raises:
        ValueError: If a pattern matches no parameter, or all patterns together match every parameter.
    """
    for pattern in patterns:
        if not matching([*model.parameters, *model.buffers], [pattern]):
            raise ValueError(f"personal: {pattern!r} matches none of the trained parameters {sorted(model.parameters)}")
    names = matching(model.parameters, patterns)
    if len(names) == len(model.parameters):
        raise ValueError(f"personal={list(patterns)} matches every parameter, so there is no global model to learn")
    return names


def own_model(
    model: GlobalModel, worker: str, own: OwnTables, parameters: Collection[str], buffers: Collection[str]
) -> Model:
    """Return the global model with a worker's own parameters and buffers put in, if the worker has any.

    Args:
        model: The global model.
        worker: The worker's name.
        own: The workers' own state.
        parameters: The names of the parameters that are the worker's own.
        buffers: The names of the buffers that are the worker's own.
    """
    vector = model.vector.clone()
    layout = Layout({name: model.parameters[name] for name in parameters})
    if own.has(PARAMETERS, worker):
        mine = layout.unflatten(own.rows(PARAMETERS, [worker], vector.new_zeros(layout.size))[0])
        for name, view in model.layout.unflatten(vector).items():
            if name in mine:
                view.copy_(mine[name])
    remembered = {}
    if own.has(BUFFERS, worker):
        layout = Layout({name: model.buffers[name] for name in buffers})
        row = own.rows(BUFFERS, [worker], torch.zeros(layout.size, dtype=layout.dtype))[0]
        remembered = {name: buffer.to(model.buffers[name]) for name, buffer in layout.unflatten(row).items()}
    return Model(vector, remembered)


def remember(
    model: GlobalModel, updates: Updates, own: OwnTables, parameters: Collection[str], buffers: Collection[str]
) -> None:
    """Stage the workers' own parameters and buffers as they are after local training.

    Raises:
        ValueError: If a buffer has changed its shape or dtype: all entries of a table have the same.
    """
    if not updates.workers:
        return
    trained = model.layout.unflatten(model.vector - updates.delta)
    if parameters:
        layout = Layout({name: model.parameters[name] for name in parameters})
        own.stage(PARAMETERS, updates.workers, layout.flatten(trained, stacked=True))
    if buffers:
        for name in buffers:
            before, rows = model.buffers[name], updates.buffers[name]
            if rows.shape[1:] != before.shape:
                raise ValueError(
                    f"worker {updates.workers[0]!r} keeps its own buffer {name}, whose shape became "
                    f"{tuple(rows.shape[1:])} from {tuple(before.shape)} in local training; give it one shape, or use "
                    "an algorithm without own buffers"
                )
            if rows.dtype != before.dtype:
                raise ValueError(
                    f"worker {updates.workers[0]!r} keeps its own buffer {name}, which became {rows.dtype} from "
                    f"{before.dtype} in local training; give it one dtype, or use an algorithm without own buffers"
                )
        layout = Layout({name: model.buffers[name] for name in buffers})
        own.stage(BUFFERS, updates.workers, layout.flatten(updates.buffers, stacked=True))


def without(model: GlobalModel, updates: Updates, parameters: Collection[str], buffers: Collection[str]) -> Updates:
    """Remove from updates what stays with the workers: the server sees zero deltas and the global buffers."""
    n = len(updates.workers)
    global_buffers = {name: model.buffers[name].expand(n, *model.buffers[name].shape) for name in buffers}
    return replace(
        updates,
        delta=_zeroed(model, updates.delta, parameters),
        buffers={**updates.buffers, **global_buffers},
        stays=updates.stays.union(parameters, buffers),
    )


def _zeroed(model: GlobalModel, vectors: Tensor, parameters: Collection[str]) -> Tensor:
    """Return a copy of vectors ``[..., size]`` with some parameters set to zero."""
    zeroed = vectors.clone()
    for name, part in model.layout.unflatten(zeroed).items():
        if name in parameters:
            part.zero_()
    return zeroed


class PersonalLayers(Algorithm):
    """Base of the algorithms whose workers keep some parameters and buffers from one participation to the next.

    Subclasses define which parameters and buffers stay, and how a worker trains these and the others.
    """

    tables: ClassVar[tuple[str, ...]] = (PARAMETERS, BUFFERS)

    @abstractmethod
    def patterns(self, model: GlobalModel) -> Sequence[str]:
        """Return the patterns of the names that stay.

        Raises:
            ValueError: If the module has no such parameter or buffer.
        """

    def check(self, model: GlobalModel) -> None:
        self._names(model)

    def local(self, train: Train, job: Job, workers: Sequence[str], personal: Sequence[str]) -> Iterator[Result]:
        """Train the workers.

        Args:
            train: See :meth:`at_worker`.
            job: The job, with each worker's own model in ``start``.
            workers: The names of the workers.
            personal: The names of the parameters that stay.
        """
        yield from train(job, workers)

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        parameters, buffers = self._names(job.model)
        models = {worker: own_model(job.model, worker, own, parameters, buffers) for worker in workers}
        for result in self.local(train, replace(job, start=models), workers, parameters):
            if isinstance(result, Updates):
                remember(job.model, result, own, parameters, buffers)
                result = without(job.model, result, parameters, buffers)
            yield result

    def stays_local(self, model: GlobalModel) -> Collection[str]:
        return matching(model.own_buffers, self.patterns(model))

    def model_of(self, model: GlobalModel, worker: str, own: OwnTables) -> Model:
        return own_model(model, worker, own, *self._names(model))

    def aggregator(self) -> WeightedMean:
        return WeightedMean()

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        # Parameters that stay with the workers have zero deltas, but private noise is added to every coordinate.
        return replace(aggregate, delta=_zeroed(job.model, aggregate.delta, self._names(job.model)[0]))

    def _names(self, model: GlobalModel) -> tuple[list[str], list[str]]:
        patterns = self.patterns(model)
        return personal_names(model, patterns), matching(model.own_buffers, patterns)
