"""Lightning's searches for a learning rate and a batch size, applied to the workers' own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from torch.optim import Optimizer

from lightning_fed._lightning import BatchSizeFinder, LearningRateFinder, _LRCallback, pl, rank_zero_info
from lightning_fed.privacy import Privacy
from lightning_fed.server.own_callbacks import callbacks_of
from lightning_fed.wire import LocalTraining
from lightning_fed.worker.kept import Kept
from lightning_fed.worker.local_fit import LocalFit


@final
class RateSearch:
    """Applies Lightning's search for a learning rate to the workers, and not to the server.

    Lightning searches in rounds of a fit of its own: a scheduler sets the learning rates of the Trainer's optimizers,
    which are the server's, and what it finds is written into the module, where ``configure_optimizers`` takes a
    worker's from. So in these rounds the workers' rates are multiplied by what makes the first of them the one to be
    tried (the ratios between groups of parameters stay what they are), and the server steps with its own.
    """

    def __init__(self) -> None:
        self._saved: list[list[Any]] = []
        self._callback: pl.Callback | None = None  # Lightning's, in a search
        self._base = 1.0
        self._optimizers: list[Optimizer] = []
        self._tried: list[list[Any]] | None = None  # the rates that are tried, while the server steps with its own

    def note(self, checkpoint: Mapping[str, Any]) -> None:
        """Note the server's learning rates: Lightning writes a checkpoint just before it puts others in their place.

        Args:
            checkpoint: The checkpoint, as Lightning made it.
        """
        if self._callback is None and checkpoint.get("optimizer_states"):
            self._saved = [[group["lr"] for group in s["param_groups"]] for s in checkpoint["optimizer_states"]]

    def begin(self, trainer: pl.Trainer, module: pl.LightningModule, training: LocalTraining) -> None:
        """Detect whether the next rounds are a search.

        Args:
            trainer: The Trainer.
            module: The user's module.
            training: How long a worker trains in a round.

        Raises:
            ValueError: If they are, and the module's rate cannot be varied.
        """
        self.end(trainer)
        self._callback = next((c for c in callbacks_of(trainer) if isinstance(c, _LRCallback)), None)
        if self._callback is None:
            return
        self._base = _local_rate(module, trainer, training)
        self._optimizers = list(trainer.optimizers)
        rank_zero_info(
            f"searching for the workers' own learning rate, which is {self._base:g} in {type(module).__name__}; the "
            "server keeps its own"
        )

    def end(self, trainer: pl.Trainer) -> None:
        """If a search is over, have the server's optimizer its own rates again: Lightning leaves there what it found.

        Args:
            trainer: The Trainer.
        """
        if self._callback is not None and self._callback not in callbacks_of(trainer):
            self._set(self._saved)
            self._callback, self._optimizers = None, []

    @property
    def is_on(self) -> bool:
        """Whether the rounds at hand are a search."""
        return self._callback is not None

    def factor(self, scheduled: float) -> float:
        """Return by what to multiply the workers' rates in this round.

        Args:
            scheduled: The answer where nothing is searched for.
        """
        if self._callback is None:
            return scheduled
        rates = _rates(self._optimizers) if self._tried is None else self._tried
        return float(rates[0][0]) / self._base

    @contextmanager
    def with_servers_own(self, trainer: pl.Trainer) -> Iterator[None]:
        """Restore the server optimizer's own rates while it steps.

        The round runs within the step, so the rate to be tried is kept for it.

        Args:
            trainer: The Trainer.
        """
        self.end(trainer)
        if self._callback is None:
            yield
            return
        tried = self._tried = _rates(self._optimizers)
        self._set(self._saved)
        try:
            yield
        finally:
            self._set(tried)
            self._tried = None

    def _set(self, rates: list[list[Any]]) -> None:
        for optimizer, its in zip(self._optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, its, strict=True):
                group["lr"] = rate


def _rates(optimizers: list[Optimizer]) -> list[list[Any]]:
    return [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]


def _local_rate(module: pl.LightningModule, trainer: pl.Trainer, training: LocalTraining) -> float:
    """Return the learning rate of a worker's optimizer, as ``configure_optimizers`` sets it; of groups, the first's."""
    fit, name = LocalFit(module, trainer, kept=Kept(training=training)), type(module).__name__
    fit.check()
    optimizers = fit.trainer.optimizers
    if len(optimizers) != 1:
        raise ValueError(
            f"a search for a learning rate needs one optimizer, and {name}.configure_optimizers() gives "
            f"{len(optimizers)}; try rates of your own in several fits"
        )
    if any(group.get("lr") is None for group in optimizers[0].param_groups):
        raise ValueError(
            f"the learning rate of {type(optimizers[0]).__name__} is None, which a search cannot multiply: give it "
            f"one in {name}.configure_optimizers(), or leave out the search"
        )
    rate = float(optimizers[0].param_groups[0]["lr"])
    if not rate > 0:
        raise ValueError(
            f"a search multiplies the learning rate that {name}.configure_optimizers() sets, which is {rate:g}; let it "
            "begin with a positive one"
        )
    return rate


def refuse_batch_size_search(trainer: pl.Trainer | None) -> None:
    """Refuse Lightning's search for a batch size, which would vary a number that no worker's loader looks at.

    Args:
        trainer: The Trainer.

    Raises:
        ValueError: If it has such a callback.
    """
    if trainer is not None and any(isinstance(callback, BatchSizeFinder) for callback in callbacks_of(trainer)):
        raise ValueError(
            "Tuner.scale_batch_size and BatchSizeFinder cannot find a batch size here: the Trainer's batch is a "
            "round's cohort, and each worker's datamodule has a batch size of its own; search with a plain Trainer on "
            "one worker's datamodule, trainer.fit(module, datamodule), and give it to the workers'"
        )


def refuse_search(trainer: pl.Trainer, privacy: Privacy | None, kept: Kept) -> None:
    """Refuse Lightning's search for a learning rate where it would break a promise, or find another one's rate.

    Args:
        trainer: The Trainer.
        privacy: What is promised to the workers.
        kept: What is kept of the workers' schedulers.

    Raises:
        ValueError: If there is such a callback, and a promise or schedulers that go on from round to round.
    """
    if not any(isinstance(callback, LearningRateFinder) for callback in callbacks_of(trainer)):
        return
    if privacy is not None:
        raise ValueError(
            "Tuner.lr_find and LearningRateFinder would train on the workers' data in rounds that no account of "
            f"{type(privacy).__name__} covers; search without privacy=, on data that need no promise"
        )
    if kept.schedule == "continue":
        raise ValueError(
            "Tuner.lr_find and LearningRateFinder would try each rate at another place of the workers' schedules, "
            "which go on from round to round with local_schedule='continue'; search without it, and then train with it"
        )
