"""The way back from the middle of a server step, and from the middle of an evaluation.

A Trainer may write a checkpoint at any moment: in a hook, a logger, after an error, on a signal. Usually the state then
belongs to one round. It does not between the first value that the server optimizer changes and the last scheduler's
step after it: there a checkpoint holds the values before the step, and the round is run again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_fed._lightning import pl
from lightning_fed.core.tree import Tensors, copy_
from lightning_fed.server.checkpoint.format import AVERAGED
from lightning_fed.server.checkpoint.server_state import ServerState
from lightning_fed.worker.module_tensors import put


@final
class ServerStep:
    """Copy of all values that a server step changes, from before the step.

    Args:
        trainer: The Trainer.
        module: The user's module.
        names: The names of the parameters and buffers that the step changes.
        state: The server state.
        cohort: The number of the first cohort of the step.
    """

    def __init__(
        self, trainer: pl.Trainer, module: nn.Module, names: Collection[str], state: ServerState, cohort: int
    ) -> None:
        self.state = state
        self.cohort = cohort
        self._trainer = trainer
        self._module = module
        buffers = dict(module.named_buffers())
        tensors = {**dict(module.named_parameters()), **buffers}
        self._buffers = buffers.keys()
        self._tensors = {name: tensor.detach().clone() for name, tensor in tensors.items() if name in names}
        self._optimizers = [_copied(optimizer.state_dict()) for optimizer in trainer.optimizers]
        self._schedulers = [_copied(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs]
        self._step = trainer.global_step
        self._scheduled = self._scheduler_steps() + sum(
            config.interval == "step" and not config.reduce_on_plateau for config in trainer.lr_scheduler_configs
        )

    @property
    def tensors(self) -> Tensors:
        """The values of the parameters and buffers that the step changes; read only."""
        return self._tensors

    @property
    def is_over(self) -> bool:
        """Whether Lightning has counted the step and stepped the schedulers, so that the next round has begun."""
        return self._trainer.global_step > self._step and self._scheduler_steps() >= self._scheduled

    def take_back(self) -> None:
        """Restore model, optimizer and schedulers."""
        with torch.no_grad():
            put(self._module, self._tensors)
        for name, _ in list(self._module.named_buffers()):
            if name not in self._buffers:
                prefix, _, key = name.rpartition(".")
                self._module.get_submodule(prefix)._buffers[key] = None
        for optimizer, state in zip(self._trainer.optimizers, self._optimizers, strict=True):
            optimizer.load_state_dict(state)

    @contextmanager
    def _as_before(self) -> Iterator[None]:
        """Temporarily put the old values into the module; its current tensors are not overwritten."""
        then = {id(b): self._tensors.get(name) for name, b in self._module.named_buffers() if self._has_changed(name)}
        owners = [(part._buffers, dict(part._buffers)) for part in self._module.modules() if part._buffers]
        parameters = {name: p for name, p in self._module.named_parameters() if name in self._tensors}
        now = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self._tensors[name]
            for owner, buffers in owners:
                owner.update((key, then[id(b)]) for key, b in buffers.items() if b is not None and id(b) in then)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = now[name]
            for owner, buffers in owners:
                owner.update(buffers)

    def _has_changed(self, buffer: str) -> bool:
        return buffer in self._tensors or buffer not in self._buffers

    def write_to(self, checkpoint: dict[str, Any]) -> None:
        """Replace the values in a checkpoint by the old ones.

        Args:
            checkpoint: The checkpoint, as Lightning made it; changed in place.
        """
        with self._as_before():
            _put_state_into(checkpoint, self._module)
        for key, states in (("optimizer_states", self._optimizers), ("lr_schedulers", self._schedulers)):
            if key in checkpoint:
                checkpoint[key] = states
        checkpoint["global_step"] = self._step
        steps = checkpoint["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
        counted = steps["total"]["completed"] - self._step
        for counts in (steps["total"], steps["current"]):
            counts["completed"] -= counted
            counts["ready"] = counts["completed"]

    def _scheduler_steps(self) -> int:
        return int(self._trainer.fit_loop.epoch_loop.scheduler_progress.total.completed)


@final
class Evaluation:
    """The model at the start of an evaluation within a fit, from which training continues.

    Callbacks that average weights put the average in its place for the evaluation. A checkpoint of that moment would
    otherwise confuse the two.

    Args:
        module: The user's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._norms = self._now()

    def write_to(self, checkpoint: dict[str, Any]) -> None:
        """Exchange model and average, if the module holds the average.

        Args:
            checkpoint: The checkpoint, as Lightning made it; changed in place.
        """
        if AVERAGED in checkpoint and not torch.equal(self._norms, self._now()):
            average, model = checkpoint[AVERAGED], checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint[AVERAGED] = average, model

    def _now(self) -> Tensor:
        tensors = [p for p in self._module.parameters() if not is_lazy(p)]  # else the sanity check gives them shapes
        numbers = [p.detach() for p in tensors if p.is_floating_point() or p.is_complex()]
        return torch.tensor([float(norm) for norm in torch._foreach_norm(numbers)] if numbers else [])


@final
class Held:
    """The global model's values, while the module holds a worker's own."""

    def __init__(self) -> None:
        self._tensors: Tensors = {}
        self._values: Tensors = {}

    @contextmanager
    def holding(self, values: Tensors, tensors: Tensors) -> Iterator[None]:
        """Temporarily put other values into tensors of the module; the old values are restored on exit.

        Args:
            values: The values by name.
            tensors: The tensors of these names.
        """
        before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._tensors, self._values = tensors, before
        try:
            copy_(tensors, values)
            yield
        finally:
            self.put_back()

    def put_back(self) -> None:
        """Put the global model back into the module. Can be repeated after an interruption."""
        if self._values:
            copy_(self._tensors, self._values)
            self._values = {}

    def write_to(self, checkpoint: dict[str, Any], module: nn.Module) -> None:
        """Put the global model in place of a worker's own.

        Args:
            checkpoint: The checkpoint, as Lightning made it; changed in place.
            module: The module.
        """
        if not self._values:
            return
        now = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        try:
            copy_(self._tensors, self._values)
            _put_state_into(checkpoint, module)
        finally:
            copy_(self._tensors, now)


def _put_state_into(checkpoint: dict[str, Any], module: nn.Module) -> None:
    """Write a module's state dict into a checkpoint, with all of its names."""
    name = AVERAGED if AVERAGED in checkpoint else "state_dict"
    checkpoint[name] = _copied(dict(module.state_dict()))


def _copied(state: Any) -> Any:
    """Copy a state dict and its tensors, and nothing else in it."""
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)) and type(state) in (list, tuple):
        return type(state)(_copied(value) for value in state)
    return state
