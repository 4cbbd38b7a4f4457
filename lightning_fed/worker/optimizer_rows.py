"""The state of a worker's optimizers as one vector of fixed length, which can be kept with others of its kind."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

OTHERS = (
    "local_optimizer_state='kept': what is kept of the workers is of other optimizers than configure_optimizers() "
    "returns, or of other layers; go on with those of the run before, or with local_optimizer_state='fresh'"
)


class Slot(NamedTuple):
    """State of an optimizer for one parameter: whether there is any, and then the values in order."""

    optimizer: int
    group: int
    position: int
    values: dict[str, Any]  # as in the state of an optimizer that has taken a step

    @property
    def size(self) -> int:
        return 1 + sum(_real(value).numel() for value in self.values.values())


def slots_of(optimizers: Sequence[Optimizer], with_settings: bool) -> list[Slot]:
    """Find the state that optimizers keep for each parameter, by a step on gradients of 0.

    Args:
        optimizers: They have taken a step afterwards; parameters and their gradients are as they were.
        with_settings: Whether the settings of their groups, which some change in a step, are kept elsewhere.

    Raises:
        ValueError: If it is something else than numbers for each parameter.
    """
    slots: list[Slot] = []
    for number, optimizer in enumerate(optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        before = [(p.detach().clone(), p.grad) for p in parameters]
        counts, settings = _numbers_in(vars(optimizer)), [_numbers_in(group) for group in optimizer.param_groups]
        try:
            _step_on_zeros(optimizer, parameters)
        except Exception as error:
            raise ValueError(_no_numbers(optimizer)) from error
        finally:
            with torch.no_grad():
                for parameter, (value, gradient) in zip(parameters, before, strict=True):
                    parameter.copy_(value)
                    parameter.grad = gradient
        wraps_another = any(isinstance(value, Optimizer) for value in vars(optimizer).values())
        if wraps_another or set(optimizer.state) - set(parameters) or counts != _numbers_in(vars(optimizer)):
            raise ValueError(_no_numbers(optimizer))
        if not with_settings and settings != [_numbers_in(group) for group in optimizer.param_groups]:
            raise ValueError(
                f"local_optimizer_state='kept': {type(optimizer).__name__} remembers something in the settings of "
                "its parameter groups, which local_schedule='restart' begins anew; take local_schedule='continue' too"
            )
        for place, group in enumerate(optimizer.param_groups):
            for position, parameter in enumerate(group["params"]):
                values = {name: v for name, v in optimizer.state.get(parameter, {}).items() if v is not None}
                if not all(isinstance(value, (int, float, Tensor)) for value in values.values()):
                    raise ValueError(_no_numbers(optimizer))
                if values:
                    slots.append(Slot(number, place, position, values))
    return slots


def _step_on_zeros(optimizer: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Take a step on gradients of 0: dense ones, or if the optimizer refuses these, as SparseAdam does, sparse ones."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    try:
        type(optimizer).step(optimizer)
    except Exception as error:
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter).to_sparse()
        try:
            type(optimizer).step(optimizer)
        except Exception:
            raise error from None


def _numbers_in(values: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in values.items() if isinstance(value, (int, float))}


def _real(value: Any) -> Tensor:
    """Return a number or a tensor as real numbers: of complex ones, two each, along a last dimension."""
    tensor = torch.as_tensor(value).detach()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _no_numbers(optimizer: Optimizer) -> str:
    return (
        f"local_optimizer_state='kept': what {type(optimizer).__name__} remembers is not a few numbers for each "
        "parameter, so it cannot be kept; take local_optimizer_state='fresh', or an optimizer such as SGD or Adam"
    )


def dtype_of(slots: Sequence[Slot]) -> torch.dtype:
    """Return the dtype in which nothing of what is remembered is rounded."""
    tensors = [_real(value) for slot in slots for value in slot.values.values() if isinstance(value, Tensor)]
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def size_of(slots: Sequence[Slot]) -> int:
    """Return the length of the vector."""
    return 1 + sum(slot.size for slot in slots)


def _mark(slots: Sequence[Slot]) -> float:
    """Return the number, exact in float32, that marks vectors of these slots; other slots have another one."""
    names = [(*slot[:3], [(k, tuple(torch.as_tensor(v).shape)) for k, v in slot.values.items()]) for slot in slots]
    return float(1 + zlib.crc32(repr(names).encode()) % 2**23)


def row_of(slots: Sequence[Slot], optimizers: Sequence[Optimizer]) -> Tensor:
    """Return the state of optimizers, ``[size]``, on the CPU.

    Args:
        slots: The state that optimizers of their kind keep.
        optimizers: The optimizers.

    Raises:
        ValueError: If they keep more state than after their first step.
    """
    dtype = dtype_of(slots)
    parts = [torch.tensor([_mark(slots)], dtype=dtype)]
    _refuse_more(slots, optimizers)
    for slot in slots:
        optimizer = optimizers[slot.optimizer]
        state = optimizer.state.get(optimizer.param_groups[slot.group]["params"][slot.position], {})
        has_state = all(state.get(name) is not None for name in slot.values)
        parts.append(torch.tensor([float(has_state)], dtype=dtype))
        for name, like in slot.values.items():
            value = state[name] if has_state else torch.zeros_like(torch.as_tensor(like))
            parts.append(_real(value).to("cpu", dtype).reshape(-1))
    return torch.cat(parts)


def _refuse_more(slots: Sequence[Slot], optimizers: Sequence[Optimizer]) -> None:
    for number, optimizer in enumerate(optimizers):
        groups = optimizer.param_groups
        sizes = {
            id(groups[slot.group]["params"][slot.position]): {
                n: torch.as_tensor(v).numel() for n, v in slot.values.items()
            }
            for slot in slots
            if slot.optimizer == number
        }
        for parameter, state in optimizer.state.items():
            known = sizes.get(id(parameter), {})
            if any(v is not None and torch.as_tensor(v).numel() != known.get(name) for name, v in state.items()):
                raise ValueError(_no_numbers(optimizer))


def put(row: Tensor, slots: Sequence[Slot], optimizers: Sequence[Optimizer]) -> None:
    """Put the state in a row into fresh optimizers.

    Args:
        row: Their row, ``[size]``; where it is 0 throughout, nothing is remembered.
        slots: The state that optimizers of their kind keep.
        optimizers: The fresh ones.

    Raises:
        ValueError: If the row is one of other optimizers.
    """
    if not row[0]:
        return
    if row[0] != _mark(slots):
        raise ValueError(OTHERS)
    for slot, part in zip(slots, torch.split(row[1:], [slot.size for slot in slots]), strict=True):
        if not part[0]:
            continue
        optimizer, start = optimizers[slot.optimizer], 1
        state = optimizer.state[optimizer.param_groups[slot.group]["params"][slot.position]]
        for name, like in slot.values.items():
            real = _real(like)
            values = part[start : start + real.numel()]
            start += real.numel()
            if isinstance(like, Tensor):
                values = values.to(real.device, real.dtype).reshape(real.shape).clone()
                state[name] = torch.view_as_complex(values) if like.is_complex() else values
            else:
                state[name] = type(like)(values.item())
