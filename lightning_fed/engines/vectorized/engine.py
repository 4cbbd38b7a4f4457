"""All workers of a chunk at once, on stacked parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import final

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import flag, whole
from lightning_fed.core.lost_device import refuse_lost
from lightning_fed.core.rng import derive
from lightning_fed.core.watch import Watch
from lightning_fed.engines.base import Engine
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.remarks import Remarks
from lightning_fed.engines.vectorized.batches import DrawnBatches
from lightning_fed.engines.vectorized.fit import StackedFit
from lightning_fed.population import WorkerPool
from lightning_fed.wire import Job, Updates, WorkerError, describe
from lightning_fed.worker.outbox import Outbox

_CHUNK_BYTES = {"cpu": 2**28, "cuda": 2**31}
_LARGEST_CHUNK = 1024
_LARGEST_STACK = 2**24  # bytes of one parameter's stack, on a CPU


@final
class Vectorized(Engine):
    """Trains all workers of a chunk at once: one ``training_step`` for all, by ``torch.vmap``.

    The results are those of :class:`Sequential` up to rounding, whichever workers share a chunk; dropout too draws for
    each worker what it would draw alone.

    Args:
        chunk_size: How many workers train at once; None: as many as fit a budget of memory.
        compile: Whether to compile the step: seconds at the start, and again for chunks or batches of another size.

    Raises:
        ValueError: If the chunk size is not positive.
    """

    def __init__(self, chunk_size: int | None = None, compile: bool = False) -> None:
        says = ": give at least one worker, and a whole number of them, or None to let it be chosen"
        self._chunk_size = chunk_size if chunk_size is None else whole("chunk_size", chunk_size, least=1, says=says)
        self._compile = flag("compile", compile)
        self._fit: StackedFit | None = None
        self._workers: WorkerPool | None = None
        self._outbox = Outbox()
        self._remarks = Remarks()
        self._watch = Watch()

    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        if outbox.kept.keeps is not None:
            raise UnvectorizableError(f"with {outbox.kept.keeps} each worker goes on from where it was")
        quiet = outbox.sealing is not None
        self._fit = StackedFit(module, trainer, self._compile, workers.capacity, outbox.kept.training, quiet)
        self._workers = workers
        self._outbox = outbox
        self._remarks.silent = not outbox.may_tell

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        for names in _even(cohort, self._chunk_size or _fitting(job)):
            yield from self._outbox(self._train, job, names)

    def _train(self, job: Job, workers: Sequence[str]) -> Iterator[Updates | WorkerError]:
        """Train the workers of a chunk; of smaller ones, if the algorithm's half at the workers needs more memory."""
        assert self._fit is not None, "setup() comes before run()"
        assert self._workers is not None
        for names in _even(workers, self._chunk_size or _fitting(job)):
            plans: list[DrawnBatches] = []
            for name in names:
                try:  # from its own randomness, as the sequential engine does
                    plans.append(self._draw(job, name))
                except Exception as error:
                    yield _failure(job, name, error)
            for alike in _alike(plans) if self._fit.needs_equal_lengths else [plans]:
                yield from self._train_drawn(job, alike)

    def _draw(self, job: Job, name: str) -> DrawnBatches:
        assert self._fit is not None
        assert self._workers is not None
        seed = derive(job.seed, job.cohort, name)
        worker = self._workers.at_hand(name)
        if worker is not None and self._fit.transfers_plainly(worker):
            return self._fit.draw(worker, job, seed)  # none of the worker's code has a part in it: nothing to watch
        with self._watch.over(name, job.round):
            return self._fit.draw(self._workers.ready(name), job, seed)

    def _train_drawn(self, job: Job, plans: Sequence[DrawnBatches]) -> Iterator[Updates | WorkerError]:
        """Train a chunk; if that fails for all of it together, each worker by itself, to find the one that fails."""
        if not plans:
            return
        assert self._fit is not None
        names = f"{plans[0].worker}" if len(plans) == 1 else f"{plans[0].worker} (and {len(plans) - 1} others)"
        try:
            with self._watch.over(names, job.round):
                updates, failures = self._fit.train(job, plans)
        except Exception as error:
            refuse_lost(job.model.device, names, job.round, error)
            if len(plans) == 1 or (isinstance(error, UnvectorizableError) and error.only_together):
                yield from (_failure(job, plan.worker, error) for plan in plans)
            else:
                for plan in plans:
                    yield from self._train_drawn(job, [plan])
        else:
            self._remarks.unread(self._fit.unread)
            self._remarks.restarted(self._fit.restarted)
            self._remarks.settings(self._watch.changed)
            self.has_trained(len(plans))
            yield from updates
            yield from (_failure(job, name, error) for name, error in failures.items())

    def teardown(self) -> None:
        self._fit = None
        self._workers = None


def _failure(job: Job, name: str, error: Exception) -> WorkerError:
    reason = describe(error)
    if isinstance(error, UnvectorizableError):
        reason = f"it cannot be trained together with others: {error}; use engine='auto' or 'sequential'"
    failure = WorkerError(name, job.round, reason)
    failure.__cause__ = error
    return failure


def _fitting(job: Job) -> int:
    """Return how many workers' parameters, gradients, deltas and optimizer states fit a budget of memory."""
    device = job.model.vector.device.type
    copies = 5 if job.wants_gradient else 4
    fitting = _CHUNK_BYTES.get(device, _CHUNK_BYTES["cpu"]) // (copies * job.model.vector.nbytes)
    if device == "cpu":
        # A larger block of memory goes back to the system after every step, and is handed out again page by page, which
        # is slower than two chunks.
        fitting = min(fitting, _LARGEST_STACK // max(p.nbytes for p in job.model.parameters.values()))
    return min(max(fitting, 1), _LARGEST_CHUNK)


def _even(cohort: Sequence[str], size: int) -> list[Sequence[str]]:
    """Cut a cohort into as few chunks as possible, of sizes as equal as possible."""
    chunks = -(-len(cohort) // size)
    bounds = [round(i * len(cohort) / chunks) for i in range(chunks + 1)] if chunks else [0]
    return [cohort[start:stop] for start, stop in pairwise(bounds)]


def _alike(plans: Sequence[DrawnBatches]) -> list[list[DrawnBatches]]:
    """Group workers by their number of batches in a pass."""
    groups: dict[int, list[DrawnBatches]] = {}
    for plan in plans:
        groups.setdefault(plan.num_batches, []).append(plan)
    return list(groups.values())
