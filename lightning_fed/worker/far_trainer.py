"""The Trainer of a worker's datamodule if the server's is in another process, or on another machine."""

from __future__ import annotations

from typing import final

from lightning_fed._lightning import pl
from lightning_fed.wire import Job


@final
class FarTrainer(pl.Trainer):
    """The server's Trainer, as far as a job describes it."""

    job: Job | None = None
    """The job of the round at hand; None: there was none yet."""

    @property
    def current_epoch(self) -> int:
        return 0 if self.job is None else self.job.epoch

    @property
    def global_step(self) -> int:
        return 0 if self.job is None else self.job.round
