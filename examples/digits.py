"""Handwritten digits, dealt out unevenly to 100 workers; 10 of them train in each round.

    python examples/digits.py

The same as ``lightning-fed fit -c configs/digits.yaml``. Needs scikit-learn: pip install "lightning_fed[examples]".
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.callbacks import RoundProgress
from lightning_fed.datasets import DigitsDataModule, Dirichlet, PartitionedPopulation
from lightning_fed.models import MLPClassifier
from lightning_fed.record import next_version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--alpha", type=float, default=0.3, help="the smaller, the fewer digits a worker sees")
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--logdir", default="logs")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    partition = Dirichlet(workers=100, alpha=options.alpha, min_size=2, seed=options.seed)
    workers = PartitionedPopulation(DigitsDataModule(), partition, batch_size=10)
    sizes = np.array([workers.num_examples(name) for name in workers])
    print(
        f"{len(workers)} workers with {sizes.min()} to {sizes.max()} digits each, {np.median(sizes):.0f} in the median"
    )

    pl.seed_everything(options.seed, verbose=False)
    model = MLPClassifier(in_features=64, hidden=(64,), classes=10, lr=0.3)
    data = FederatedDataModule(workers, cohort_size=10, rounds_per_epoch=10, val=DigitsDataModule(), seed=options.seed)
    federated = FederatedModule(model)
    version = next_version(Path(options.logdir, "digits"), type(federated.algorithm).__name__)
    trainer = pl.Trainer(
        max_steps=options.rounds,
        max_epochs=-1,
        accelerator=options.accelerator,
        devices=1,
        logger=TensorBoardLogger(options.logdir, name="digits", version=version, default_hp_metric=False),
        log_every_n_steps=1,
        callbacks=[RoundProgress()],
        enable_model_summary=False,
    )
    trainer.fit(federated, data)
    (result,) = trainer.test(federated, data, verbose=False)
    print(f"accuracy on held-out digits after {trainer.global_step} rounds: {100 * result['test_acc']:.1f} %")
    print(f"tensorboard --logdir {options.logdir}")


if __name__ == "__main__":
    main()
