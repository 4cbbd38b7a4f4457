"""Numbers of examples in batches of a loader without a fixed batch size."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping
from typing import Any, final

from torch import Tensor
from torch.utils import _pytree as pytree

from lightning_fed._lightning import extract_batch_size, rank_zero_warn


@final
class BatchSizes:
    """Sizes of batches: as set by ``self.log(..., batch_size=...)`` in the user's code, else as Lightning finds them.

    Lightning takes the first dimension of the first tensor. If that may be wrong, a warning is given once.
    """

    def __init__(self) -> None:
        self._has_warned = False

    def of(self, worker: str, batch: Any, said: Collection[int], is_item: bool = False) -> int:
        """The number of examples of a batch.

        Args:
            worker: Whose batch it is.
            batch: The batch.
            said: The sizes that the user's code has logged with the batch; if they differ, the batch's own is returned.
            is_item: Whether it is a single item of its dataset.
        """
        if len(said) == 1:
            (size,) = said
            return size
        size = examples_in(batch)
        if size not in said:
            self.warn(worker, is_doubtful(batch, is_item), size)
        return size

    def warn(self, worker: str, is_doubtful: bool, size: int) -> None:
        """Warn of a guess, the first time.

        Args:
            worker: Whose batch it is.
            is_doubtful: Whether there is something to warn of.
            size: The guessed size.
        """
        if is_doubtful and not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"worker {worker!r}: its loader does not tell how many examples a batch holds, and its batches can be "
                f"read in several ways; {size} were counted, by the first dimension of the first tensor. What a worker "
                "weighs follows from it: say it by self.log(..., batch_size=...) in training_step"
            )


def examples_in(batch: Any) -> int:
    """The number of examples in a batch, or 1 if Lightning cannot find it: a weight in means, no reason to stop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return int(extract_batch_size(batch))
        except Exception:
            return 1


def is_doubtful(batch: Any, is_item: bool = False) -> bool:
    """Whether the first dimension of a batch's first tensor may be something else than its number of examples.

    Args:
        batch: The batch.
        is_item: Whether it is a single item of its dataset, and so one example or, as a graph's nodes, many.

    >>> from torch import zeros
    >>> is_doubtful([zeros(3, 2), zeros(3)]), is_doubtful({"steps": zeros(5, 3), "lengths": zeros(3)})
    (False, True)
    >>> is_doubtful([{"x": zeros(2)}, {"x": zeros(2)}])
    True
    """
    if is_item and examples_in(batch) != 1:
        return True
    leaves = pytree.tree_leaves(batch)
    sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim}
    return len(sizes) > 1 or (not sizes and examples_in(batch) == 1) or _lists_examples(batch)


def _lists_examples(batch: Any) -> bool:
    """Whether there is a list of dicts, each of which may be an example."""
    if isinstance(batch, Mapping):
        return any(map(_lists_examples, batch.values()))
    if isinstance(batch, (list, tuple)):
        are_dicts = len(batch) > 0 and all(isinstance(part, Mapping) for part in batch)
        return are_dicts or any(map(_lists_examples, batch))
    return False
