"""Optimizers that user code makes elsewhere than in ``configure_optimizers``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer

from lightning_fed.worker.outermost_steps import OutermostSteps


@contextmanager
def steps_elsewhere(own: Collection[Optimizer], factor: float, are_kept: bool) -> Iterator[None]:
    """Have the steps of other optimizers than those of ``configure_optimizers`` follow the rules for all.

    Of a step within a step, as of the optimizer that a SAM wraps, the outer one counts: they share their groups.

    Args:
        own: The optimizers of ``configure_optimizers``.
        factor: By what to multiply the learning rates of the others.
        are_kept: Whether what optimizers remember is kept, which nothing would be of the others.

    Raises:
        ValueError: In a step of such an optimizer, if they are kept.
    """
    rates: list[Any] = []  # of the groups of the one that steps

    def begin(optimizer: Optimizer, *_: Any) -> None:
        is_own = any(optimizer is other for other in own)
        if are_kept and not is_own:
            raise ValueError(
                f"local_optimizer_state='kept': training steps the {type(optimizer).__name__} that "
                "configure_optimizers() does not return, so nothing of it would be kept; return it there, or take "
                "local_optimizer_state='fresh'"
            )
        groups = [] if is_own else optimizer.param_groups
        rates.extend(group.get("lr") for group in groups)
        for group in groups:
            if group.get("lr") is not None:
                group["lr"] = group["lr"] * factor

    def end(optimizer: Optimizer) -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=False):
            group["lr"] = rate
        rates.clear()

    steps = OutermostSteps(begin, end)
    try:
        yield
    finally:
        steps.close()
