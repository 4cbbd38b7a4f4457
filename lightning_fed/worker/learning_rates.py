"""The learning rates of a worker's own optimizers: in curves (a LearningRateMonitor shows the server's), in steps."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


def learning_rates(optimizers: Sequence[Optimizer], factor: float) -> dict[str, float]:
    """Return the learning rates by the names that Lightning's LearningRateMonitor would give them, if there are some.

    Args:
        optimizers: The worker's optimizers.
        factor: By what the rates are multiplied in a step.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    >>> learning_rates([optimizer], factor=0.5), learning_rates([optimizer, optimizer], factor=1.0)
    ({'lr-SGD': 0.25}, {'lr-SGD': 0.5, 'lr-SGD-1': 0.5})
    """
    rates: dict[str, float] = {}
    seen: dict[str, int] = {}
    for optimizer in optimizers:
        kind = type(optimizer).__name__
        number = seen[kind] = seen.get(kind, -1) + 1
        name = f"lr-{kind}-{number}" if number else f"lr-{kind}"
        groups = optimizer.param_groups
        for place, group in enumerate(groups, start=1):
            if group.get("lr") is not None:  # an optimizer such as Adafactor may find its rate by itself
                rates[f"{name}/pg{place}" if len(groups) > 1 else name] = float(group["lr"]) * factor
    return rates


@contextmanager
def scaled_elsewhere(factor: float, own: Collection[Optimizer]) -> Iterator[None]:
    """Multiply also the rates of optimizers that user code has made elsewhere than in ``configure_optimizers``.

    Of a step within a step, as of the optimizer that a SAM wraps, the outer one counts: they share their groups.

    Args:
        factor: By what.
        own: The optimizers that are multiplied already.
    """
    stepping: list[tuple[Optimizer, list[Any]]] = []  # at most one: the outermost, and the rates of its groups

    def before(optimizer: Optimizer, *_: Any) -> None:
        if stepping and stepping[0][0] is not optimizer:
            return
        after(optimizer)  # if its last step has failed
        groups = [] if any(optimizer is other for other in own) else optimizer.param_groups
        stepping.append((optimizer, [group.get("lr") for group in groups]))
        for group in groups:
            if group.get("lr") is not None:
                group["lr"] = group["lr"] * factor

    def after(optimizer: Optimizer, *_: Any) -> None:
        if stepping and stepping[0][0] is optimizer:
            rates = stepping.pop()[1]
            for group, rate in zip(optimizer.param_groups, rates, strict=False):
                group["lr"] = rate

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
