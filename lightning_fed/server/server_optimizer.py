"""The server optimizer and its scheduler: made by the user's functions, and looked at before anything trains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from lightning_fed.core.arguments import article
from lightning_fed.server.schedulers import scheduler_config
from lightning_fed.wire import describe


def server_optimizer(make: Callable[..., Any], parameters: Mapping[str, Tensor]) -> Optimizer:
    """Make the server optimizer.

    Args:
        make: The user's function.
        parameters: The global parameters that are trained, by name.

    Raises:
        TypeError: If what it returns is no optimizer.
        ValueError: If it raises, or returns one over other parameters than those that it was given.
    """
    optimizer = _made("server_optimizer", make, parameters.values())
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"server_optimizer must return a torch optimizer over the parameters that it is given, not {_a(optimizer)}"
        )
    steps_on = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left_out = [name for name, parameter in parameters.items() if id(parameter) not in steps_on]
    if left_out or len(steps_on) > len(parameters):
        why = f"leaves out {left_out[0]!r}" if left_out else "steps on parameters of another module"
        raise ValueError(
            f"server_optimizer returned {article(type(optimizer).__name__)} that {why}; build it over all parameters "
            "that it is given, and no others (what is not to be trained is frozen by requires_grad=False)"
        )
    return optimizer


def server_scheduler(make: Callable[..., Any], optimizer: Optimizer) -> dict[str, Any]:
    """Make the server optimizer's scheduler, and say when it is stepped.

    Args:
        make: The user's function.
        optimizer: The server optimizer.

    Raises:
        TypeError: If what it returns is no scheduler.
        ValueError: If it raises, returns one of another optimizer, or a ReduceLROnPlateau that does not say which
            metric it looks at.
    """
    scheduler = _made("server_lr_scheduler", make, optimizer)
    if not isinstance(scheduler, (lr_scheduler.LRScheduler, lr_scheduler.ReduceLROnPlateau)):
        raise TypeError(
            f"server_lr_scheduler must return a torch scheduler of the optimizer that it is given, not {_a(scheduler)}"
        )
    if scheduler.optimizer is not optimizer:
        raise ValueError("server_lr_scheduler returned a scheduler of another optimizer than the one that it is given")
    return scheduler_config(scheduler)


def _made(argument: str, make: Callable[..., Any], given: object) -> Any:
    try:
        return make(given)
    except Exception as error:
        raise ValueError(f"{argument} could not be made: {describe(error)}") from error


def _a(value: object) -> str:
    return "None" if value is None else article(type(value).__name__)
