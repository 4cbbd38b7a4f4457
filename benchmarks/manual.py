"""Cost of manual optimization beyond a hand-written loop: a DCGAN-like pair, federated over 8 workers.

    python benchmarks/manual.py [--rounds 30] [--threads 1]

Prints the medians of both, measured in turn in one process, and the median of the ratios round by round. Generator and
discriminator (Radford et al. 2016: strided convolutions, BatchNorm, Adam with beta 0.5) are each trained on four
batches of 32 grey images of 16 x 16 pixels in every worker. The loop does the same arithmetic: local steps on shuffled
batches, the weighted mean of global - local and of the BatchNorm statistics. It has no data loaders, no logging, no
check for NaN, and no randomness that can be repeated.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.engines import Sequential

WORKERS, IMAGES, BATCH, NOISE = 8, 128, 32, 64


def images(worker: int) -> Tensor:
    """Images of one worker: blurred noise, in [-1, 1]."""
    generator = torch.Generator().manual_seed(worker)
    return torch.tanh(nn.functional.avg_pool2d(torch.randn(IMAGES, 1, 18, 18, generator=generator), 3, 1) * 3)


def generator() -> nn.Module:
    return nn.Sequential(
        *(nn.ConvTranspose2d(NOISE, 64, 4), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Tanh()),
    )


def discriminator() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 4, 2, 1), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2)),
        *(nn.Conv2d(64, 1, 4), nn.Flatten()),
    )


def optimizers(first: nn.Module, second: nn.Module) -> list[torch.optim.Optimizer]:
    return [torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in (first, second)]


class GAN(pl.LightningModule):
    """The pair as a user writes it for a plain Trainer."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(0)
        self.generator, self.discriminator = generator(), discriminator()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        (real,) = batch
        of_generator, of_discriminator = self.optimizers()
        fake = self.generator(torch.randn(len(real), NOISE, 1, 1, device=self.device))
        self.toggle_optimizer(of_discriminator)
        scores = self.discriminator(real), self.discriminator(fake.detach())
        loss = cross_entropy(scores[0], torch.ones_like(scores[0]))
        loss = loss + cross_entropy(scores[1], torch.zeros_like(scores[1]))
        of_discriminator.zero_grad()
        self.manual_backward(loss)
        of_discriminator.step()
        self.untoggle_optimizer(of_discriminator)
        self.toggle_optimizer(of_generator)
        score = self.discriminator(fake)
        loss = cross_entropy(score, torch.ones_like(score))
        of_generator.zero_grad()
        self.manual_backward(loss)
        of_generator.step()
        self.untoggle_optimizer(of_generator)

    def configure_optimizers(self) -> Any:
        return optimizers(self.generator, self.discriminator)


class Images(pl.LightningDataModule):
    def __init__(self, worker: int) -> None:
        super().__init__()
        self.images = images(worker)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.images), BATCH, shuffle=True)


class RawLoop:
    """The same in a hand-written loop."""

    def __init__(self) -> None:
        self.data = [images(worker) for worker in range(WORKERS)]
        torch.manual_seed(0)
        self.generator, self.discriminator = generator(), discriminator()
        pair = (self.generator, self.discriminator)
        self.tensors = [t.detach() for part in pair for t in (*part.parameters(), *part.buffers())]

    def round(self) -> None:
        start = [tensor.clone() for tensor in self.tensors]
        total = [torch.zeros_like(tensor) for tensor in start]
        for real in self.data:
            torch._foreach_copy_(self.tensors, start)
            pair = optimizers(self.generator, self.discriminator)
            for rows in torch.randperm(IMAGES).split(BATCH):
                self.step(real[rows], *pair)
            for sum_, before, after in zip(total, start, self.tensors, strict=True):
                sum_ += (before - after) * IMAGES
        for tensor, before, sum_ in zip(self.tensors, start, total, strict=True):
            tensor.copy_(before - sum_ / (IMAGES * WORKERS))

    def step(self, real: Tensor, of_generator: Any, of_discriminator: Any) -> None:
        fake = self.generator(torch.randn(len(real), NOISE, 1, 1))
        scores = self.discriminator(real), self.discriminator(fake.detach())
        loss = cross_entropy(scores[0], torch.ones_like(scores[0]))
        loss = loss + cross_entropy(scores[1], torch.zeros_like(scores[1]))
        of_discriminator.zero_grad()
        loss.backward()
        of_discriminator.step()
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(False)
        score = self.discriminator(fake)
        loss = cross_entropy(score, torch.ones_like(score))
        of_generator.zero_grad()
        loss.backward()
        of_generator.step()
        for parameter in self.discriminator.parameters():
            parameter.requires_grad_(True)


class Interleave(pl.Callback):
    """After every round of ours, one of the loop; times both."""

    def __init__(self) -> None:
        self.loop = RawLoop()
        self.ours: list[float] = []
        self.raw: list[float] = []
        self._since = 0.0

    def on_train_start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        since = time.perf_counter()
        self.ours.append(since - self._since)
        self.loop.round()
        self._since = time.perf_counter()
        self.raw.append(self._since - since)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    timer = Interleave()
    data = FederatedDataModule({f"worker_{i}": Images(i) for i in range(WORKERS)})
    with tempfile.TemporaryDirectory() as logs:
        pl.Trainer(
            max_steps=options.rounds,
            accelerator="cpu",
            default_root_dir=logs,
            callbacks=[timer],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(FederatedModule(GAN(), engine=Sequential()), data)
    ours, raw = timer.ours[2:], timer.raw[2:]
    ratio = statistics.median(own / loop for own, loop in zip(ours, raw, strict=True))
    print(
        f"{WORKERS} workers, {options.threads} threads, medians of {len(ours)} rounds: lightning_fed "
        f"{1e3 * statistics.median(ours):.1f} ms, hand-written loop {1e3 * statistics.median(raw):.1f} ms; "
        f"ratio round by round {ratio:.3f}"
    )


if __name__ == "__main__":
    main()
