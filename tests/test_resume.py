"""Interrupted and resumed is bit for bit the same as uninterrupted."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
import torch
from runs import assert_same, run, start

OPTIONS = ("--rounds", "12", "--norm", "--dropout", "0.3")
# Ten workers' controls of 0.8 MB, of which one fits the memory
WITH_STATE = ("--rounds", "12", "--algorithm", "Scaffold()", "--width", "20000", "--state-memory", "1")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return run(tmp_path_factory.mktemp("whole") / "whole.pt", *OPTIONS)


@pytest.fixture(scope="module")
def uninterrupted_with_state(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    return run(tmp_path_factory.mktemp("whole") / "state.pt", *WITH_STATE)


def last_checkpoint(out: Path) -> Path | None:
    return max((out.parent / f"{out.stem}-checkpoints").glob("*.ckpt"), default=None)


@pytest.mark.parametrize("rounds", [1, 3, 5])
def test_resuming_is_bit_for_bit(tmp_path: Path, uninterrupted: dict[str, object], rounds: int) -> None:
    """After 1 and 5 rounds within an epoch, after 3 at the end of one."""
    out = tmp_path / "out.pt"
    run(out, *OPTIONS, "--rounds", str(rounds))
    checkpoint = last_checkpoint(out)
    assert checkpoint is not None
    assert_same(uninterrupted, run(out, *OPTIONS, "--ckpt", str(checkpoint)))


@pytest.mark.parametrize("attempt", range(3))
def test_resuming_after_sigkill_is_bit_for_bit(tmp_path: Path, uninterrupted: dict[str, object], attempt: int) -> None:
    assert_same(uninterrupted, killed_and_resumed(tmp_path / "out.pt", OPTIONS, attempt))


@pytest.mark.parametrize("attempt", range(2))
def test_what_is_remembered_about_workers_survives_too(
    tmp_path: Path, uninterrupted_with_state: dict[str, object], attempt: int
) -> None:
    """Most of it lies in files, written, compacted and deleted while the process is killed."""
    resumed = killed_and_resumed(tmp_path / "out.pt", WITH_STATE, attempt)
    assert uninterrupted_with_state["on_disk"] == resumed["on_disk"] == 9
    assert_same(uninterrupted_with_state, resumed)


def killed_and_resumed(out: Path, options: tuple[str, ...], attempt: int) -> dict[str, object]:
    """Kill a process at a random moment after its first checkpoint, between rounds or within one; then go on."""
    process = start(out, *options, "--rounds", "100000")
    deadline = time.monotonic() + 60
    while last_checkpoint(out) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(random.Random(attempt).uniform(0, 0.15))
    process.kill()
    process.communicate()
    checkpoints = sorted((out.parent / "out-checkpoints").glob("*.ckpt"))
    assert checkpoints
    for checkpoint in checkpoints:  # none is half written
        torch.load(checkpoint, weights_only=True)
    usable = [path for path in checkpoints if int(path.stem.split("=")[1]) <= 12]
    return run(out, *options, "--ckpt", str(usable[-1]))
