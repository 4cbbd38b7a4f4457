"""Handwritten digits of 1,000 people who need not trust each other, with differential privacy for each of them.

    python examples/private_digits.py --out private_digits.png

Every worker holds one or two digits. In each round it takes part with a probability of 0.1, its update is clipped, and
noise as large as the clipping bound is added to the sum. Prints what was spent of privacy and the accuracy on held-out
digits, and draws both. The same as ``lightning-fed fit -c configs/private.yaml``. Needs two extras:
pip install "lightning_fed[examples,privacy]".
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.datasets import IID, DigitsDataModule, PartitionedPopulation
from lightning_fed.models import MLPClassifier
from lightning_fed.privacy import CentralDP
from lightning_fed.record import next_version

# Adam suits noise: a step is as long as the learning rate, whatever the size of the noise. Chosen by the accuracy on
# the held-out digits, out of eight combinations of bound and server optimizer. No ε covers such a search; it was done
# on public data.
CLIP, SERVER_LR, LOCAL_LR = 1.0, 0.05, 0.5


class Table(pl.Callback):
    """Prints and keeps the accuracy and what was spent, whenever the model is evaluated."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, float]] = []

    def on_train_start(self, *_: Any) -> None:
        print(f"{'round':>5} {'epsilon':>8} {'accuracy':>9}")

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics
        row = trainer.global_step, float(metrics["epsilon"]), 100 * float(metrics["val_acc"])
        self.rows.append(row)
        print(f"{row[0]:5} {row[1]:8.2f} {row[2]:7.1f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--sampling-rate", type=float, default=0.1)
    parser.add_argument("--noise-multiplier", type=float, default=1.0)
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--accelerator", default="auto")
    parser.add_argument(
        "--seed", type=int, default=0, help="decides the partition and the first weights, not the noise"
    )
    parser.add_argument("--logdir", default="logs")
    parser.add_argument("--out", type=Path, default=Path("private_digits.png"), help="where to draw the curves")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")

    pl.seed_everything(options.seed, verbose=False)
    workers = PartitionedPopulation(DigitsDataModule(), IID(options.workers, seed=options.seed), batch_size=10)
    data = FederatedDataModule(
        workers,
        cohort_size=round(options.sampling_rate * options.workers),
        rounds_per_epoch=10,  # evaluate every 10 rounds
        val=DigitsDataModule(),
        seed=options.seed,
    )
    federated = FederatedModule(
        MLPClassifier(in_features=64, hidden=(), classes=10, lr=LOCAL_LR),
        server_optimizer=lambda parameters: torch.optim.Adam(parameters, lr=SERVER_LR, betas=(0.9, 0.99)),
        privacy=CentralDP(clip=CLIP, noise_multiplier=options.noise_multiplier, delta=options.delta),
    )
    table = Table()
    version = next_version(Path(options.logdir, "private_digits"), type(federated.algorithm).__name__)
    trainer = pl.Trainer(
        max_steps=options.rounds,
        max_epochs=-1,
        accelerator=options.accelerator,
        devices=1,
        logger=TensorBoardLogger(options.logdir, name="private_digits", version=version, default_hp_metric=False),
        callbacks=[table],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(federated, data)
    epsilon = float(trainer.callback_metrics["epsilon"])
    (result,) = trainer.test(federated, data, verbose=False)
    print(
        f"accuracy on held-out digits after {trainer.global_step} rounds: {100 * result['test_acc']:.1f} %, "
        f"with ε = {epsilon:.2f} at δ = {options.delta:g}"
    )
    draw(table.rows, options.delta, options.out)
    print(f"drawn: {options.out}\ntensorboard --logdir {options.logdir}")


def draw(rows: list[tuple[int, float, float]], delta: float, out: Path) -> None:
    """Draw accuracy and ε over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rounds, epsilons, accuracies = zip(*rows, strict=True)
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(6, 5), layout="constrained")
    above.plot(rounds, accuracies, marker="o")
    above.set(ylabel="accuracy in %", ylim=(0, 100), title="digits, with differential privacy for every worker")
    below.plot(rounds, epsilons, marker="o", color="tab:red")
    below.set(ylabel=f"ε spent, at δ = {delta:g}", ylim=(0, None), xlabel="round")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
