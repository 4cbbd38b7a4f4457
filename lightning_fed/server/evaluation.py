"""What a pooled evaluation logs: on to the Trainer, and noted worker by worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, final

import torch
from torchmetrics import Metric

from lightning_fed._lightning import extract_batch_size, pl
from lightning_fed.hooks import logging_through
from lightning_fed.server.loaders import EvaluationBatch
from lightning_fed.worker.metric_shares import WorkerMetrics


@final
class EvaluationLog:
    """What the user's module logs about evaluation batches: on to the Trainer, and noted worker by worker.

    Args:
        server: The FederatedModule, whose ``log`` reaches the Trainer; the user's module is its ``module``.
    """

    def __init__(self, server: pl.LightningModule) -> None:
        self._server = server
        self._workers = WorkerMetrics(server.module)  # type: ignore[arg-type]

    @contextmanager
    def about(self, batch: EvaluationBatch) -> Iterator[None]:
        """Let the user's module log about a batch."""
        infer_size = lru_cache(lambda: extract_batch_size(batch.batch))
        self._workers.turn_to(batch.worker, infer_size)
        with logging_through(self._server.module, partial(self._log, infer_size)):  # type: ignore[arg-type]
            yield

    def finish(self) -> dict[str, dict[str, float]]:
        """Give ``{worker: {metric: value}}`` of this process's workers; the next evaluation starts anew."""
        return self._workers.finish()

    def _log(self, infer_size: Callable[[], int], name: str, value: Any, **options: Any) -> None:
        server = self._server
        is_mean = options.get("reduce_fx", "mean") in ("mean", "avg", torch.mean)
        if is_mean and not isinstance(value, Metric) and options.get("batch_size") is None:
            options["batch_size"] = infer_size()
        self._workers.note(name, value, options)
        processes = server.trainer.world_size
        if processes > 1:
            # Pool over processes at the end; in between they have different numbers of batches and must not wait.
            options |= {"sync_dist": True, "on_step": False, "on_epoch": True}
            if options.get("batch_size") is not None:
                # Lightning averages these integers over the processes and rounds down; multiples leave nothing over.
                options["batch_size"] *= processes
        server.log(name, value, **options)
