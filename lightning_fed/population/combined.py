"""Loaders in the forms that a Trainer accepts: one, or several in a list, a dict or a CombinedLoader."""

from __future__ import annotations

from typing import Any

from lightning_fed._lightning import CombinedLoader, RunningStage, _resolve_overfit_batches


def loaders_in(given: Any) -> list[Any]:
    """Return the loaders of an evaluation, in order.

    Args:
        given: The loaders of a datamodule: a loader, a collection of them that may be nested, or None. A
            CombinedLoader of another mode than ``"sequential"`` is one loader, with combined batches of its parts.

    >>> from torch.utils.data import DataLoader
    >>> a, b = DataLoader(range(3)), DataLoader(range(5))
    >>> len(loaders_in(a)), len(loaders_in({"x": a, "y": [b]})), len(loaders_in(CombinedLoader([a, b], "max_size")))
    (1, 2, 1)
    >>> loaders_in([]), loaders_in(None)
    ([], [])
    """
    if given is None or (isinstance(given, (list, tuple, dict)) and not given):
        return []
    combined = given if isinstance(given, CombinedLoader) else CombinedLoader(given, "sequential")
    return list(combined.flattened) if combined._mode == "sequential" else [combined]


def batch_in(loader: object, item: Any) -> Any:
    """Return the batch in a loader's item: a CombinedLoader yields ``(batch, batch_idx, dataloader_idx)``."""
    return item[0] if isinstance(loader, CombinedLoader) else item


def set_epoch(loader: object, epoch: int) -> None:
    """Call ``set_epoch`` of the samplers of a loader for which a Trainer calls it.

    Args:
        loader: The loader, or several that are combined.
        epoch: The epoch.
    """
    for part in loader.flattened if isinstance(loader, CombinedLoader) else [loader]:
        batch_sampler = getattr(part, "batch_sampler", None)
        samplers = [getattr(part, "sampler", None), getattr(batch_sampler, "sampler", None)]
        for sampler in {id(sampler): sampler for sampler in samplers}.values():
            set_epoch = getattr(sampler, "set_epoch", None)
            if callable(set_epoch):
                set_epoch(epoch)


def unshuffled(given: Any, stage: RunningStage) -> Any:
    """Return loaders that do not shuffle, as ``Trainer(overfit_batches=...)`` requires, with a warning.

    Args:
        given: The loaders of a datamodule.
        stage: The stage of the loaders.
    """
    combined = given if isinstance(given, CombinedLoader) else CombinedLoader(given, "max_size_cycle")
    _resolve_overfit_batches(combined, stage)
    return given if isinstance(given, CombinedLoader) else combined.iterables


def refuse_sequential(loader: object) -> None:
    """Refuse to train on loaders that are combined one after another, as a Trainer does.

    Raises:
        ValueError: If the loaders are combined so.
    """
    if isinstance(loader, CombinedLoader) and loader._mode == "sequential":
        raise ValueError(
            'train_dataloader() gives a CombinedLoader(mode="sequential"), which no Trainer trains on; use the mode '
            '"max_size_cycle", "max_size" or "min_size", or a DataLoader over a ConcatDataset'
        )
