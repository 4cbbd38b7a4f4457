"""The arguments and callbacks of a Trainer that affect results or measurements."""

from __future__ import annotations

from collections import Counter

import torch

from lightning_fed._lightning import SaveConfigCallback, pl
from lightning_fed.core.shown import parameters_of
from lightning_fed.record.arguments import PLAIN, Scalar, arguments_of
from lightning_fed.record.described import described

_OF_NO_RESULT = (
    *("default_root_dir", "log_every_n_steps", "num_sanity_val_steps", "fast_dev_run", "barebones", "num_nodes"),
    *("enable_autolog_hparams", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"),
)
"""Arguments about the hardware and the output of a run."""
_SHOW_OR_KEEP = (
    *(pl.callbacks.Checkpoint, pl.callbacks.ProgressBar, pl.callbacks.ModelSummary),
    *(pl.callbacks.LearningRateMonitor, pl.callbacks.DeviceStatsMonitor, SaveConfigCallback),
)
_DESCRIBED_ELSEWHERE = (pl.LightningModule, pl.LightningDataModule, pl.Trainer)
_OF_A_STUDY = ("trial",)
"""The argument with a callback's trial, such as Optuna's: the trial's number is not a setting."""
_OURS = __name__.partition(".")[0]


def of_the_trainer(trainer: pl.Trainer, hides: bool) -> dict[str, Scalar]:
    """Return the options of a Trainer, ``trainer/...``, and the user's callbacks, ``trainer/callbacks/...``.

    All arguments that a Trainer stores as plain values are options, except those about hardware and output; all
    callbacks count as the user's, except those about output.

    Args:
        trainer: The Trainer.
        hides: Whether to omit everything that may be about single workers.
    """
    rows: dict[str, Scalar] = {"trainer/deterministic": torch.are_deterministic_algorithms_enabled()}
    for parameter in parameters_of(pl.Trainer):
        value = getattr(trainer, parameter.name, ...)
        if isinstance(value, PLAIN) and parameter.name not in _OF_NO_RESULT:
            rows[f"trainer/{parameter.name}"] = value
    many: Counter[str] = Counter()
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        kind = type(callback)
        if kind.__module__.partition(".")[0] != _OURS and not isinstance(callback, _SHOW_OR_KEEP):
            number = many[kind.__name__]
            many[kind.__name__] += 1
            name = f"{kind.__name__}[{number}]" if number else kind.__name__
            others = [key for key, value in arguments_of(callback).items() if isinstance(value, _DESCRIBED_ELSEWHERE)]
            rows |= described(f"trainer/callbacks/{name}", callback, (*others, *_OF_A_STUDY), hides)
    return rows
