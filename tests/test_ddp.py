"""Two processes give what one gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import assert_same, run, start

DDP = ("--devices", "2", "--strategy", "ddp")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--norm", "--dropout", "0.3"), id="fedavg with batch norm and dropout, workers' own evaluation"),
        pytest.param(("--algorithm", "Cyclic()", "--central"), id="cyclic, central evaluation"),
        pytest.param(("--accumulate", "2", "--cohort", "3"), id="accumulating, uneven shares"),
        pytest.param(("--algorithm", "FedNova(momentum=0.5, mu=0.1, lr=0.1)", "--norm"), id="fednova, proximal"),
        pytest.param(("--aggregator", "Median()", "--norm"), id="median, with batch norm"),
        pytest.param(
            ("--aggregator", "MultiKrum(1)", "--broken", "3", "--on-worker-error", "drop", "--central"), id="multi-krum"
        ),
        pytest.param(("--broken", "3", "--on-worker-error", "drop", "--central"), id="a worker drops out"),
    ],
)
def test_two_processes_give_what_one_gives(tmp_path: Path, options: tuple[str, ...]) -> None:
    one = run(tmp_path / "one.pt", *options)
    two = run(tmp_path / "two.pt", *options, *DDP)
    assert_same(one, two, tolerance=2e-6)


def test_a_failure_on_one_process_ends_all_of_them_with_the_workers_name(tmp_path: Path) -> None:
    process = start(tmp_path / "out.pt", "--broken", "3", *DDP)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "worker 'w3' failed in round" in output
    assert "NaN or Inf" in output
