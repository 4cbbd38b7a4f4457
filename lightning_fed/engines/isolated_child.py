"""The child process of the engine ``Isolated``, which trains one worker at a time, and its channel to the parent."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import pickle
import socket
import struct
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

import numpy as np
import torch
from safetensors.torch import load as load_rows
from safetensors.torch import save as save_rows

from lightning_fed._lightning import pl
from lightning_fed.core.allocator import keep_freed_memory
from lightning_fed.engines.sequential import Sequential
from lightning_fed.engines.shared_memory import Slot
from lightning_fed.population import WorkerPool
from lightning_fed.state import OwnState
from lightning_fed.wire import Job, Updates, WorkerError, describe
from lightning_fed.wire.codec import decode_job, encode_updates, encode_updates_into, updates_bytes
from lightning_fed.worker.outbox import Outbox
from lightning_fed.worker.pickling import loads

Message: TypeAlias = tuple[dict[str, Any], list[memoryview]]
"""Some fields, and some parts, which are bytes."""


@final
class Channel:
    """One end of a connection between two processes of this machine.

    Args:
        connection: A connected socket.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, parts: Sequence[bytes | memoryview] = (), fd: int | None = None, **fields: Any) -> None:
        """Send a message.

        Args:
            parts: Its bytes.
            fd: An open file that goes with it; closed here.
            fields: What goes into JSON.
        """
        head = json.dumps({**fields, "sizes": [len(part) for part in parts], "file": fd is not None}).encode()
        self._socket.sendall(struct.pack("<Q", len(head)) + head)
        if fd is not None:
            socket.send_fds(self._socket, [b"f"], [fd])
            os.close(fd)
        for part in parts:
            self._socket.sendall(part)

    def receive(self) -> Message:
        """Wait for a message.

        Raises:
            EOFError: If the other process has ended.
        """
        (length,) = struct.unpack("<Q", self._read(8))
        fields = json.loads(bytes(self._read(length)))
        if fields.pop("file"):
            _, (fields["fd"],), *_ = socket.recv_fds(self._socket, 1, 1)
        return fields, [self._read(size) for size in fields.pop("sizes")]

    def _read(self, size: int) -> memoryview:
        whole = memoryview(np.empty(size, dtype=np.uint8).data)  # not zeroed, as a bytearray is
        at = 0
        while at < size:
            count = self._socket.recv_into(whole[at:])
            if not count:
                raise EOFError("the other process has ended")
            at += count
        return whole

    def close(self) -> None:
        """Close this end, also if a thread reads from it; the other process ends."""
        with contextlib.suppress(OSError):  # it may have been the other process that ended
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@final
@dataclass(frozen=True)
class Settings:
    """What a node has from the beginning: code, settings, and how it computes.

    Args:
        module: The user's module, pickled.
        outbox: The steps between local training and the wire; without anyone's state.
        tables: The tables of the workers' own state.
        engine: The options of :class:`Sequential`.
        trainer: The options of a Trainer with the server's device and precision.
        seed: The seed of the run, by which a worker's data is set up.
        threads: The number of threads, which decides the order of sums.
        default_dtype: torch's default dtype.
        matmul_precision: The precision of float32 products.
        deterministic: Whether torch is to use deterministic algorithms only.
    """

    module: bytes
    outbox: Outbox
    tables: tuple[str, ...]
    engine: dict[str, Any]
    trainer: dict[str, Any]
    seed: int
    threads: int
    default_dtype: torch.dtype
    matmul_precision: str
    deterministic: bool


def serve(connection: socket.socket) -> None:
    """Serve a parent until it closes its end.

    Args:
        connection: The connection to it.
    """
    gc.freeze()  # torch and Lightning stay: to look through them at each end of a fit would take longer than the rest
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(Channel(connection))


