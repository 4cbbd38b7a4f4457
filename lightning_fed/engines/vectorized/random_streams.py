"""Random numbers of workers that train in lockstep: each from its own stream, as if it trained alone.

``torch.vmap(..., randomness="different")`` draws for all workers at once, so what one of them gets would depend on who
else is in its chunk. Below vmap, where the operations are on plain stacks, :class:`RandomStreams` takes each random
operation apart again and runs it worker by worker, each from its own generator: on a CPU dropout then gives the very
numbers that the worker would draw alone. A module that draws no random numbers pays nothing for that.

Which of its numbers an element gets depends on how the tensor lies in memory, and a row of a stack need not lie there
as one worker's tensor does: torch's rule for dropout always draws contiguous masks. So one worker's step is run alone
beforehand, to note its random operations and how their tensors lie (:class:`Draws`); the rows are laid out alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
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


class OtherDrawsError(Exception):
    """Random operations of a stack that are not those noted of one worker."""


@final
@dataclass(frozen=True)
class _Layout:
    """Layout of a tensor in memory."""

    shape: torch.Size
    stride: tuple[int, ...]


@final
@dataclass(frozen=True)
class Draw:
    """A random operation of one worker; its tensors are given by their layouts."""

    func: Any
    args: tuple[Any, ...]


@final
class Draws(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, notes random operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.noted: list[Draw] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if _is_random(func, args, kwargs or {}):
            self.noted.append(Draw(func, tuple(_Layout(a.shape, a.stride()) if _is_tensor(a) else a for a in args)))
        return func(*args, **(kwargs or {}))


@final
class RandomStreams(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Context in which random operations on stacks draw each row from that worker's own stream.

    Args:
        states: The state of each worker's generator.
        device: Where the random operations run.
    """

    def __init__(self, states: Sequence[Tensor], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._states = list(states)
        self._default = generator_of(device)
        self._left = self._before = self._default.get_state()  # as it was when the last worker had drawn, and before
        self._workers: Sequence[int] = ()
        self._expected: Sequence[Draw] = ()
        self._done = 0
        self._turn = 0

    def __len__(self) -> int:
        return len(self._states)

    @property
    def states(self) -> list[Tensor]:
        """The states of all generators, to come back to by :meth:`rewind`."""
        return list(self._states)

    def begin_step(self, workers: Sequence[int], expected: Sequence[Draw]) -> list[Tensor]:
        """Make ready for a step.

        Args:
            workers: Whose rows the stacks hold, in order.
            expected: The random operations of one of them alone.

        Returns:
            The states of all generators, to come back to by :meth:`rewind`.
        """
        self._workers, self._expected, self._done, self._turn = workers, expected, 0, 0
        self._left = self._before = self._default.get_state()
        return self.states

    def rewind(self, states: list[Tensor]) -> None:
        """Go back to the beginning of a step that is to be repeated."""
        self._states = states
        self._default.set_state(self._before)

    def end_step(self) -> None:
        """Check that a step has drawn what one worker alone draws.

        Raises:
            OtherDrawsError: If not.
            UnvectorizableError: If the generator was seeded.
        """
        self._check_seed()
        if self._done != len(self._expected):
            raise OtherDrawsError(f"one worker alone draws with {self._expected[self._done].func}, a stack does not")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not _is_random(func, args, kwargs):
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            raise UnvectorizableError(f"{func} draws from a generator of its own, which all workers would share")
        self._check_seed()  # from here on an operation has a cost for each worker
        if self._done == len(self._expected):
            raise OtherDrawsError(f"{func} draws random numbers for a stack, and not for one worker alone")
        expected = self._expected[self._done]
        if not any(isinstance(argument, (_Layout, list, tuple)) for argument in expected.args):
            return self._in_turn(func, args, expected, kwargs)
        self._done += 1
        alone, of_rows = _by_row(func, args, expected, len(self._workers))
        rows = [self._drawn(worker, alone, own, kwargs) for worker, own in zip(self._workers, of_rows, strict=True)]
        self._left = self._default.get_state()
        self._check_device(func, rows[0])
        if func._schema.is_mutable:
            for i, row in enumerate(rows):
                args[0][i].copy_(row)
            return args[0]
        return _stack(rows)

    def _in_turn(self, func: Any, args: tuple[Any, ...], expected: Draw, kwargs: dict[str, Any]) -> Any:
        """An operation that has no shape to stack (``randperm``): the rule of vmap calls it for each worker in turn."""
        if func is not expected.func or args != expected.args:
            raise OtherDrawsError(
                f"{func}{args} draws random numbers for a stack, {expected.func}{expected.args} for one"
            )
        output = self._drawn(self._workers[self._turn], func, args, kwargs)
        self._left = self._default.get_state()
        self._check_device(func, output)
        self._turn += 1
        if self._turn == len(self._workers):
            self._done, self._turn = self._done + 1, 0
        return output

    def _drawn(self, worker: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._default.set_state(self._states[worker])
        output = func(*args, **kwargs)
        self._states[worker] = self._default.get_state()
        return output

    def _check_device(self, func: Any, output: Any) -> None:
        for tensor in pytree.tree_leaves(output):
            if tensor.device.type != self._default.device.type:
                raise UnvectorizableError(f"{func} draws on the device {tensor.device}, where workers have no stream")

    def _check_seed(self) -> None:
        if not torch.equal(self._left, self._default.get_state()):
            raise UnvectorizableError("training_step seeds torch's generator or draws from it past the workers' own")


def _is_random(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation draws random numbers: attention may and may not, by its dropout."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    for position, argument in enumerate(func._schema.arguments):
        if argument.name == "dropout_p":
            p = args[position] if position < len(args) else kwargs.get(argument.name, argument.default_value)
            return bool(p)
    return True


_DROPOUT_ALONE = torch.ops.aten.bernoulli_.float
_DROPOUT_STACKED = torch.ops.aten.bernoulli.p


def _by_row(func: Any, args: tuple[Any, ...], expected: Draw, n: int) -> tuple[Any, Iterable[tuple[Any, ...]]]:
    """An operation on single rows in place of one on n of them, and its arguments, every tensor laid out as expected.

    What all rows have in common is looked at once, since there are thousands of them in a round.

    Raises:
        OtherDrawsError: If the operation is another than the expected one.
    """
    if func is _DROPOUT_STACKED and expected.func is _DROPOUT_ALONE:
        # The rule of vmap for dropout: it draws a new mask from the probability, with no regard to the input's layout.
        layout, (mask, p) = expected.args[0], args
        _check_shape(func, mask.shape, layout.shape, n)
        return _DROPOUT_ALONE, ((_empty(layout, mask), p) for _ in range(n))
    if func is not expected.func or len(args) != len(expected.args):
        raise OtherDrawsError(f"{func} draws random numbers for a stack, and {expected.func} for one worker alone")
    return func, zip(*(_of_rows(func, a, e, n) for a, e in zip(args, expected.args, strict=True)), strict=True)


def _of_rows(func: Any, argument: Any, expected: Any, n: int) -> Iterable[Any]:
    if isinstance(argument, Tensor) and isinstance(expected, _Layout):
        _check_shape(func, argument.shape, expected.shape, n)
        rows = argument.unbind()
        return rows if rows[0].stride() == expected.stride else (_empty(expected, row, row) for row in rows)
    if isinstance(argument, (list, tuple)) and isinstance(expected, (list, tuple)):
        _check_shape(func, argument, expected, n)
        return repeat(expected, n)
    if type(argument) is not type(expected):
        raise OtherDrawsError(
            f"{func} is given a {type(argument).__name__} for a stack, and another for one worker alone"
        )
    return repeat(argument, n)


def _stack(rows: Sequence[Any]) -> Any:
    """Stack the outputs of an operation: tensors, or tuples of them and of other things."""
    if isinstance(rows[0], Tensor):
        return torch.stack(list(rows))
    return tuple(torch.stack(same) if isinstance(same[0], Tensor) else same[0] for same in zip(*rows, strict=True))


def _check_shape(func: Any, stacked: Sequence[int], alone: Sequence[int], n: int) -> None:
    if list(stacked) != [n, *alone]:
        raise OtherDrawsError(
            f"{func} draws {tuple(stacked)} random numbers for {n} workers, and {tuple(alone)} for one"
        )


def _empty(layout: _Layout, like: Tensor, values: Tensor | None = None) -> Tensor:
    """A tensor in some layout, with some values or any."""
    if values is None and 0 not in layout.stride:
        return torch.empty_strided(layout.shape, layout.stride, dtype=like.dtype, device=like.device)
    # Along a dim of stride 0 all elements are one.
    once = [min(size, 1) if stride == 0 else size for size, stride in zip(layout.shape, layout.stride, strict=True)]
    tensor = torch.empty_strided(once, layout.stride, dtype=like.dtype, device=like.device)
    if values is not None:
        tensor.copy_(values[tuple(slice(size) for size in once)])
    return tensor.expand(layout.shape)


def _is_tensor(argument: Any) -> bool:
    return isinstance(argument, Tensor)
