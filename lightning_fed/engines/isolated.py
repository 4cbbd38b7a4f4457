"""Each worker in a process that holds its data only, and gets and sends bytes only: the oracle for every other engine.

What a real node could not do fails here: to reach for another worker's data, for the server's objects, or for what an
earlier round left behind. A run with this engine is a dry run before real machines. It is also how workers that cannot
be stacked, such as convolutions on a CPU, use several cores without ``strategy="ddp"``.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import queue
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, final

import torch
from safetensors.torch import load as load_rows
from safetensors.torch import save as save_rows
from torch import Tensor

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import flag, whole
from lightning_fed.engines.base import Engine
from lightning_fed.engines.blocks import block_length
from lightning_fed.engines.isolated_child import Channel, Message, Settings, serve
from lightning_fed.engines.remarks import Remarks
from lightning_fed.engines.shared_memory import Slot, create
from lightning_fed.population import WorkerPool
from lightning_fed.state import OwnState
from lightning_fed.wire import Job, Updates, WorkerError
from lightning_fed.wire.codec import decode_updates, encode_job
from lightning_fed.worker.copying import copied
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.outbox import Outbox, tables_of
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
        self._options = {
            "compile": flag("compile", compile),
            "channels_last": flag("channels_last", channels_last),
        }
        self._persistent = flag("persistent", persistent)
        self._children: list[_Child] = []
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._outbox = Outbox()
        self._remarks = Remarks()
        self._trainer: pl.Trainer | None = None
        self._workers: WorkerPool | None = None
        self._stop: Any = None

    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        self.teardown()
        LocalFit(module, trainer).check()
        self._outbox, self._workers, self._trainer = outbox, workers, trainer
        settings = _settings(module, trainer, outbox, self._options, workers.seed)
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
        self._tasks = queue.SimpleQueue()
        self._children = [_Child(self._tasks) for _ in range(count)]
        self._stop = weakref.finalize(self, _stop, self._children, self._tasks)
        for child in self._children:
            child.set_up(settings)

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        length = block_length(job)
        results = self._in_order(job, cohort)
        for start in range(0, len(cohort), length):
            block: list[Updates] = []
            for _ in cohort[start : start + length]:
                result = next(results)
                if isinstance(result, Updates):
                    block.append(result)
                else:
                    yield from _together(block)
                    block = []
                    yield result
                del result
            yield from _together(block)

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
                yield answer if isinstance(answer, WorkerError) else self._read(job, name, answer)
        finally:
            for _, answer in waiting:
                if isinstance(answer, Future):
                    answer.cancel()

    def _submit(self, job: Job, whole: bytes | None, name: str) -> Future[Message] | WorkerError:
        assert self._workers is not None
        assert self._trainer is not None
        try:
            data = dumps(self._workers[name].datamodule, self._trainer)
        except Exception as error:
            failure = WorkerError(
                name,
                job.round,
                f"its datamodule cannot be sent to another process ({error}); define classes and functions at the top "
                "level of a file, and open files in setup()",
            )
            failure.__cause__ = error
            return failure
        rows = save_rows({table: row.contiguous() for table, row in self._outbox.own.of(name).items()})
        task = _Task(name, encode_job(job.of(name)) if whole is None else whole, [data, rows], _size(job), Future())
        self._tasks.put(task)
        return task.answer

    def _read(self, job: Job, name: str, answer: Future[Message]) -> Updates | WorkerError:
        try:
            fields, parts = answer.result()
        except (EOFError, ConnectionError, _EndedError) as error:
            return WorkerError(name, job.round, f"its process ended in the middle of its training: {error}")
        self._remarks.changed(fields["changed"])
        self._remarks.unread(fields["unread"])
        for text in fields["warnings"]:
            self._remarks.say(text)
        if "error" in fields:
            cause = RuntimeError(f"in the process of worker {name!r}, round {job.round}:\n{fields['traceback']}")
            if fields["is_workers"]:
                failure = WorkerError(name, job.round, fields["error"])
                failure.__cause__ = cause
                return failure
            if fields["refusal"] is not None:  # of the algorithm's or the promise's, which is about no single worker
                raise ValueError(fields["refusal"]) from cause
            raise RuntimeError(f"worker {name!r}, round {job.round}: {fields['error']}") from cause
        for table, row in load_rows(bytes(parts[1])).items():
            self._outbox.own.stage(table, [name], row.unsqueeze(0))
        return decode_updates(parts[0], job, workers=[name], copy=False)

    def teardown(self) -> None:
        self._workers = self._trainer = None
        self._outbox, self._remarks = Outbox(), Remarks()
        if not self._persistent or not all(child.rest() for child in self._children):
            self.close()

    def close(self) -> None:
        """End the children, of a persistent engine too; another fit starts new ones."""
        if self._stop is not None:
            self._stop()
        self._stop = None
        self._children = []


@dataclass
class _Task:
    """One worker's training.

    Args:
        worker: The worker's name.
        job: The job as bytes.
        parts: The datamodule and what the worker remembers.
        size: How large the message with its update may become.
        answer: What the child answers.
    """

    worker: str
    job: bytes
    parts: list[bytes]
    size: int
    answer: Future[Message]


# Smaller updates are sent as fast through the pipe; and whoever keeps many updates (a robust aggregator) gets the
# others through it.
_LEAST_SHARED = 2**18
_MOST_SLOTS = 8


def _size(job: Job) -> int:
    """How large the message with an update is, with room for its header and for a few new buffers."""
    vectors = job.model.vector.nbytes * (1 + len(job.extra))
    return vectors + sum(buffer.nbytes for buffer in job.model.buffers.values()) + 2**16


class _EndedError(RuntimeError):
    """A child has ended."""


@final
class _Child:
    """A child process, and the thread that speaks with it."""

    def __init__(self, tasks: queue.SimpleQueue[_Task | None]) -> None:
        self._settings = b""
        self._tasks = tasks
        self._channel: Channel | None = None
        self._process: Any = None
        self._job: bytes | None = None
        self._slots: list[Slot] = []
        self._is_busy = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def set_up(self, settings: bytes) -> None:
        """Begin a fit, without waiting until the child is ready.

        Args:
            settings: What it has from the beginning.
        """
        self._settings = settings
        try:
            if self._channel is not None:
                self._send_settings()
        except ConnectionError:
            self._forget_process()
        if self._channel is None:
            self._begin()

    def _begin(self) -> None:
        ours, theirs = socket.socketpair()
        self._process = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
        self._process.start()
        theirs.close()
        self._channel = Channel(ours)
        self._send_settings()

    def _send_settings(self) -> None:
        assert self._channel is not None
        self._job, self._slots = None, []
        self._channel.send([self._settings], settings=True)

    def _forget_process(self) -> None:
        assert self._channel is not None
        self._channel.close()
        self._channel = None
        self._process.join(5)

    def rest(self) -> bool:
        """End a fit: let the child drop module and data; returns whether it does, as it is not in a training."""
        if not self._is_busy.acquire(timeout=_PATIENCE):
            return False
        try:
            self._settings, self._job, self._slots = b"", None, []
            if self._channel is not None:
                self._channel.send(rest=True)
        except ConnectionError:
            self._forget_process()
        finally:
            self._is_busy.release()
        return True

    def await_start(self) -> None:
        """Wait until the child is ready, and begin to work.

        Raises:
            RuntimeError: If it could not start.
        """
        self._hear_that_it_is_ready()
        if not self._thread.is_alive():
            self._thread.start()

    def _hear_that_it_is_ready(self) -> None:
        assert self._channel is not None
        try:
            fields, _ = self._channel.receive()
        except (EOFError, ConnectionError):
            self._process.join(5)
            raise RuntimeError(
                f'engine="isolated": a child process ended as it started (exit code {self._process.exitcode}); a '
                'script must begin its run under `if __name__ == "__main__":`, since children import it'
            ) from None
        if "failed" in fields:
            raise RuntimeError(
                f'engine="isolated": a child process could not start: {fields["failed"]}; classes and functions that '
                f"it needs must lie in a file that it can import\n{fields['traceback']}"
            )

    def _work(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            if task.answer.set_running_or_notify_cancel():
                with self._is_busy:
                    try:
                        answer: Message | BaseException = self._exchange(task)
                    except BaseException as error:
                        answer = error
                if isinstance(answer, BaseException):
                    task.answer.set_exception(answer)
                else:
                    task.answer.set_result(answer)
                del task, answer  # while it waits for another, nobody needs these

    def _exchange(self, task: _Task) -> Message:
        if self._channel is None:
            self._begin()
            self._hear_that_it_is_ready()
        assert self._channel is not None
        try:
            if task.job is not self._job:
                self._channel.send([task.job], job=True)
                self._job = task.job
            number, fd = self._slot(task.size)
            self._channel.send(task.parts, fd, train=task.worker, slot=number, size=task.size)
            fields, parts = self._channel.receive()
            if fields.get("in_slot") is not None:
                parts[0] = self._slots[number].read(fields["in_slot"])
            return fields, parts
        except (EOFError, OSError):
            self._forget_process()
            raise _EndedError(f"exit code {self._process.exitcode}") from None

    def _slot(self, size: int) -> tuple[int, int | None]:
        """Find memory for an update that nobody reads any more; its number, and its file if it is new to the child."""
        if size < _LEAST_SHARED:
            return -1, None
        for number, slot in enumerate(self._slots):
            if slot.is_free and slot.size >= size:
                return number, None
        fd = create(size) if len(self._slots) < _MOST_SLOTS else None
        if fd is None:
            return -1, None
        self._slots.append(Slot(os.dup(fd), size))
        return len(self._slots) - 1, fd

    def hang_up(self) -> None:
        """Have the child end as soon as it hears of it."""
        if self._channel is not None:
            self._channel.close()

    def end(self, deadline: float) -> None:
        """Wait until the child has ended, or end it.

        Args:
            deadline: When to wait no longer, by ``time.monotonic``.
        """
        if self._process is None:
            return
        self._process.join(max(0.0, deadline - time.monotonic()))
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


_PATIENCE = 5.0  # seconds to wait for a child that is in the middle of something


def _stop(children: Sequence[_Child], tasks: queue.SimpleQueue[_Task | None]) -> None:
    for child in children:
        tasks.put(None)
        child.hang_up()
    deadline = time.monotonic() + _PATIENCE
    for child in children:
        child.end(deadline)


def _settings(
    module: pl.LightningModule, trainer: pl.Trainer, outbox: Outbox, engine: dict[str, Any], seed: int
) -> bytes:
    device = trainer.strategy.root_device
    try:
        return pickle.dumps(
            Settings(
                module=dumps(copied(module, trainer), trainer),
                outbox=replace(outbox, own=OwnState()),
                tables=tables_of(outbox.algorithm, outbox.transforms),
                engine=engine,
                trainer={
                    "accelerator": device.type,
                    "devices": 1 if device.index is None else [device.index],
                    "precision": trainer.precision,
                    "max_epochs": -1 if trainer.max_epochs is None else trainer.max_epochs,
                    "max_steps": trainer.max_steps,
                    "default_root_dir": trainer.default_root_dir,
                    "reload_dataloaders_every_n_epochs": trainer.reload_dataloaders_every_n_epochs,  # type: ignore[attr-defined]
                    "logger": False,
                    "enable_checkpointing": False,
                    "enable_progress_bar": False,
                    "enable_model_summary": False,
                },
                seed=seed,
                threads=torch.get_num_threads(),
                default_dtype=torch.get_default_dtype(),
                matmul_precision=torch.get_float32_matmul_precision(),
                deterministic=torch.are_deterministic_algorithms_enabled(),
            )
        )
    except Exception as error:
        raise ValueError(
            f'engine="isolated": {type(module).__name__} cannot be sent to another process ({error}); define classes '
            "and functions at the top level of a file, and keep open files and lambdas out of the module's attributes"
        ) from error


def _together(updates: Sequence[Updates]) -> Iterator[Updates]:
    """Stack the updates of single workers as :class:`Sequential` does: those of one kind, as long as they follow on."""
    for _, group in groupby(updates, key=_kind):
        alike = list(group)
        if len(alike) == 1:
            yield alike[0]
            continue
        first = alike[0]

        def cat(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat(list(tensors))

        yield replace(
            first,
            workers=tuple(update.workers[0] for update in alike),
            delta=cat([update.delta for update in alike]),
            buffers={name: cat([update.buffers[name] for update in alike]) for name in first.buffers},
            examples=cat([update.examples for update in alike]),
            weight=cat([update.weight for update in alike]),
            loss=cat([update.loss for update in alike]),
            steps=cat([update.steps for update in alike]),
            metrics={name: cat([update.metrics[name] for update in alike]) for name in first.metrics},
            extra={name: cat([update.extra[name] for update in alike]) for name in first.extra},
        )


def _kind(updates: Updates) -> object:
    buffers = tuple((name, buffer.shape, buffer.dtype) for name, buffer in updates.buffers.items())
    return tuple(updates.metrics), buffers, tuple(updates.extra), updates.stays
