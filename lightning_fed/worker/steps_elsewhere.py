"""Optimizers that user code makes elsewhere than in ``configure_optimizers``."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@contextmanager
def steps_elsewhere(own: Collection[Optimizer], factor: float, are_kept: bool) -> Iterator[None]:
    """Have the steps of other optimizers than those of ``configure_optimizers`` follow what is asked of all.

    Of a step within a step, as of the optimizer that a SAM wraps, the outer one counts: they share their groups.

    Args:
        own: The optimizers of ``configure_optimizers``.
        factor: By what to multiply the learning rates of the others.
        are_kept: Whether what optimizers remember is kept, which nothing would be of the others.

    Raises:
        ValueError: In a step of such an optimizer, if they are kept.
    """
    stepping: list[tuple[Optimizer, list[Any]]] = []  # at most one: the outermost, and the rates of its groups

    def before(optimizer: Optimizer, *_: Any) -> None:
        if stepping and stepping[0][0] is not optimizer:
            return
        after(optimizer)  # if its last step has failed
        is_own = any(optimizer is other for other in own)
        if are_kept and not is_own:
            raise ValueError(
                f"local_optimizer_state='kept': training steps the {type(optimizer).__name__} that "
                "configure_optimizers() does not return, so nothing of it would be kept; return it there, or take "
                "local_optimizer_state='fresh'"
            )
        groups = [] if is_own else optimizer.param_groups
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
