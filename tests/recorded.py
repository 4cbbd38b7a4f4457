"""Records of runs, written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PARTITION = {"partition": "Dirichlet(workers=11, alpha=0.3)", "partition/workers": 11, "partition/alpha": 0.3}


def record(
    folder: Path,
    values: Sequence[float | None],
    seed: int = 0,
    algorithm: str = "FedAvg",
    *,
    settings: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    metric: str = "val_acc",
    every: int = 10,
    with_workers: bool = True,
    **run: Any,
) -> Path:
    """Write the record of a run that is evaluated every 10 rounds by 11 workers, and sends a megabyte a round.

    The workers' values lie around the pooled one in steps of 0.01, so that a tenth of them is at or below it - 0.04.
    """
    folder.mkdir(parents=True)
    seeds = {"seed": seed, "data/seed": seed, "partition/seed": 0}
    table = {"algorithm": algorithm, "local_epochs": 1, "population": 11, **PARTITION, "val": None}
    content = {
        "version": 1,
        "name": folder.name,
        "started": "2026-11-26T20:00:00+00:00",
        "finished": "2026-11-26T20:01:00+00:00",
        "outcome": "completed",
        "error": None,
        "fits": [{"fit": "f", "round": 0, "started": "2026-11-26T20:00:00+00:00", "checkpoint": None}],
        "command": "train.py",
        "config": None,
        "config_sha256": None,
        "commit": None,
        "versions": {"lightning_fed": "0.1.0"},
        "settings": {**table, **seeds, **(settings or {})},
        "seeds": {name: value for name, value in {**seeds, **(settings or {})}.items() if name.endswith("seed")},
        "data": {"population": 11, "cohort_size": 5, "names_checksum": 7, "sizes": {"total": 110}, **(data or {})},
        "leaves": None,
        "promise": None,
        "ledger": None,
        **run,
    }
    (folder / "run.json").write_text(json.dumps(content))
    rounds = [
        {"fit": "f", "round": number, "epoch": 0, "metrics": {"train_loss": 1.0}, "seconds": 0.1}
        | {"bytes_down": 600_000, "bytes_up": 400_000}
        for number in range(every * len(values))
    ]
    evaluations = [
        {"fit": "f", "round": every * (number + 1) - 1, "epoch": 0, "stage": "val", "seconds": 0.5}
        | {"metrics": {metric: value, "val_loss": 0.25}, "failures": []}
        | (_of_workers(metric, value) if with_workers else {"workers": None, "examples": None})
        for number, value in enumerate(values)
    ]
    (folder / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rounds))
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluations))
    return folder


def _of_workers(metric: str, value: float | None) -> dict[str, Any]:
    names = [f"worker{number}" for number in range(11)]
    values = [None if value is None else value + (number - 5) / 100 for number in range(11)]
    return {
        "workers": {name: {metric: own} for name, own in zip(names, values, strict=True)},
        "examples": dict.fromkeys(names, 10),
    }
