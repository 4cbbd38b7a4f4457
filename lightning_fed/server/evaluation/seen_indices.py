"""Positions in the data set of the examples that were predicted, for callbacks that write predictions."""

from __future__ import annotations

from typing import final

from torch.utils.data import BatchSampler, DataLoader

from lightning_fed._lightning import _IndexBatchSamplerWrapper


@final
class SeenIndices(_IndexBatchSamplerWrapper):
    """Positions of the examples in the data set: a list for every batch that was yielded.

    Lightning's prediction loop looks for these positions at ``loader.batch_sampler``; an instance stands there, on the
    loader that yields the batches of several loaders. For a loader without a batch sampler the lists are empty.
    """

    def __init__(self) -> None:
        self.seen_batch_indices: list[list[int]] = []

    def begin(self) -> None:
        """Delete the positions of earlier batches."""
        self.seen_batch_indices = []

    @staticmethod
    def watch(loader: object) -> None:
        """Make a loader keep the positions that its batch sampler draws.

        Args:
            loader: The user's loader, before its first batch is drawn.
        """
        if isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, BatchSampler):
            # Not by setattr(), which a DataLoader refuses.
            vars(loader)["batch_sampler"] = _IndexBatchSamplerWrapper(loader.batch_sampler)

    def note(self, loader: object, number: int) -> None:
        """Note the positions of the examples in a batch that was yielded.

        Args:
            loader: The user's loader from which the batch comes.
            number: The batch's number in that loader, from 0.
        """
        sampler = getattr(loader, "batch_sampler", None)
        drawn = sampler.seen_batch_indices if isinstance(sampler, _IndexBatchSamplerWrapper) else []
        self.seen_batch_indices.append(list(drawn[number]) if number < len(drawn) else [])
