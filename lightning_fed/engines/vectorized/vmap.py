"""``torch.vmap`` along dim 0, without its walks through arguments and results.

For a step of a linear layer these walks take 200 of 600 µs. What is left is what vmap does in the end: mark dim 0 of
every tensor as the one that the function does not see, run the function, and take the marks off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch._C import _functorch
from torch._functorch.predispatch import lazy_load_decompositions
from torch.utils import _pytree as pytree

from lightning_fed.core.tree import Tensors

Outputs = tuple[Tensor, list[Tensor], Tensors]


def batched(step: Callable[[Tensors, Any], Outputs], n: int, state: Tensors, batch: Any) -> Outputs:
    """Run one worker's step for n of them.

    Args:
        step: One worker's step: from its state and batch to a tensor, some tensors, and tensors by name.
        n: The number of workers.
        state: Tensors by name; ``[n, ...]`` each.
        batch: Batches of all workers, every tensor stacked; ``[n, ...]`` each.

    Returns:
        The step's results, every tensor stacked; ``[n, ...]`` each.
    """
    lazy_load_decompositions()
    level = _functorch._vmap_increment_nesting(n, "different")

    def hidden(value: Any) -> Any:
        return _functorch._add_batch_dim(value, 0, level) if isinstance(value, Tensor) else value

    def shown(tensor: Tensor) -> Tensor:
        return _functorch._remove_batch_dim(tensor, level, n, 0)

    try:
        own = [hidden(tensor) for tensor in batch] if type(batch) is list else pytree.tree_map(hidden, batch)
        first, some, named = step({name: hidden(tensor) for name, tensor in state.items()}, own)
        return shown(first), [shown(tensor) for tensor in some], {name: shown(t) for name, t in named.items()}
    finally:
        _functorch._vmap_decrement_nesting()
