"""Division of errors into answers to the user, and faults of some code, whose traceback is shown."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import FrameType

from lightning_fed._lightning import MisconfigurationException
from lightning_fed.core.arguments import nearest
from lightning_fed.wire import BudgetError, RoundError, WorkerError

_REFUSALS = (
    ValueError,
    TypeError,
    ImportError,
    OSError,
    WorkerError,
    RoundError,
    BudgetError,
    MisconfigurationException,
)
_SEEDS = re.compile(r"(-?\d+) is not in bounds, numpy accepts from 0 to (\d+)")
_MONITORS = re.compile(
    r"Early stopping conditioned on metric `(.+?)` which is not available\..*any of the following: (.*)", re.DOTALL
)
"""The start of EarlyStopping's message in a RuntimeError."""
_OURS = {"lightning_fed", "pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities", "torch"}
_OURS |= {
    "jsonargparse",
    "yaml",
    "torchmetrics",
    "fsspec",
    "dp_accounting",
    "opacus",
    "numpy",
    *sys.stdlib_module_names,
}


def is_refusal(error: BaseException) -> bool:
    """Whether an error's message tells the user the fix, and a traceback would only hide it.

    This holds for the kinds of errors that checks raise, without user code: neither the error nor its causes have
    passed a frame of a package other than this one, Lightning, torch, and their dependencies.

    Args:
        error: The caught error, with its traceback.
    """
    if not isinstance(error, _REFUSALS) and not _is_of_another_module(error) and _MONITORS.match(str(error)) is None:
        return False
    return all(_package(frame) in _OURS for frame in _frames(error))


def one_sentence(error: BaseException) -> str:
    """Return an error's message in a single line."""
    if _is_of_another_module(error):
        return f"the checkpoint is of another module: {' '.join(str(error).split())}"
    if found := _MONITORS.match(str(error)):
        name, known = found.group(1), re.findall(r"`([^`]+)`", found.group(2))
        others = nearest(name, known) or f"; there are {', '.join(known)}"
        return f"EarlyStopping: there is no metric {name!r}{others}"
    if found := _SEEDS.match(str(error)):
        return f"seed_everything={found.group(1)} must be at least 0 and at most {found.group(2)}"
    return " ".join(str(error).split()) or type(error).__name__


def _is_of_another_module(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and str(error).startswith("Error(s) in loading state_dict")


def _frames(error: BaseException | None) -> Iterator[FrameType]:
    while error is not None:
        traceback = error.__traceback__
        while traceback is not None:
            yield traceback.tb_frame
            traceback = traceback.tb_next
        error = error.__cause__


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
