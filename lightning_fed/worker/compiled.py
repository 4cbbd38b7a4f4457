"""A compiled ``training_step`` of one worker."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torchmetrics import Metric, MetricCollection

from lightning_fed._lightning import pl, rank_zero_warn


def compiled_or_not(training_step: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """Compile one worker's ``training_step``; if that fails, warn once and go on without compilation."""
    # Dropout then draws from torch's generator, as it does uncompiled, so that a run can be repeated by its seed.
    with silence():  # torch remarks on parts of its own when it first imports its compiler
        compiled: Any = torch.compile(training_step, options={"fallback_random": True})
    given_up = False

    def step(batch: Any, index: int) -> Any:
        nonlocal given_up
        if not given_up:
            try:
                return compiled(batch, index)
            except Exception as error:
                # Its fault or the user's? Uncompiled, what is the user's is raised again.
                output = training_step(batch, index)
                warn_of_giving_up(error)
                given_up = True
                return output
        return training_step(batch, index)

    return step


def keep_from_compilation(module: pl.LightningModule, device: torch.device) -> None:
    """Keep out of ``torch.compile`` what it makes slower.

    Logging and metrics: their Python would be traced anew for every count. Max pooling on a CPU: uncompiled it is
    faster.

    Args:
        module: The workers' copy of the user's module.
        device: Where it lies.
    """
    # Torch's own max pooling is slow in a compiled step on a CPU.
    slow = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d) if device.type == "cpu" else ()
    for part in module.modules():
        names: tuple[str, ...] = ()
        if isinstance(part, pl.LightningModule):
            names = ("log", "log_dict")
        elif isinstance(part, (Metric, MetricCollection)):
            names = ("forward", "update", "compute")
        elif isinstance(part, slow):
            names = ("forward",)
        for name in names:
            part.__dict__[name] = torch.compiler.disable(getattr(part, name))  # type: ignore[no-untyped-call]


@contextmanager
def silence() -> Iterator[None]:
    """Suppress all warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def warn_of_giving_up(error: Exception) -> None:
    """Warn that steps run uncompiled from here on."""
    reason = next(iter(str(error).strip().splitlines()), "")
    rank_zero_warn(f"compile=True is given up, and the steps run uncompiled: {type(error).__name__}: {reason}")
