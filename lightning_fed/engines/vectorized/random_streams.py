"""Random numbers of workers that train in lockstep: each from its own stream, as if it trained alone.

``torch.vmap(..., randomness="different")`` draws for all workers at once, so what one of them gets would depend on who
else is in its chunk. Below vmap, where the operations are on plain stacks, :class:`RandomStreams` takes each random
operation apart again and runs it worker by worker, each from its own generator: on a CPU dropout then gives the very
numbers that the worker would draw alone. That costs 5 µs per operation and worker, and nothing for a module that draws
no random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_fed.engines.errors import UnvectorizableError


def generator_of(device: torch.device) -> torch.Generator:
    """The generator that a device's random operations draw from by default."""
    if device.type == "cuda":
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


@final
class RandomStreams(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, random operations on stacks draw each row from that worker's own stream.

    Args:
        states: The state of each worker's generator.
        device: Where the random operations run.
    """

    def __init__(self, states: Sequence[Tensor], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._states = list(states)
        self._default = generator_of(device)
        self.workers: Sequence[int] = range(len(states))
        """The workers whose rows the stacks hold, in order."""

    def __len__(self) -> int:
        return len(self._states)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        n = len(self.workers)
        if not any(_is_stacked(argument, n) for argument in args):
            raise UnvectorizableError(f"{func} draws random numbers for all workers at once")
        outputs = [
            self._drawn(worker, func, tuple(_row(argument, n, i) for argument in args), kwargs)
            for i, worker in enumerate(self.workers)
        ]
        if func._schema.is_mutable:
            return args[0]
        return pytree.tree_map(lambda *rows: torch.stack(rows), *outputs)

    def _drawn(self, worker: int, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._default.set_state(self._states[worker])
        output = func(*args, **kwargs)
        self._states[worker] = self._default.get_state()
        return output


def _is_stacked(argument: Any, n: int) -> bool:
    """Whether an argument is a stack of n rows, or the shape of one."""
    if isinstance(argument, Tensor):
        return argument.dim() > 0 and argument.shape[0] == n
    return isinstance(argument, (list, tuple)) and len(argument) > 0 and argument[0] == n


def _row(argument: Any, n: int, i: int) -> Any:
    if not _is_stacked(argument, n):
        return argument
    return argument[i] if isinstance(argument, Tensor) else argument[1:]
