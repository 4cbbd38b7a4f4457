"""Values of an earlier run that the loops of a Trainer keep."""

from __future__ import annotations

from lightning_fed._lightning import pl


def forget_results(trainer: pl.Trainer) -> None:
    """Remove what the loops keep of values that were logged.

    A loop compares how a value is logged with how the last module logged one of that name, and refuses what differs. A
    user's module and its ``FederatedModule`` log the same names: the one by batches, the other when all are over.
    """
    epochs = trainer.fit_loop.epoch_loop
    for loop in (epochs, epochs.val_loop, trainer.validate_loop, trainer.test_loop):
        loop._results.clear()
