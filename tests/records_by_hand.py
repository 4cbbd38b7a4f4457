"""Records that are written by hand, with numbers that a reader can follow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROW = {"kind": "delta", "name": "w", "dtype": "float32", "shape": [2], "bytes": 8, "why": "aggregated"}
LEAVES: dict[str, Any] = {
    "round": 0,
    "worker": "bob",
    "bytes_up": 108,
    "bytes_down": 208,
    "up": [
        {**ROW, "kind": "header", "name": "header", "dtype": "json", "shape": [], "bytes": 100, "why": "names"},
        ROW,
    ],
    "down": [{**ROW, "kind": "parameter", "bytes": 208, "why": "the model"}],
    "stays": [{**ROW, "kind": "stays", "name": "rows, labels and batches", "bytes": 0, "why": "the data"}],
}
RUN: dict[str, Any] = {
    "version": 1,
    "name": "toy/FedAvg-0",
    "started": "2026-11-26T10:00:00+00:00",
    "finished": "2026-11-26T10:01:00+00:00",
    "outcome": "completed",
    "error": None,
    "fits": [{"fit": "f", "round": 0, "started": "2026-11-26T10:00:00+00:00", "checkpoint": None}],
    "command": "lightning-fed fit -c toy",
    "config": None,
    "config_sha256": None,
    "commit": "abc123",
    "versions": {
        "python": "3.11.7",
        "lightning_fed": "0.1.0",
        "lightning.pytorch": "2.6.6",
        "torch": "2.13.0",
        "numpy": "2.4.6",
    },
    "settings": {"algorithm": "FedProx(mu=0.1)", "algorithm/mu": 0.1, "seed": 7},
    "seeds": {"seed": 7},
    "data": {"population": 4, "cohort_size": 2},
    "leaves": LEAVES,
    "promise": None,
    "ledger": None,
}


def round_of(number: int, cohort: Sequence[str], **values: Any) -> dict[str, Any]:
    """The line of a round: 1 MB up, 2 MB down, 3 seconds."""
    line = {"fit": "f", "round": number, "epoch": 0, "size": len(cohort), "cohort": list(cohort), "examples": 9.0}
    rest = {"loss": 1.0 / (number + 1), "metrics": {}, "dropped": [], "stragglers": [], "failures": []}
    return {**line, **rest, "seconds": 3.0, "bytes_down": 2_000_000, "bytes_up": 1_000_000, **values}


def evaluation_of(number: int, metrics: Mapping[str, float], workers: Any = None, **values: Any) -> dict[str, Any]:
    """The line of an evaluation after a round."""
    line = {"fit": "f", "round": number, "epoch": 0, "stage": "val", "metrics": dict(metrics), "workers": workers}
    return {**line, "examples": None, "failures": [], "seconds": 0.5, **values}


ACCURACIES = {"ann": 0.5, "bob": 1.0, "cyd": 0.75, "dee": 0.75}
ROUNDS = [
    round_of(0, ["ann", "bob"]),
    round_of(1, ["bob", "cyd"], dropped=["cyd"]),
    round_of(2, ["ann", "bob"], failures=[{"worker": "ann", "reason": "no disk"}], stragglers=["bob"]),
]
EVALUATIONS = [
    evaluation_of(
        0, {"val_loss": 0.9, "val_acc": 0.25}, {name: {"val_loss": 1.0, "val_acc": 0.25} for name in ACCURACIES}
    ),
    evaluation_of(
        2,
        {"val_loss": 0.4, "val_acc": 0.7},
        {name: {"val_loss": 1 - value, "val_acc": value} for name, value in ACCURACIES.items()},
    ),
]


def record(
    folder: Path, rounds: Sequence[Any] = ROUNDS, evaluations: Sequence[Any] = EVALUATIONS, **changes: Any
) -> Path:
    """Write a record.

    Args:
        folder: The folder of the run.
        rounds: The lines of rounds.
        evaluations: The lines of evaluations.
        changes: Of ``run.json``; Ellipsis: the fact is left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = {name: value for name, value in {**RUN, **changes}.items() if value is not ...}
    (folder / "run.json").write_text(json.dumps(run))
    for name, lines in (("rounds", rounds), ("evaluations", evaluations)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
