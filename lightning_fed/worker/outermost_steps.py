"""Steps of optimizers, as user code takes them: one within the other, and some that fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeAlias, final

from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments of an optimizer's ``step``, by position and by name."""


@final
class OutermostSteps:
    """Follows the steps of optimizers: of a step within a step, the outer one counts.

    Such are those of the optimizer that a SAM or a Lookahead wraps, and those of ``super().step()``. A step that fails
    calls no hook when it ends, and user code may go on after it: it is over once torch's wrapper of ``step`` is no
    longer on the stack, and is ended before the next step begins, in :meth:`settle` and in :meth:`close`.

    Args:
        begin: Called before a step, with the optimizer and what its ``step`` is given; may return other arguments.
        end: Called after it, also if it has failed.
        only: The optimizer whose steps are followed; None: those of all in this process.
    """

    def __init__(
        self,
        begin: Callable[[Optimizer, tuple[Any, ...], dict[str, Any]], Arguments | None],
        end: Callable[[Optimizer], None],
        only: Optimizer | None = None,
    ) -> None:
        self._begin = begin
        self._end = end
        self._stepping: tuple[Optimizer, FrameType] | None = None
        before = register_optimizer_step_pre_hook if only is None else only.register_step_pre_hook
        after = register_optimizer_step_post_hook if only is None else only.register_step_post_hook
        self._handles = before(self._before), after(self._after)

    def settle(self) -> None:
        """End a step that has failed, where none is being taken."""
        if self._stepping is not None:
            optimizer, _ = self._stepping
            self._stepping = None
            self._end(optimizer)

    def close(self) -> None:
        """Follow no more steps."""
        for handle in self._handles:
            handle.remove()
        self.settle()

    def _before(self, optimizer: Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]) -> Arguments | None:
        wrapper = sys._getframe(1)
        if self._stepping is not None and _is_below(self._stepping[1], wrapper):
            return None
        self.settle()
        self._stepping = optimizer, wrapper
        return self._begin(optimizer, arguments, options)

    def _after(self, *_: Any) -> None:
        if self._stepping is not None and self._stepping[1] is sys._getframe(1):
            self.settle()


def _is_below(frame: FrameType, top: FrameType) -> bool:
    """Whether a call is going on in which another one, the innermost, was made."""
    here: FrameType | None = top
    while here is not None and here is not frame:
        here = here.f_back
    return here is not None
