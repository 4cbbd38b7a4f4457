"""Runs ``scripts/train.py`` in processes of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from helpers import assert_equal

SCRIPT = Path(__file__).parent / "scripts" / "train.py"


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    """Start a run that will write to ``out``."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT), str(out), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_nodes(out: Path, nodes: int, *options: str) -> list[subprocess.Popen[str]]:
    """Start a run on several "machines" of one process each by torchrun, on the loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc-per-node=1"]
    torchrun += ["--rdzv-backend=static", "--master-addr=127.0.0.1", f"--master-port={port}"]
    run = [str(SCRIPT), str(out), f"--nodes={nodes}", "--strategy=ddp", *options]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return [
        subprocess.Popen(
            [*torchrun, f"--node-rank={node}", *run],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for node in range(nodes)
    ]


def run(out: Path, *options: str) -> dict[str, Any]:
    """Run to the end and give what it wrote: the weights, the metrics, the round, and what is remembered."""
    process = start(out, *options)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    result: dict[str, Any] = torch.load(out, weights_only=True)
    return result


def assert_same(a: dict[str, Any], b: dict[str, Any], *, rounding: bool = False) -> None:
    """Compare two runs bit for bit: every weight, buffer and metric, and what is remembered.

    Args:
        a: A result of ``run``.
        b: Another.
        rounding: They may differ by the rounding of float64; both ran with ``--double``.
    """
    assert a["step"] == b["step"]
    for part in ("state", "memory", "metrics"):
        if rounding:
            assert_equal(a[part], b[part], f"{part}: ")
        else:
            torch.testing.assert_close(a[part], b[part], rtol=0, atol=0, msg=lambda m, p=part: f"{p}: {m}")