def _serve(channel: Channel) -> None:
    child: _Child | None = None
    slots: dict[int, memoryview] = {}
    while True:
        fields, parts = channel.receive()
        if "settings" in fields or "rest" in fields:
            child = None  # before there is another one: a module may be large
            slots.clear()
            gc.collect()
        if "settings" in fields:
            try:
                child = _Child(pickle.loads(parts[0]))
            except Exception as error:
                channel.send(failed=describe(error), traceback=traceback.format_exc())
            else:
                channel.send(ready=True)
        elif "job" in fields:
            assert child is not None
            child.job = decode_job(parts[0], copy=False)
        elif "train" in fields:
            assert child is not None
            if "fd" in fields:
                slots[fields["slot"]] = Slot(fields["fd"], fields["size"]).writable()
            answer, bytes_ = child.train(fields["train"], slots.get(fields["slot"]), *parts)
            channel.send(bytes_, **answer)
        del parts


class _Trainer(pl.Trainer):
    """The Trainer that a worker's datamodule sees: the server's, as far as a job tells of it."""

    job: Job | None = None

    @property
    def current_epoch(self) -> int:
        return 0 if self.job is None else self.job.epoch

    @property
    def global_step(self) -> int:
        return 0 if self.job is None else self.job.round


@final
class _Child:
    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        torch.set_default_dtype(settings.default_dtype)
        torch.set_float32_matmul_precision(settings.matmul_precision)
        torch.use_deterministic_algorithms(settings.deterministic)
        for name in ("pytorch_lightning", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._warnings: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trainer = _Trainer(**settings.trainer)
        warnings.showwarning = lambda message, *_, **__: self._warnings.append(str(message))
        self._trainer.state.fn = pl.trainer.states.TrainerFn.FITTING
        if self._trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()
        self._module = loads(settings.module)
        self._own = OwnState(settings.tables)
        self._outbox = replace(settings.outbox, own=self._own)
        self._engine = Sequential(**settings.engine)
        self._workers: dict[str, pl.LightningDataModule] = {}
        self._pool = WorkerPool(self._workers, capacity=1, seed=settings.seed)
        self._pool.trainer = self._trainer
        self._engine.setup(self._module, self._pool, self._trainer, self._outbox)
        self.job: Job

    def train(
        self, worker: str, slot: memoryview | None, data: memoryview, rows: memoryview
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Train a worker; returns the fields and the parts of the answer.

        Args:
            worker: Its name.
            slot: Memory for the message with its update.
            data: Its datamodule, pickled.
            rows: What it remembers.
        """
        self._warnings.clear()
        try:
            self._workers[worker] = loads(data)
            self._own.take_in(worker, load_rows(bytes(rows)))
            self._own.begin(self.job.cohort, self.job.last, self.job.failed)
            self._trainer.job = self.job
            with torch.no_grad():
                (result,) = self._engine.run(self.job, [worker])
            answer = self._answer(result, slot)
        except Exception as error:
            refusal = str(error) if isinstance(error, ValueError) else None
            told = {"error": describe(error), "traceback": traceback.format_exc(), "is_workers": False}
            answer = {**told, "refusal": refusal}, []
        finally:
            self._pool.clear()
            self._workers.clear()
        fields, parts = answer
        return {
            **fields,
            "changed": list(self._engine.changed),
            "unread": list(self._engine.unread),
            "warnings": list(self._warnings),
        }, parts

    def _answer(self, result: Updates | WorkerError, slot: memoryview | None) -> tuple[dict[str, Any], list[bytes]]:
        if isinstance(result, WorkerError):
            cause = result.__cause__
            told = "" if cause is None else "".join(traceback.format_exception(cause))
            return {"error": result.reason, "traceback": told, "is_workers": True}, []
        staged = {table: row.contiguous() for table, rows in self._own.staged().items() for row in rows.values()}
        if slot is not None and updates_bytes(result, self.job)[0] <= len(slot):
            return {"in_slot": encode_updates_into(result, self.job, slot)}, [b"", save_rows(staged)]
        return {"in_slot": None}, [encode_updates(result, self.job), save_rows(staged)]
