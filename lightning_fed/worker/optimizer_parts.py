"""Parts of an optimizer: what it is made of, whether it can be set back, its rate while it steps, its bare step."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lightning_fed.worker.outermost_steps import OutermostSteps


def parts_of(optimizer: Optimizer) -> object:
    """Return an optimizer's attributes, hooks, groups and parameters; values that are objects by their ids."""
    attributes = {
        name: (id(value), len(value) if isinstance(value, (dict, list)) else 0)
        for name, value in vars(optimizer).items()
        if name != "state"
    }
    return attributes, [(list(group), [id(p) for p in group["params"]]) for group in optimizer.param_groups]


def bare_step(optimizer: Optimizer) -> Callable[[], Any]:
    """Return an optimizer's step without torch's wrapper; if it has hooks, which the wrapper calls, with it."""
    # Faster without the wrapper, whose cost shows when training has left the caches cold.
    hooks = (
        *(_global_optimizer_pre_hooks, _global_optimizer_post_hooks),
        *(optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks),
    )
    step: Any = type(optimizer).step
    if any(hooks) or not getattr(step, "hooked", False) or "step" in vars(optimizer):  # as a scheduler puts it there
        return optimizer.step
    return partial(step.__wrapped__, optimizer)


def scale_lr(optimizer: Optimizer, factor: float) -> None:
    """Multiply the learning rate while a step is taken; schedulers see and set the one without the factor.

    Raises:
        ValueError: If there is none.
    """
    own: list[Any] = []
    if any(group.get("lr") is None for group in optimizer.param_groups):
        raise ValueError(
            f"the learning rate of {type(optimizer).__name__} is None, which cannot be multiplied in a round: give it "
            "one in configure_optimizers(), or leave out local_lr_schedule"
        )

    def begin(*_: Any) -> None:
        own.extend(group["lr"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor

    def end(_: Optimizer) -> None:
        for group, lr in zip(optimizer.param_groups, own, strict=False):
            group["lr"] = lr
        own.clear()

    OutermostSteps(begin, end, only=optimizer)


def can_be_set_back(optimizer: Optimizer) -> bool:
    """Whether everything that a step changes lies in ``state`` and, by value, in ``param_groups``."""
    values = [value for group in optimizer.param_groups for value in group.values()]
    has_past = bool(optimizer.state)  # Adagrad has some from the start
    return is_torchs(optimizer) and not has_past and not any(isinstance(value, Tensor) for value in values)


def is_torchs(optimizer: Optimizer) -> bool:
    """Whether an optimizer is one of torch's own."""
    return type(optimizer).__module__.startswith("torch.optim.")
