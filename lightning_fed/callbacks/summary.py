"""The last line of a fit: its rounds, and the places of its results."""

from __future__ import annotations

import os
from pathlib import Path

from lightning_fed._lightning import pl
from lightning_fed.callbacks.best import Evaluations
from lightning_fed.callbacks.display import Summary
from lightning_fed.callbacks.display.text import SEPARATOR, duration, printable
from lightning_fed.callbacks.tally import Tally
from lightning_fed.record import folder_of_logger


def summary_of(
    trainer: pl.Trainer, tally: Tally, evaluations: Evaluations, privacy: str, now: float, error: BaseException | None
) -> Summary:
    """Return the summary of a fit.

    Args:
        trainer: The Trainer.
        tally: The counts.
        evaluations: The evaluations.
        privacy: A text about the spent budget; empty: no promise.
        now: The time, by ``time.monotonic``.
        error: The error that ended the fit; None: it ended normally.
    """
    checkpoints = trainer.checkpoint_callback
    path = str(getattr(checkpoints, "best_model_path", "") or getattr(checkpoints, "last_model_path", ""))
    has_not_begun = error is not None and tally.done == tally.first  # then the folder has no record
    parts = [
        f"{_rounds(tally)} in {duration(tally.seconds(now))}",
        "" if error is None else f"ended in {tally.title} {tally.done} by {type(error).__name__}",
        evaluations.best(getattr(checkpoints, "monitor", None)),
        privacy,
        *(f"logs in {place}" for place in (() if has_not_begun else _logs(trainer))),
        f"checkpoint {_near(path)}" if path else "",
    ]
    return Summary(SEPARATOR.join(printable(part) for part in parts if part), tuple(evaluations.last))


def _rounds(tally: Tally) -> str:
    done, total = tally.done, tally.total
    if tally.first:
        return f"{tally.title}s {tally.first} to {done - 1}" if done > tally.first else f"no {tally.title}"
    of_all = f"{done} of {total}" if total is not None and done < total else f"{done}"
    return f"{of_all} {tally.title}{'s' if (total or done) != 1 else ''}"


def _logs(trainer: pl.Trainer) -> list[str]:
    """Return the folders of the loggers that have one. Not ``trainer.log_dir``, for which all processes must meet."""
    places = [folder_of_logger(logger) or logger.save_dir for logger in trainer.loggers]
    return list(dict.fromkeys(_near(place) for place in places if isinstance(place, (str, Path))))


def _near(path: str | Path) -> str:
    """Return a path relative to the current folder, if that is shorter."""
    try:
        return min(str(path), os.path.relpath(path), key=len)
    except (OSError, ValueError):  # the folder is gone; or another drive
        return str(path)
