"""The processes in which a DataLoader reads: when they end."""

from __future__ import annotations

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lightning_fed._lightning import CombinedLoader


def end_processes(loader: object) -> None:
    """End the processes of a loader that lets them persist.

    They keep their generators from pass to pass, so what they draw would depend on what ran before; and every worker
    that is kept set up would keep its own.
    """
    if isinstance(loader, CombinedLoader):
        loader.reset()
    elif isinstance(loader, DataLoader) and loader._iterator is not None:
        end_pass(loader._iterator)
        loader._iterator = None


def end_pass(iterator: object) -> None:
    """End the processes of a pass over a loader, such as one that failed.

    Of that one torch's exception holds the iterator in a cycle: the garbage collector would come upon it at any later
    time, and wait five seconds for each of the processes.

    Args:
        iterator: What iterates over the loader.
    """
    combined = iterator._iterator if isinstance(iterator, CombinedLoader) else None
    for part in [iterator] if combined is None else combined.iterators:
        if isinstance(part, _MultiProcessingDataLoaderIter):
            part._shutdown_workers()
