"""The learning rates of a worker's own optimizers, for curves: a LearningRateMonitor shows the server's."""

from __future__ import annotations

from collections.abc import Sequence

from torch.optim import Optimizer


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
