"""Lightning's counts of epochs and batches in a checkpoint, set to resume with the first untrained cohort."""

from __future__ import annotations

from typing import Any


def go_back_to_the_round(loop: dict[str, Any], unfinished: int) -> None:
    """Set the counts to the first cohort of an unfinished round, or of the next epoch.

    A checkpoint may be written when gradients have been accumulated over some of a round's cohorts. The checkpoint does
    not hold these gradients, so the cohorts must be trained again; Lightning would resume with the next one. Between
    two epochs Lightning still counts the batches of the last, and would then skip an epoch, or take one cohort too
    many. After the last batch of an unfinished epoch it would not count the next epoch.

    Args:
        loop: The state of Lightning's ``_FitLoop``, changed in place.
        unfinished: The number of cohorts that the Trainer has taken and whose round is not over.
    """
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    epoch, batch = epochs["current"], batches["current"]
    has_trained = epoch["started"] == epoch["ready"] and batch["processed"] == batch["ready"] and not unfinished
    is_over = batches["is_last_batch"] and (epoch["processed"] == epoch["ready"] or has_trained)
    if is_over:
        _set(epochs, processed=epoch["ready"], completed=epoch["ready"])
        _set(batches, completed=batch["ready"])
    if is_over or epoch["ready"] > epoch["started"]:
        batches.update(current=dict.fromkeys(batch, 0), is_last_batch=False)
        return
    has_ended = batch["ready"] == batch["started"] == batch["processed"] == batch["completed"] + 1
    over = batch["ready"] - unfinished
    # Lightning takes a batch back by itself if it has not ended. Less than none: it was another Trainer that took them.
    if 0 <= over < batch["completed"] + has_ended:
        # As if the checkpoint had been written while the first of them was trained.
        _set(batches, ready=over + 1, started=over + 1, processed=over, completed=over)
        batches["is_last_batch"] = False


def _set(progress: dict[str, Any], **counts: int) -> None:
    """Set counts of the current epoch or run, and adapt the total."""
    for name, count in counts.items():
        progress["total"][name] += count - progress["current"][name]
        progress["current"][name] = count
