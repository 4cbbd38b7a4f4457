"""Each worker in a process that holds its data only, and gets and sends bytes only: the oracle for every other engine.

What a real node could not do fails here: to reach for another worker's data, for the server's objects, or for what an
earlier round left behind. A run with this engine is a dry run before real machines. It is also how workers that cannot
be stacked, such as convolutions on a CPU, use several cores without ``strategy="ddp"``.
"""

from __future__ import annotations

import os
import queue
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import Any, final

import torch
from safetensors.torch import load as load_rows
from safetensors.torch import save as save_rows

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import flag, whole
from lightning_fed.core.channel import Message
from lightning_fed.core.watch import Watch
from lightning_fed.engines.base import Engine
from lightning_fed.engines.isolated.children import Child, EndedError, Task, stop
from lightning_fed.engines.isolated.settings import settings_for
from lightning_fed.engines.remarks import Remarks
from lightning_fed.engines.together import in_blocks
from lightning_fed.population import WorkerPool
from lightning_fed.wire import Job, Updates, WorkerError, describe
from lightning_fed.wire.codec import decode_updates, encode_job
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.outbox import Outbox
from lightning_fed.worker.pickling import dumps


@final
class Isolated(Engine):
    """Trains each worker in a child process that holds no data but its own, and to which only bytes go.

    The results are those of :class:`Sequential` bit for bit. A child is started once (seconds: it imports torch and
    Lightning) and trains one worker after another; it gets a worker's datamodule before each training, sets it up, and
    lets go of it. So a datamodule and a module must be picklable, and a script must begin its run under
    ``if __name__ == "__main__":``. A child that ends is an error of the worker that it trained, and is started again.

    Args:
        processes: The number of children; None: as many as there are cores for, ``cores // threads``. Each computes
            with as many threads as this process (``torch.set_num_threads``, ``OMP_NUM_THREADS``): one is fastest.
        compile: Whether to compile ``training_step``, in each child.
        channels_last: Whether images and convolutions lie in memory with their channels last.
        persistent: Whether children live on after a fit, without its module and data, until the next fit with this
            engine, or until the engine is garbage; else they end with the fit.

    Raises:
        ValueError: If the number is not positive.
    """

    def __init__(
        self,
        processes: int | None = None,
        compile: bool = False,
        channels_last: bool = False,
        persistent: bool = False,
    ) -> None:
        says = ": give at least one process, or None to have one for each core"
        self._processes = processes if processes is None else whole("processes", processes, least=1, says=says)
        self._compile = flag("compile", compile)
        self._channels_last = flag("channels_last", channels_last)
        self._persistent = flag("persistent", persistent)
        self._seconds: float | None = None
        self._children: list[Child] = []
        self._tasks: queue.SimpleQueue[Task | None] | None = None  # while there are children: it cannot be pickled
        self._outbox = Outbox()
        self._remarks = Remarks()
        self._watch = Watch()
        self._trainer: pl.Trainer | None = None
        self._workers: WorkerPool | None = None
        self._stop: Any = None

    def limit(self, seconds: float | None) -> None:
        self._seconds = seconds

    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        self.teardown()
        LocalFit(module, trainer, kept=outbox.kept).check()
        self._outbox, self._workers, self._trainer = outbox, workers, trainer
        self._remarks.silent = not outbox.may_tell
        workers.states.lose("with engine='isolated', it is another process that trains with the datamodule")
        options = {"compile": self._compile, "channels_last": self._channels_last}
        settings = settings_for(module, trainer, outbox, options, workers.seed)
        try:
            if self._children:
                for child in self._children:
                    child.set_up(settings)
            else:
                self._start(settings)
            for child in self._children:
                child.await_start()
        except BaseException:
            self.close()
            raise

    def _start(self, settings: bytes) -> None:
        count = self._processes or max(1, (os.cpu_count() or 1) // torch.get_num_threads())
        tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._tasks, self._children = tasks, [Child(tasks) for _ in range(count)]
        self._stop = weakref.finalize(self, stop, self._children, tasks, os.getpid())
        for child in self._children:
            child.set_up(settings)

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        yield from in_blocks(self._in_order(job, cohort), job, len(cohort))

    def _in_order(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        """Train workers side by side, and yield one result for each in the cohort's order."""
        assert self._workers is not None, "setup() comes before run()"
        assert self._trainer is not None
        whole = encode_job(job) if cohort and job.of(cohort[0]) is job else None
        waiting: deque[tuple[str, Future[Message] | WorkerError]] = deque()
        rest = iter(cohort)
        try:
            while True:
                while len(waiting) < 2 * len(self._children):  # one at work and one at hand for each child
                    name = next(rest, None)
                    if name is None:
                        break
                    waiting.append((name, self._submit(job, whole, name)))
                if not waiting:
                    return
                name, answer = waiting.popleft()
                result = answer if isinstance(answer, WorkerError) else self._read(job, name, answer)
                self.has_trained(self._outbox.algorithm.trainings)
                yield result
                del result
        finally:
            for _, answer in waiting:
                if isinstance(answer, Future):
                    answer.cancel()

    def _submit(self, job: Job, whole: bytes | None, name: str) -> Future[Message] | WorkerError:
        assert self._workers is not None
        assert self._trainer is not None
        try:
            with self._watch.over(name, job.round):
                data = dumps(self._workers[name].datamodule, self._trainer)
        except Exception as error:
            failure = WorkerError(
                name,
                job.round,
                f"its datamodule cannot be sent to another process ({describe(error)}); define classes and functions "
                "at the top level of a file, and open files in setup()",
            )
            failure.__cause__ = error
            return failure
        rows = save_rows({table: row.contiguous() for table, row in self._outbox.own.of(name).items()})
        sent = encode_job(job.of(name)) if whole is None else whole
        task = Task(name, sent, [data, rows], _size(job), self._seconds, Future())
        assert self._tasks is not None
        self._tasks.put(task)
        return task.answer

    def _read(self, job: Job, name: str, answer: Future[Message]) -> Updates | WorkerError:
        try:
            fields, parts = answer.result()
        except (EOFError, ConnectionError, EndedError) as error:
            return WorkerError(name, job.round, f"its process ended in the middle of its training: {error}")
        except TimeoutError:
            return WorkerError(
                name,
                job.round,
                f"it was still at work after worker_timeout={self._seconds:g} seconds, and its process was ended; see "
                "what its code waits for, or give it more time",
            )
        self._remarks.hear({**fields["noted"], "settings": {**fields["noted"]["settings"], **self._watch.changed}})
        if "error" in fields:
            cause = RuntimeError(f"in the process of worker {name!r}, round {job.round}:\n{fields['traceback']}")
            if fields["is_workers"]:
                failure = WorkerError(name, job.round, fields["error"])
                failure.__cause__ = cause
                return failure
            raise RuntimeError(f"worker {name!r}, round {job.round}: {fields['error']}") from cause
        for table, row in load_rows(bytes(parts[1])).items():
            self._outbox.own.stage(table, [name], row.unsqueeze(0))
        return decode_updates(
            parts[0], job, workers=[name], copy=False, coder=self._outbox.compression, sealer=self._outbox.sealing
        )

    def teardown(self) -> None:
        while self._tasks is not None and not self._tasks.empty():  # of a round that was given up
            task = self._tasks.get()
            if task is not None:
                task.answer.cancel()
        self._workers = self._trainer = None
        self._outbox, self._remarks, self._watch = Outbox(), Remarks(), Watch()
        if not self._persistent or not all(child.rest() for child in self._children):
            self.close()

    def close(self) -> None:
        """End the children, of a persistent engine too; another fit starts new ones."""
        if self._stop is not None:
            self._stop()
        self._stop = self._tasks = None
        self._children = []


def _size(job: Job) -> int:
    """Return the size of the message with an update, with room for its header and for a few new buffers."""
    vectors = job.model.vector.nbytes * (1 + len(job.extra))
    return vectors + sum(buffer.nbytes for buffer in job.model.buffers.values()) + 2**16
