"""``torch.vmap`` of ``torch.func.grad``, without their walks through arguments and results.

What is left is what the two do in the end: mark dim 0 of every tensor as the one that the function does not see, run
the function, differentiate it, and take the marks off.

The gradient is taken inside of vmap, as it would be for one worker alone. Outside, of the sum of all losses, torch
would differentiate operations on whole stacks: no tensor of the step would require a gradient to the user's code, so
that hooks are left out, and an embedding would keep the ``padding_idx`` of the first worker only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch._functorch.vmap import lazy_load_decompositions  # type: ignore[attr-defined]  # there in torch 2.4 too
from torch.utils import _pytree as pytree

from lightning_fed.core.tree import Tensors
from lightning_fed.engines.errors import UnvectorizableError

# Faster than torch's own functions, which walk through nested containers at every step.
Outputs: TypeAlias = tuple[Tensor, list[Tensor], Tensors]
"""A step's loss, some tensors, and tensors by name."""


class StackedParameter(nn.Parameter):
    """A parameter of n workers, which stands for one worker's while a step runs."""

    @property
    def grad(self) -> Any:  # type: ignore[override]
        """Refused: the gradients of the step before are with the stack."""
        raise UnvectorizableError("training_step reads the gradient that a parameter has from the step before")


class NotStacked(nn.Parameter):
    """A parameter of the workers' copy while stacked ones stand in its place: reached by another way, it is refused."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        if isinstance(result, (bool, torch.Size, torch.dtype, torch.device)):
            return result  # of its kind, not of its numbers
        raise UnvectorizableError(
            "training_step reaches a parameter by a way that does not lead through its layer (a list of parameters, an "
            "optimizer's groups); go by self.parameters() or the layer's attribute"
        )


def differentiated(
    step: Callable[[Tensors, Any], Outputs], n: int, parameters: Tensors, others: Tensors, batch: Any
) -> tuple[Tensor, list[Tensor], Tensors, list[Tensor | None]]:
    """Run one worker's step for n of them, and differentiate each one's loss.

    Args:
        step: One worker's step: from its state and batch to a loss, some tensors, and tensors by name.
        n: The number of workers.
        parameters: Tensors by name, which the loss is differentiated by; ``[n, ...]`` each.
        others: The rest of the state, by other names; ``[n, ...]`` each.
        batch: Batches of all workers, every tensor stacked; ``[n, ...]`` each.

    Returns:
        The step's results, every tensor stacked, and the gradients in the order of the parameters; ``[n, ...]`` each.
        A parameter that took no part has none.
    """
    lazy_load_decompositions()
    with torch.no_grad():  # the stacks themselves take part in no graph
        dim = _functorch._vmap_increment_nesting(n, "different")
        try:
            level = _functorch._grad_increment_nesting()
            try:
                with torch.enable_grad():
                    return _of_one(step, n, parameters, others, batch, dim, level)
            finally:
                _functorch._grad_decrement_nesting()
        finally:
            _functorch._vmap_decrement_nesting()


def rows_of(tensor: Tensor) -> Tensor | None:
    """All workers' values of a tensor that stands for one worker's in :func:`differentiated`.

    Args:
        tensor: Any tensor.

    Returns:
        ``[n, ...]``; None if it has the same value for all workers, or if user code has hidden one of its own dims.
    """
    while _functorch.is_functorch_wrapped_tensor(tensor):
        inner = _functorch.get_unwrapped(tensor)
        if _functorch.is_batchedtensor(tensor):
            is_ours = _functorch.maybe_get_level(tensor) == _OUTERMOST
            return inner.movedim(_functorch.maybe_get_bdim(tensor), 0) if is_ours else None
        tensor = inner
    return None


_OUTERMOST = 1
"""The level of the only ``vmap`` around user code; those within it have higher ones."""


def _of_one(
    step: Callable[[Tensors, Any], Outputs],
    n: int,
    parameters: Tensors,
    others: Tensors,
    batch: Any,
    dim: int,
    level: int,
) -> tuple[Tensor, list[Tensor], Tensors, list[Tensor | None]]:
    """One worker's step between the marks of vmap and those of grad."""

    def hidden(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return _functorch._wrap_for_grad(_functorch._add_batch_dim(value, 0, dim), level)

    def shown(tensor: Tensor) -> Tensor:
        return _functorch._remove_batch_dim(_functorch._unwrap_for_grad(tensor, level), dim, n, 0)

    own = [hidden(tensor) for tensor in parameters.values()]
    was_allowed = _functorch.get_inplace_requires_grad_allowed()
    _functorch.set_inplace_requires_grad_allowed(True)
    try:
        for tensor in own:
            tensor.requires_grad_()
            tensor.__class__ = StackedParameter
    finally:
        _functorch.set_inplace_requires_grad_allowed(was_allowed)
    state = dict(zip(parameters, own, strict=True))
    for name, tensor in others.items():
        state[name] = hidden(tensor)
    given = [hidden(tensor) for tensor in batch] if type(batch) is list else pytree.tree_map(hidden, batch)
    loss, some, named = step(state, given)
    # Not backward(): AccumulateGrad copies a gradient whose strides are not the parameter's, as those of a stack often
    # are not. This is much faster.
    gradients = torch.autograd.grad(loss, own, allow_unused=True)
    return (
        shown(loss),
        [shown(tensor) for tensor in some],
        {name: shown(tensor) for name, tensor in named.items()},
        [None if gradient is None else shown(gradient) for gradient in gradients],
    )
