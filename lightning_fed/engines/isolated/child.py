"""The child process of the engine ``Isolated``, which trains one worker at a time."""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import warnings
from dataclasses import replace
from typing import Any, final

import torch
from safetensors.torch import load as load_rows
from safetensors.torch import save as save_rows

from lightning_fed._lightning import pl
from lightning_fed.core.allocator import keep_freed_memory
from lightning_fed.core.channel import Channel
from lightning_fed.core.lost_device import LostDeviceError
from lightning_fed.core.watch import Watch, counting_signals
from lightning_fed.engines.isolated.settings import Settings
from lightning_fed.engines.isolated.shared_memory import Slot
from lightning_fed.engines.remarks import Remark
from lightning_fed.engines.sequential import Sequential
from lightning_fed.population import WorkerPool
from lightning_fed.state import OwnState
from lightning_fed.wire import Job, Updates, WorkerError, describe
from lightning_fed.wire.codec import decode_job, encode_updates, encode_updates_into, updates_bytes
from lightning_fed.worker.far_trainer import FarTrainer
from lightning_fed.worker.pickling import loads


def serve(connection: socket.socket, start_method: str) -> None:
    """Serve a parent until it closes its end.

    Args:
        connection: The connection to it.
        start_method: How the parent starts processes of its own, such as those of a DataLoader.
    """
    multiprocessing.set_start_method(start_method, force=True)  # as this one was started, it would spawn them
    # A group of its own: what it starts, such as the processes of a DataLoader, can then be ended with it. And the
    # parent decides what becomes of Ctrl-C.
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # One that is forked must not hold the connection: the parent is to notice when this process ends.
    os.register_at_fork(after_in_child=connection.close)
    gc.freeze()  # torch and Lightning stay: to look through them at each end of a fit would take longer than the rest
    with contextlib.suppress(EOFError, ConnectionError):
        _serve(Channel(connection))


def _end_with_parent() -> None:
    """End this process and all that it has started, some time after its parent was killed: its worker may hang."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    time.sleep(_PATIENCE)
    os.killpg(0, signal.SIGKILL)


_PATIENCE = 5.0  # seconds


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
            child.receive(parts[0])
        elif "train" in fields:
            assert child is not None
            if "fd" in fields:
                slots[fields["slot"]] = Slot(fields["fd"], fields["size"]).writable()
            answer, bytes_ = child.train(fields["train"], slots.get(fields["slot"]), *parts)
            channel.send(bytes_, **answer)
        del parts


@final
class _Child:
    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.threads)
        torch.set_default_dtype(settings.default_dtype)
        torch.set_float32_matmul_precision(settings.matmul_precision)
        torch.use_deterministic_algorithms(settings.deterministic)
        for name in ("pytorch_lightning", "lightning.pytorch"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self._is_lost = False
        self._warnings: list[str] = []
        self._watch = Watch()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trainer = FarTrainer(**settings.trainer)
        warnings.showwarning = self._note_warning
        self._trainer.state.fn = pl.trainer.states.TrainerFn.FITTING
        self.device = self._trainer.strategy.root_device
        if self.device.type == "cpu":
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

    def receive(self, job: memoryview) -> None:
        """Take a job, for the workers that are to be trained.

        Args:
            job: Its bytes, of which its tensors are views.
        """
        self.job = decode_job(job, copy=False, device=self.device, coder=self._outbox.broadcast)

    def train(
        self, worker: str, slot: memoryview | None, data: memoryview, rows: memoryview
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Train a worker; returns the fields and the parts of the answer.

        Args:
            worker: Its name.
            slot: Memory for the message with its update.
            data: Its datamodule, pickled.
            rows: Its own state.
        """
        self._warnings.clear()
        try:
            self._own.take_in(worker, load_rows(bytes(rows)))
            self._own.begin(self.job.cohort, self.job.last, self.job.failed)
            self._trainer.job = self.job
            with counting_signals(), torch.no_grad():
                answer = self._answer(self._trained(worker, data), slot)
        except Exception as error:
            self._is_lost = isinstance(error, LostDeviceError)
            reason = describe(error.__cause__ if self._is_lost and error.__cause__ else error)
            answer = {"error": reason, "traceback": traceback.format_exc(), "is_workers": self._is_lost}, []
        finally:
            self._let_go()
        fields, parts = answer
        return {
            **fields,
            "is_lost": self._is_lost,
            "noted": self._engine.noted(self._watch.changed, self._warnings),
        }, parts

    def _trained(self, worker: str, data: memoryview) -> Updates | WorkerError:
        try:
            with self._watch.over(worker, self.job.round):
                self._workers[worker] = loads(data)
        except Exception as error:
            failure = WorkerError(
                worker,
                self.job.round,
                f"its datamodule cannot be read in another process ({describe(error)}); define classes and functions "
                "at the top level of a file that can be imported there",
            )
            failure.__cause__ = error
            return failure
        (result,) = self._engine.run(self.job, [worker])
        return result

    def _let_go(self) -> None:
        self._pool.clear()
        self._workers.clear()

    def _note_warning(self, message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if not issubclass(category, Remark):  # the parent remarks itself on what all its children note
            self._warnings.append(str(message))

    def _answer(self, result: Updates | WorkerError, slot: memoryview | None) -> tuple[dict[str, Any], list[bytes]]:
        if isinstance(result, WorkerError):
            cause = result.__cause__
            told = "" if cause is None else "".join(traceback.format_exception(cause))
            return {"error": result.reason, "traceback": told, "is_workers": True}, []
        staged = {table: row.contiguous() for table, rows in self._own.staged().items() for row in rows.values()}
        if slot is not None and updates_bytes(result, self.job)[0] <= len(slot):
            return {"in_slot": encode_updates_into(result, self.job, slot)}, [b"", save_rows(staged)]
        return {"in_slot": None}, [encode_updates(result, self.job), save_rows(staged)]
