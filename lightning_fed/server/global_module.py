"""The user's module at the server: it holds the global model, or for a while a worker's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

from torch import nn

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.tree import Tensors
from lightning_fed.server.checkpoint import Keeper
from lightning_fed.server.trained import TrainedParameters
from lightning_fed.state import OwnState
from lightning_fed.wire import GlobalModel
from lightning_fed.worker.attributes import Attributes
from lightning_fed.worker.copying import servers_objects
from lightning_fed.worker.module_tensors import Mark, mark


@final
class GlobalModule:
    """Reads the global model off the user's module, and lends the module to workers' own models.

    Args:
        module: The user's module.
        keeper: Remembers which frozen parameters have moved, and the global model while the module holds another.
    """

    def __init__(self, module: nn.Module, keeper: Keeper) -> None:
        self._module = module
        self._keeper = keeper
        self.trained_parameters = TrainedParameters(module)
        """Which parameters are trained."""
        self._marks: dict[str, Mark] = {}  # of all parameters, at the start of the fit
        self._attributes: Attributes | None = None
        self._said: set[str] = set()

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Note the module as it is when a fit begins.

        Args:
            trainer: The Trainer.
        """
        self._marks = {name: mark(p) for name, p in self._module.named_parameters()}
        self._attributes = Attributes(self._module, servers_objects(trainer).values())

    def trained(self) -> Tensors:
        """Return the parameters that are trained now, by name."""
        return self.trained_parameters.now()

    def model(self, trained: Tensors | None = None) -> GlobalModel:
        """Return the global model, by reference.

        Args:
            trained: The result of :meth:`trained`, if it is at hand.
        """
        trained = self.trained() if trained is None else trained
        frozen = {name: p.detach() for name, p in self._module.named_parameters() if name not in trained}
        moved = self._keeper.moved
        ever = self.trained_parameters.ever
        marks = self._marks
        moved.update(name for name, p in frozen.items() if name in ever or (name in marks and mark(p) != marks[name]))
        buffers = {**dict(self._module.named_buffers()), **{name: p for name, p in frozen.items() if name in moved}}
        parameters = {name: p.detach() for name, p in trained.items()}
        return GlobalModel(parameters, buffers, frozenset(moved.intersection(frozen)), frozen)

    def refuse_new(self, trained: Tensors) -> None:
        """Refuse parameters that were put into the module during the fit: workers have none of that name.

        Args:
            trained: The result of :meth:`trained`.

        Raises:
            ValueError: Naming one of them.
        """
        new = trained.keys() - self._marks.keys()
        if new:
            raise ValueError(
                f"the parameter {min(new)!r} was put into {type(self._module).__name__} during the fit, by pruning "
                "(ModelPruning), a parametrization or another layer, and workers have the module as it was when the "
                "fit began: change its layers before trainer.fit() or after it"
            )

    def changed_attributes(self) -> dict[str, Any]:
        """Return the attributes that the server's code has changed in this fit, by path; say which cannot be sent."""
        if self._attributes is None:  # there was no fit: all are as the module was built
            return {}
        changed = self._attributes.changed()
        for path in self._attributes.opaque:
            if path not in self._said:
                self._said.add(path)
                rank_zero_warn(
                    f"the attribute {path!r} of {type(self._module).__name__} was changed on the server; workers keep "
                    "what it was when the fit began, since only numbers, strings, tensors, arrays, and lists, tuples "
                    "and dicts of them can be sent"
                )
        return changed

    @contextmanager
    def holding_that_of(self, worker: str | None, algorithm: Algorithm, own_state: OwnState) -> Iterator[None]:
        """Put a worker's own model into the module for a while, if the algorithm gives it one.

        Args:
            worker: The worker's name; None: no worker's.
            algorithm: The algorithm.
            own_state: What the workers remember.
        """
        if worker is None or not algorithm.tables:  # nothing is remembered, so there are no own models
            yield
            return
        model = self.model()
        own_state.settle(self._keeper.state.last)
        own = algorithm.model_of(model, worker, own_state.scope())
        if own is None:
            yield
            return
        tensors = {**self.trained(), **{name: model.buffers[name] for name in own.buffers}}
        with self._keeper.held.holding({**model.layout.unflatten(own.parameters), **own.buffers}, tensors):
            yield
