"""The round with a new Trainer for every worker, as integrations of Lightning into other frameworks do it."""

from __future__ import annotations

import logging
import sys
import warnings

import pytorch_lightning as pl
import torch
from stopwatch import WARMUP, Stopwatch
from workload import KINDS, POPULATION, Classifier, WorkerData, points


def main() -> None:
    kind, rounds = sys.argv[1], int(sys.argv[2])
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    stopwatch = Stopwatch()
    for worker in range(POPULATION):
        points(kind, worker)
    module, cohort_size = Classifier(kind), KINDS[kind].cohort
    for _ in range(WARMUP + rounds):
        start = {name: value.clone() for name, value in module.state_dict().items()}
        mean = {name: torch.zeros_like(value) for name, value in start.items()}
        for worker in torch.randperm(POPULATION)[:cohort_size].tolist():
            module.load_state_dict(start)
            pl.Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
            ).fit(module, WorkerData(kind, worker))
            for name, value in module.state_dict().items():
                mean[name] += value / cohort_size
        module.load_state_dict(mean)
        stopwatch.round_ended()
    stopwatch.stop()


if __name__ == "__main__":
    main()
