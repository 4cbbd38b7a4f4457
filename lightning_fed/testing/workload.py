"""Workload of the contract suites: a small net with named layers, and workers of different sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.warnings_only import warnings_only
from lightning_fed.module import FederatedModule
from lightning_fed.selection import Availability
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates

LR = 0.1
FEATURES, TARGETS = 4, 3
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""The tolerances of equal results, relative and absolute; integers must be equal.

In float64 this lies far above any rounding and far below any fault, so equivalences are held there. Float32 rounds by
6e-8 of sums of up to 100 here, bfloat16 by 0.004 of a number.
"""


@final
class Layered(pl.LightningModule):
    """Three layers, ``body``, ``norm`` (BatchNorm) and ``head``, that predict 3 numbers from 4; SGD with momentum.

    The loss is half the squared error, so it is non-negative, as some algorithms require.

    Args:
        weight_decay: The weight decay of the optimizer.
        dropout: The dropout before the head.
    """

    def __init__(self, weight_decay: float = 0.0, dropout: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.weight_decay = weight_decay
        self.body = nn.Linear(FEATURES, 6, bias=False)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6, TARGETS)

    def forward(self, x: Tensor) -> Tensor:
        """Predict: float ``[n, 4]`` -> float ``[n, 3]``."""
        hidden = torch.relu(self.norm(self.body(x)))
        prediction: Tensor = self.head(self.dropout(hidden))
        return prediction

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return half the squared error, averaged over the batch."""
        x, y = (tensor.to(self.body.weight.dtype) for tensor in batch)
        loss: Tensor = ((self(x) - y) ** 2).sum(dim=1).mean() / 2
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return SGD with lr 0.1 and momentum 0.5."""
        return torch.optim.SGD(self.parameters(), lr=LR, momentum=0.5, weight_decay=self.weight_decay)


@final
class Points(pl.LightningDataModule):
    """One worker's examples: ``4 + 2 · seed`` of them, in shuffled batches of 4.

    Args:
        seed: The seed of the examples.
        targets: The same target for all examples, ``[3]``; None: a function of the input, around 2, a little
            different for each worker.
    """

    def __init__(self, seed: int, targets: Tensor | None = None) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(4 + 2 * seed, FEATURES, generator=generator)  # avoids a batch of one, which BatchNorm refuses
        y = x[:, :TARGETS].sin() + 2 + 0.3 * torch.randn(TARGETS, generator=generator)
        self.examples = TensorDataset(x, y if targets is None else targets.expand_as(y))

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of 4."""
        return DataLoader(self.examples, batch_size=4, shuffle=True)


def workers(n: int = 6) -> dict[str, pl.LightningDataModule]:
    """Workers w0, w1, ...; all differ."""
    return {f"w{i}": Points(i) for i in range(n)}


def layered(weight_decay: float = 0.0, dropout: float = 0.2) -> Layered:
    """The module with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Layered(weight_decay, dropout)


def fit(
    federated: FederatedModule, data: FederatedDataModule, rounds: int, resume: str | None = None, **options: Any
) -> pl.Trainer:
    """Train under a Trainer that writes nothing, and logs nothing but warnings: a check has many fits.

    Args:
        federated: The module to train.
        data: The data.
        rounds: The number of rounds, counted from the beginning of the run that is resumed.
        resume: The checkpoint to resume from.
        options: Further arguments of the Trainer.
    """
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    with warnings_only():
        trainer = pl.Trainer(
            **{"max_steps": rounds, "max_epochs": -1, "accelerator": "cpu", "devices": 1, **quiet, **options}
        )
        trainer.fit(federated, data, ckpt_path=resume)
    return trainer


def trained(
    algorithm: Algorithm,
    rounds: int = 3,
    module: Layered | None = None,
    population: Mapping[str, pl.LightningDataModule] | None = None,
    cohort_size: int | None = 5,
    availability: Availability | None = None,
    **options: Any,
) -> FederatedModule:
    """Train :class:`Layered` on workers with :class:`Points`, and return the FederatedModule.

    Args:
        algorithm: The algorithm.
        rounds: The number of rounds.
        module: The module; None: one with the same weights every time.
        population: The workers; None: six of them.
        cohort_size: The number of workers in a round.
        availability: The model of availability.
        options: Further arguments of the FederatedModule.
    """
    federated = FederatedModule(layered() if module is None else module, algorithm=algorithm, **options)
    data = FederatedDataModule(population or workers(), cohort_size=cohort_size, availability=availability)
    fit(federated, data, rounds)
    return federated


def memory(federated: FederatedModule) -> dict[str, Any]:
    """Return an algorithm's state as plain tensors: ``{"server": {name: tensor}, "workers": {table: {name: row}}}``.

    Args:
        federated: The FederatedModule after a fit.
    """
    return {"server": federated.server_state, "workers": federated.own_state}


def made_up(job: Job, names: Sequence[str], seed: int = 0) -> Updates:
    """Return synthetic updates.

    Args:
        job: The job of the updates.
        names: The n workers.
        seed: The seed of the numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(names)

    def normal() -> Tensor:
        return torch.randn(n, job.model.layout.size, generator=generator, dtype=job.model.layout.dtype)

    examples = torch.randint(1, 20, (n,), generator=generator).double()
    return Updates(
        cohort=job.cohort,
        workers=tuple(names),
        delta=normal(),
        buffers={
            name: b + torch.rand(n, *b.shape, generator=generator).to(b.dtype)
            if b.is_floating_point()
            else b.expand(n, *b.shape) + torch.arange(n).view(n, *(1 for _ in b.shape)).to(b.dtype)
            for name, b in job.model.buffers.items()
        },
        examples=examples,
        weight=examples.clone(),
        loss=torch.rand(n, generator=generator, dtype=torch.float64),
        steps=torch.randint(1, 5, (n,), generator=generator).double(),
        gradient=normal() if job.wants_gradient else None,
        extra={name: normal() for name in job.extra},
    )


def numbers(updates: Updates) -> dict[str, Any]:
    """The tensors of updates, by name."""
    names = ("delta", "buffers", "examples", "weight", "loss", "steps", "metrics", "metric_states", "rates", "extra")
    return {name: getattr(updates, name) for name in names}


def job_of(module: pl.LightningModule, extra: Sequence[str] = (), population: int = 6) -> Job:
    """Return the job that the server would send for a module.

    Args:
        module: The module.
        extra: See ``Job``.
        population: The number of workers.
    """
    parameters = {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    return Job(0, 0, 0, GlobalModel(parameters, buffers), LocalTraining(), population=population, extra=tuple(extra))
