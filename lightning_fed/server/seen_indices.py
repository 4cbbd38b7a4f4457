"""Which examples predictions are about, for callbacks that write them."""

from __future__ import annotations

from typing import final

from torch.utils.data import BatchSampler, DataLoader

from lightning_fed._lightning import _IndexBatchSamplerWrapper


@final
class SeenIndices(_IndexBatchSamplerWrapper):
    """Holds the positions in a data set of the examples in every batch that was yielded, one list for each.

    It stands where Lightning's prediction loop looks for them: as the ``batch_sampler`` of the loader that yields
    batches of several loaders. Of loaders without a batch sampler the lists are empty.
    """

    def __init__(self) -> None:
        self.seen_batch_indices: list[list[int]] = []

    def begin(self) -> None:
        """Forget what was yielded before."""
        self.seen_batch_indices = []

    @staticmethod
    def watch(loader: object) -> None:
        """Have a loader keep the positions that its batch sampler draws.

        Args:
            loader: The user's loader, which is about to be gone through.
        """
        if isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, BatchSampler):
            # Not by setattr(), which a DataLoader refuses.
            vars(loader)["batch_sampler"] = _IndexBatchSamplerWrapper(loader.batch_sampler)

    def note(self, loader: object, number: int) -> None:
        """Note that a batch was yielded.

        Args:
            loader: The loader that it is from.
            number: Which batch of its it is.
        """
        sampler = getattr(loader, "batch_sampler", None)
        drawn = sampler.seen_batch_indices if isinstance(sampler, _IndexBatchSamplerWrapper) else []
        self.seen_batch_indices.append(list(drawn[number]) if number < len(drawn) else [])
