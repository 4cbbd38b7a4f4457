"""Runs ``scripts/train.py`` in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

SCRIPT = Path(__file__).parent / "scripts" / "train.py"


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    """Start a run that will write to ``out``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(SCRIPT), str(out), *options]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(out: Path, *options: str) -> dict[str, Any]:
    """Run to the end and give what it wrote: the weights, the metrics, the round, and what is remembered."""
    process = start(out, *options)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    result: dict[str, Any] = torch.load(out, weights_only=True)
    return result


def assert_same(a: dict[str, Any], b: dict[str, Any], tolerance: float) -> None:
    """Compare two runs: every weight, buffer and metric, and what is remembered. A tolerance of 0 means bit for bit."""
    assert a["step"] == b["step"]
    for part in ("state", "memory"):
        assert a[part].keys() == b[part].keys()
        for name, value in a[part].items():
            other = b[part][name]
            torch.testing.assert_close(value, other, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)
    assert a["metrics"].keys() == b["metrics"].keys()
    for name, number in a["metrics"].items():
        assert abs(number - b["metrics"][name]) <= 10 * tolerance * max(1.0, abs(number)), name
