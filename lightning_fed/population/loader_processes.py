"""The end of a DataLoader's processes."""

from __future__ import annotations

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lightning_fed._lightning import CombinedLoader


def end_processes(loader: object) -> None:
    """End the persistent processes of a loader.

    Persistent processes keep their generators from pass to pass, so their draws would depend on earlier passes; and
    every worker that is set up would keep its own processes.
    """
    if isinstance(loader, CombinedLoader):
        loader.reset()
    elif isinstance(loader, DataLoader) and loader._iterator is not None:
        end_pass(loader._iterator)
        loader._iterator = None


def end_pass(iterator: object) -> None:
    """End the processes of a pass over a loader, such as one that failed.

    After a failure, torch's exception holds the iterator in a reference cycle: the garbage collector would find it at
    any later time, and wait for each of the processes.

    Args:
        iterator: The iterator over the loader.
    """
    combined = iterator._iterator if isinstance(iterator, CombinedLoader) else None
    for part in [iterator] if combined is None else combined.iterators:
        if isinstance(part, _MultiProcessingDataLoaderIter):
            part._shutdown_workers()
