"""The best value of a metric over the evaluations of a fit."""

from __future__ import annotations

import math

from lightning_fed.callbacks.best import Evaluations


def test_the_best_value_is_the_least_of_a_loss_and_the_greatest_of_others() -> None:
    seen = Evaluations()
    for round, (loss, accuracy) in enumerate([(2.0, 0.5), (1.0, 0.9), (3.0, 0.7)], start=1):
        seen.add(round, {"val_loss": loss, "val_acc": accuracy}, before=())
    assert seen.best("val_loss") == "best val_loss 1 after 2 rounds"
    assert seen.best(None) == "best val_acc 0.9 after 2 rounds"


def test_a_value_that_is_nan_is_never_the_best() -> None:
    """A metric is undefined as long as the model has found no positive, say."""
    seen = Evaluations()
    seen.add(1, {"val_acc": math.nan}, before=())
    assert seen.best(None) == ""
    seen.add(2, {"val_acc": 0.5}, before=())
    seen.add(3, {"val_acc": math.nan}, before=())
    assert seen.best(None) == "best val_acc 0.5 after 2 rounds"
