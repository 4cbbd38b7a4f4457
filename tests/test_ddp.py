"""Two processes give what one gives."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_in_processes
from runs import assert_same, run, start, start_nodes

DDP = ("--devices", "2", "--strategy", "ddp")
AWAY = "RandomAvailability(absent=0.2, lost=0.1, stragglers=0.5)"
SECURE = ("--secure", "SecureAggregation(clip=5.0, weight_cap=20, threshold=0.51)")
PROTOCOL = ("--secure", "SecureAggregation(clip=5.0, weight_cap=20, threshold=0.51, protocol=True)")


def run_forked(out: Path, *options: str, processes: int) -> dict[str, Any]:
    """Run in processes that are forked from this one, which takes a tenth of starting them."""

    def work() -> None:
        from scripts import train  # it silences warnings, so not here

        train.main([str(out), *options])

    for ended in run_in_processes(work, processes):
        assert ended.error is None, ended.trace
    result: dict[str, Any] = torch.load(out, weights_only=True)
    return result


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--norm", "--dropout", "0.3"), id="fedavg with batch norm and dropout, workers' own evaluation"),
        pytest.param(("--algorithm", "Cyclic()", "--central"), id="cyclic, central evaluation", marks=pytest.mark.slow),
        pytest.param(
            ("--algorithm", "QFedAvg(q=1.0, lr=0.1)", "--accumulate", "2", "--cohort", "3"),
            id="q-fedavg, accumulating, uneven shares",
        ),
        pytest.param(
            ("--algorithm", "FedNova(momentum=0.5, mu=0.1, lr=0.1)", "--norm"),
            id="fednova, proximal",
            marks=pytest.mark.slow,
        ),
        pytest.param(("--aggregator", "Median()", "--norm"), id="median, with batch norm"),
        pytest.param(
            ("--aggregator", "Attacked(Median(), Mimic(warm_up=2), ['w1', 'w4', 'w7'])", "--norm", "--cohort", "5"),
            id="liars that copy, some on either process",
        ),
        pytest.param(
            ("--algorithm", "Scaffold()", "--aggregator", "Attacked(UniformMean(), Gaussian(0.1), ['w1', 'w4'])"),
            id="liars at random, beside what an algorithm has workers send",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--aggregator", "MultiKrum(1)", "--broken", "3", "--on-worker-error", "drop", "--central"),
            id="multi-krum",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--broken", "3", "--on-worker-error", "drop", "--central"), id="a worker drops out", marks=pytest.mark.slow
        ),
        pytest.param(
            ("--algorithm", "Scaffold()", "--norm", "--cohort", "5", "--availability", AWAY),
            id="scaffold, with workers absent, lost and slow",
        ),
        pytest.param(
            ("--algorithm", "FedDyn(0.1)", "--cohort", "2", "--rounds", "9", "--sampler", "Poisson()"),
            id="feddyn, with cohorts that may be empty or of one",
        ),
        pytest.param(("--algorithm", "Ditto(0.1)", "--norm"), id="ditto, own models evaluated"),
        pytest.param(
            ("--broadcast", "KBit(4)", "--width", "64", "--norm"), id="a compressed model", marks=pytest.mark.slow
        ),
        pytest.param(
            ("--algorithm", "Scaffold()", "--transforms", "[Compressed(TopK(0.2), least=8)]", "--cohort", "5"),
            id="scaffold, compressed, with what was left out fed back",
        ),
        pytest.param(
            ("--transforms", "[Compressed(Sign(), least=8)]", "--aggregator", "MajorityVote(0.01)", "--norm"),
            id="a vote of signs",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (
                *("--aggregator", "Bucketing(CenteredClipping(0.1, iterations=2))", "--norm"),
                *("--transforms", "[WorkerMomentum()]", "--cohort", "5"),
            ),
            id="buckets clipped around the round before, of workers' momentum",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--aggregator", "GeometricMedian(weighted=True)", "--norm", "--central"),
            id="median by examples",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--central", "--cohort", "5", "--availability", AWAY, *SECURE),
            id="secure aggregation, with workers absent and lost",
        ),
        pytest.param(
            ("--algorithm", "FedBN(['net.1.*', 'net.4.*'])", "--norm", "--cohort", "5"),
            id="personal layers and statistics, own models evaluated",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_give_what_one_gives(tmp_path: Path, options: tuple[str, ...]) -> None:
    one = run_forked(tmp_path / "one.pt", "--double", *options, processes=1)
    two = run_forked(tmp_path / "two.pt", "--double", *options, *DDP, processes=2)
    assert_same(one, two, rounding=True)


@pytest.mark.parametrize("options", [SECURE, PROTOCOL], ids=["without keys", "with keys"])
def test_sums_of_sealed_numbers_are_the_same_bits_on_two_processes(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Integers add up to the same whatever the order; the rest of a round is computed on one process alone."""
    options = (*options, "--central", "--cohort", "5", "--availability", AWAY, "--engine", "sequential")
    one = run_forked(tmp_path / "one.pt", *SECURE, *options[2:], processes=1)
    two = run_forked(tmp_path / "two.pt", *options, *DDP, processes=2)
    for name, tensor in one["state"].items():
        assert torch.equal(tensor, two["state"][name]), name


@pytest.mark.parametrize(
    "promise", ["DistributedDP(clip=0.5, survivors=3, {})", "CentralDP(clip=0.5, {})"], ids=["workers'", "server's"]
)
def test_noise_over_secure_aggregation_is_the_same_bits_on_two_processes(tmp_path: Path, promise: str) -> None:
    """Noise of the workers also without it: the very integers are added. The server's is put on a grid of its own."""
    private = promise.format("noise_multiplier=0.5, delta=1e-5, insecure_deterministic_noise=True")
    options = ("--privacy", private, "--central", "--cohort", "5", "--sampler", "Uniform()", "--engine", "sequential")
    secure = ("--secure", "SecureAggregation(threshold=0.51)")
    one = run_forked(tmp_path / "one.pt", *options, *(() if "Dist" in promise else secure), processes=1)
    two = run_forked(tmp_path / "two.pt", *options, *secure, *DDP, processes=2)
    for name, tensor in one["state"].items():
        assert torch.equal(tensor, two["state"][name]), name


@pytest.mark.slow
def test_two_machines_give_what_one_process_gives(tmp_path: Path) -> None:
    """Started by torchrun, as on real machines."""
    options = ("--double", "--algorithm", "Scaffold()", "--norm", "--rounds", "3")
    nodes = start_nodes(tmp_path / "two.pt", 2, *options)
    try:
        one = run(tmp_path / "one.pt", *options)
        outputs = [node.communicate(timeout=120)[0] for node in nodes]
    finally:
        for node in nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)  # with the process that it has started
    assert [node.returncode for node in nodes] == [0, 0], "".join(outputs)
    assert_same(one, torch.load(tmp_path / "two.pt", weights_only=True), rounding=True)


def test_a_failure_on_one_process_ends_all_of_them_with_the_workers_name(tmp_path: Path) -> None:
    process = start(tmp_path / "out.pt", "--broken", "3", *DDP)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "worker 'w3' failed in round" in output
    assert "NaN or Inf" in output
