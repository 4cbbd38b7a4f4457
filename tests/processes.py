"""Several processes of one run, each forked from the test: each comes back with its own result or its own error."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
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
    started = []
    for rank in range(processes):
        ours, theirs = context.Pipe(duplex=False)
        node, local = divmod(rank, processes // nodes)
        places = {"NODE_RANK": node, "LOCAL_RANK": local, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        process = context.Process(target=_run, args=(work, {k: str(v) for k, v in places.items()}, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    ended: list[Ended] = []
    try:
        for _, pipe in started:
            assert pipe.poll(TIMEOUT), f"a process waits for ever; the others came back with {ended}"
            ended.append(pipe.recv())
    finally:
        for process, pipe in started:
            process.kill()
            process.join()
            pipe.close()
    return ended


def _run(work: Callable[[], Any], places: dict[str, str], pipe: Connection) -> None:
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
