"""Central data in an evaluation, as loaders of a Trainer."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, final

from lightning_fed._lightning import CombinedLoader, RunningStage, pl
from lightning_fed.core.processes import Processes
from lightning_fed.population import EvaluationKind, batch_in, loaders_in, num_batches, unshuffled
from lightning_fed.server.evaluation.named_batches import EvaluationLoader
from lightning_fed.server.evaluation.seen_indices import SeenIndices
from lightning_fed.server.loaders import EvaluationBatch


@final
class CentralLoader(EvaluationLoader):
    """Yields the batches of a central loader; each of n processes takes every n-th batch, so that none counts twice.

    What else is asked of it (``dataset``, ``batch_size``, ``sampler``) it has from the user's loader.

    Args:
        loader: The user's loader; of a CombinedLoader the batches are made of those of its parts.
        rank: This process.
        processes: The number of processes.
        number: The number of the loader, if there are several.
        kind: Which of the evaluation's loaders it is.
        trainer: The Trainer, if there is one.

    Raises:
        ValueError: If there are fewer batches than processes.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        rank: int,
        processes: int,
        number: int | None = None,
        kind: EvaluationKind = "val",
        trainer: pl.Trainer | None = None,
    ) -> None:
        self._loader = loader
        self._seen = SeenIndices() if kind == "predict" else None
        if self._seen is not None:
            self.batch_sampler = self._seen
        self._rank = rank
        self._processes = processes
        self._number = number
        self._trainer = trainer
        length = num_batches(loader)
        if processes > 1 and length is not None and length < processes:
            raise ValueError(
                f"the central evaluation data has {length} batches for {processes} processes; use a smaller "
                "batch_size there or fewer devices"
            )

    def __len__(self) -> int:
        length = num_batches(self._loader)
        if length is None:
            raise TypeError(f"{type(self._loader).__name__} has no length")
        return len(range(self._rank, length, self._processes))

    def __iter__(self) -> Iterator[Any]:
        batches = self._batches(None)
        return batches if self._trainer is None else (named.batch for named in batches)

    def named(self) -> Iterator[EvaluationBatch]:
        return self._batches(self._seen)

    def _batches(self, seen: SeenIndices | None) -> Iterator[EvaluationBatch]:
        if seen is not None:
            seen.begin()
            seen.watch(self._loader)
        for index, item in enumerate(self._loader):
            if index % self._processes == self._rank:
                if seen is not None:
                    seen.note(self._loader, index)
                yield EvaluationBatch(None, batch_in(self._loader, item), self._number)

    def __getattr__(self, name: str) -> Any:
        # What a CombinedLoader says about its parts has the form of these, which Lightning does not expect of a loader.
        if name.startswith("_") or isinstance(self._loader, CombinedLoader):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._loader, name)


def central_loaders(given: Any, kind: EvaluationKind, trainer: pl.Trainer | None, processes: Processes) -> Any:
    """Return central loaders for a Trainer, in the form in which a datamodule gave its own.

    Args:
        given: What the datamodule gave.
        kind: Which loaders these are.
        trainer: The Trainer, if there is one.
        processes: The processes.

    Raises:
        ValueError: If a process would have nothing to evaluate, and stop alone.
    """
    loaders = loaders_in(given)
    if not loaders:
        return []
    if trainer is not None and trainer.state.fn == "fit" and trainer.overfit_batches > 0:  # type: ignore[attr-defined]
        loaders = unshuffled(loaders, RunningStage.VALIDATING)
    limit = 1.0 if trainer is None or processes.size == 1 else getattr(trainer, f"limit_{kind}_batches")
    for loader in loaders:
        _refuse_small_part(loader, kind, limit, processes.size)
    several = len(loaders) > 1
    ours = [
        CentralLoader(it, processes.rank, processes.size, n if several else None, kind, trainer)
        for n, it in enumerate(loaders)
    ]
    if isinstance(given, CombinedLoader):
        given = given.iterables if given._mode == "sequential" else None
    if not isinstance(given, (list, tuple, dict)):
        return ours[0]
    combined = CombinedLoader(given, "sequential")
    combined.flattened = ours
    return combined.iterables


def _refuse_small_part(loader: object, kind: EvaluationKind, limit: int | float, processes: int) -> None:
    """Refuse a part of the central data that leaves some processes nothing: Lightning would stop those alone."""
    length = num_batches(loader)
    batches = math.inf if length is None else length
    if isinstance(limit, float) and 0 < limit < 1 and (batches // processes) * limit < 1:
        raise ValueError(
            f"limit_{kind}_batches={limit} of {batches} batches is less than one for some of {processes} processes; "
            "give the number of batches for each process, or use fewer devices"
        )
