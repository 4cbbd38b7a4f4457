"""Batches of any loader, unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any, final

from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader
from torch.utils.data._utils.fetch import _MapDatasetFetcher

from lightning_fed._lightning import CombinedLoader
from lightning_fed.population.batches.base import Batches
from lightning_fed.population.combined import batch_in
from lightning_fed.population.generators import orders, others_of, reseed
from lightning_fed.population.lengths import gives_items, length_of, num_batches, num_examples
from lightning_fed.population.loader_processes import end_pass, end_processes


@final
class LoadedBatches(Batches):
    """Batches of any loader, as it gives them.

    Args:
        loader: A DataLoader, a CombinedLoader or any other iterable of batches.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        parts = loader.flattened if isinstance(loader, CombinedLoader) else [loader]
        loaders = [part for part in parts if isinstance(part, DataLoader)]
        self._carried = [generator for part in loaders for generator in orders(part)]
        self._others = [generator for part in parts for generator in others_of(part)]
        rows = [length_of(part.dataset) for part in loaders]
        self.num_rows = rows[0] if len(parts) == 1 and rows else None
        self.gives_items = any(map(gives_items, loaders))
        self.num_examples = num_examples(loader)
        self.num_batches = num_batches(loader)

    def _reseed(self, seed: int) -> None:
        reseed(self._carried, self._others, seed)

    def rest(self) -> None:
        end_processes(self.loader)

    def is_current(self) -> bool:
        return self.num_batches == num_batches(self.loader) and self.num_examples == num_examples(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        self._begin_pass()
        iterator = iter(self.loader)
        # The loader's length limits a pass, as in a Trainer: a stream may be infinite.
        for _ in count() if self.num_batches is None else range(self.num_batches):
            try:
                item = next(iterator)
            except StopIteration as end:
                _refuse_end_by_an_example(end)
                return
            except Exception:
                end_pass(iterator)
                self.rest()
                raise
            yield batch_in(self.loader, item), None


def _refuse_end_by_an_example(end: StopIteration) -> None:
    """Refuse a StopIteration of a dataset's own code, which is indistinguishable from the end of a pass.

    Raises:
        RuntimeError: If the exception comes from where a DataLoader fetches examples by their index.
    """
    at = end.__traceback__
    while at is not None:
        if at.tb_frame.f_code in _FETCHING:
            raise RuntimeError("its dataset raised StopIteration for an example, which must not end the pass") from end
        at = at.tb_next


_FETCHING = (_MapDatasetFetcher.fetch.__code__, ExceptionWrapper.reraise.__code__)
"""In this process, and for what was fetched in another."""
