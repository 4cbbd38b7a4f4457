"""Several processes of one run, each forked from the test: each comes back with its own result or its own error."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import socket
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

TIMEOUT = 30


class Ended(NamedTuple):
    """How a process ended."""

    result: Any
    error: str | None  # the type and the message
    trace: str = ""


def run_in_processes(work: Callable[[], Any], processes: int = 2, nodes: int = 1) -> list[Ended]:
    """Run a function in several processes at once; what hangs is an error of the test.

    Args:
        work: Makes ``pl.Trainer(strategy="ddp", devices=processes // nodes, num_nodes=nodes)`` and uses it.
        processes: How many there are.
        nodes: Over how many machines they are spread, as far as Lightning can see.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as stacks:
        started: dict[Connection, Any] = {}
        for rank in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            node, local = divmod(rank, processes // nodes)
            places = {"NODE_RANK": node, "LOCAL_RANK": local, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment = {k: str(v) for k, v in places.items()}
            process = context.Process(target=_run, args=(work, environment, theirs, f"{stacks}/{rank}"))
            process.start()
            theirs.close()
            started[ours] = process
        ended: dict[int, Ended] = {}
        deadline = time.monotonic() + TIMEOUT
        try:
            while len(ended) < processes:
                ready = wait(
                    [pipe for rank, pipe in enumerate(started) if rank not in ended], deadline - time.monotonic()
                )
                assert ready, _said(ended, started.values(), stacks)
                ended |= {rank: pipe.recv() for rank, pipe in enumerate(started) if pipe in ready}
        finally:
            for pipe, process in started.items():
                process.kill()
                process.join()
                pipe.close()
    return [ended[rank] for rank in range(processes)]


def _said(ended: dict[int, Ended], processes: Iterable[Any], stacks: str) -> str:
    """Say which processes wait for ever, and where."""
    told = []
    for rank, process in enumerate(processes):
        if rank in ended:
            told.append(f"process {rank} came back with {ended[rank]}")
        else:
            os.kill(process.pid, signal.SIGUSR1)
            time.sleep(1)  # it writes its stack
            told.append(f"process {rank} waits for ever:\n{Path(stacks, str(rank)).read_text()}")
    return "\n".join(told)


def _run(work: Callable[[], Any], places: dict[str, str], pipe: Connection, stack: str) -> None:
    faulthandler.register(signal.SIGUSR1, open(stack, "w"))  # noqa: SIM115 (open as long as the process lives)
    os.environ.update(places)
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ended = Ended(work(), None)
    except Exception as error:
        ended = Ended(None, f"{type(error).__name__}: {error}", traceback.format_exc())
    pipe.send(ended)
    signal.pause()  # until it is killed: were it to end here, others that wait for it would get an error, and not hang
