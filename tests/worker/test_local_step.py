"""How a worker steps. By hand: ``Scalar`` with lr 1 goes from x to the batch's mean, where the gradient is x − mean."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from zoo import NETS, OPTIMIZERS, Points, Zoo

from lightning_fed.population import Worker
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Penalty, RecordPrivacy
from lightning_fed.worker.gradient_corrections import GradientCorrections
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.local_step import HookedStep, LocalStep, ManualStep, PlainStep, PrivateStep


class Hooked(Scalar):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Nothing."""


class ByLBFGS(Scalar):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


class ByHand(Scalar):
    automatic_optimization = False


class Layered(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def job_for(module: pl.LightningModule, **options: Any) -> Job:
    return Job(
        round=0,
        cohort=0,
        seed=0,
        model=GlobalModel(
            {name: p.detach().clone() for name, p in module.named_parameters() if p.requires_grad},
            {name: buffer.clone() for name, buffer in module.named_buffers()},
        ),
        local=LocalTraining(epochs=2),
        **options,
    )


RECORDS = {"record_privacy": RecordPrivacy(clip=1.0, noise_multiplier=1.0, sampling_rate=0.5)}


@pytest.mark.parametrize(
    ("make", "precision", "options", "kind"),
    [
        (Scalar, "32-true", {}, PlainStep),
        (Scalar, "bf16-mixed", {}, PlainStep),
        (Scalar, "32-true", {"penalty": Penalty(proximal=1.0)}, PlainStep),
        (Scalar, "16-mixed", {}, HookedStep),
        (Hooked, "32-true", {}, HookedStep),
        (ByHand, "32-true", {}, ManualStep),
        (ByLBFGS, "32-true", {}, HookedStep),
        (Layered, "32-true", RECORDS, PrivateStep),
    ],
)
def test_which_step_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[], pl.LightningModule],
    precision: str,
    options: dict[str, Any],
    kind: type[LocalStep],
) -> None:
    run = trainer()
    monkeypatch.setattr(run.precision_plugin, "precision", precision)
    fit = LocalFit(module := make(), run)
    batches = Worker("bob", Rows([1.0]), None).batches
    assert type(fit._step_for(job_for(module, **options), "bob", batches, None)) is kind


@pytest.mark.parametrize("make", [Scalar, Hooked])
def test_gradients_are_corrected_between_the_backward_pass_and_the_step(make: Callable[..., Any]) -> None:
    """The gradient 1 − 4 = −3 grows by 1: x goes from 1 to 1 + 2."""
    fit = LocalFit(module := make(x=1.0), trainer())
    job = job_for(module, penalty=Penalty(linear={"bob": torch.tensor([1.0])}))
    corrections = GradientCorrections.of(job, ["bob"], stacked=False)
    step = fit._step_for(job, "bob", Worker("bob", Rows([4.0]), None).batches, corrections)
    assert step([torch.tensor([4.0])], 0)["loss"] == 4.5
    assert fit.module.x == 3.0


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_hook_that_does_nothing_changes_no_bit(net: str, optimizer: str) -> None:
    class WithHook(Zoo):
        def on_after_backward(self) -> None:
            """Nothing."""

    def delta(kind: type[Zoo]) -> tuple[Tensor, float]:
        torch.manual_seed(0)
        module = kind(NETS[net](), OPTIMIZERS[optimizer])
        job = job_for(module, penalty=Penalty(proximal=0.1))
        row = job.model.layout.rows(1, torch.device("cpu"))[0]
        torch.manual_seed(1)
        worker = Worker("bob", Points(1, 12), None)
        worker.batches.reseed(2)
        loss = LocalFit(module, trainer()).train(job, worker, job.model.layout.unflatten(row)).loss
        return row, loss

    plain, hooked = delta(Zoo), delta(WithHook)
    assert torch.equal(plain[0], hooked[0])
    assert plain[1] == hooked[1]


class Images(pl.LightningDataModule):
    """Eight images of 3 × 6 × 6 in batches of four, in order."""

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(8, 3, 6, 6, generator=generator)
        return DataLoader(TensorDataset(x, torch.arange(8) % 3), batch_size=4)


SEEN: list[Any] = []  # outside of the module and its class, since what training changes on them is set back


class Convolution(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        SEEN.clear()

    @property
    def seen(self) -> list[Any]:
        return SEEN

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        kernel = self.net[0].weight
        logits = self.net(x)
        is_last = [t.is_contiguous(memory_format=torch.channels_last) for t in (x, kernel)]
        self.seen.append((logits.dtype, *is_last))
        return nn.functional.cross_entropy(logits, y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_mixed_precision_with_channels_last_is_the_loop_by_hand_bit_for_bit() -> None:
    """Casts, layouts and gradients are autocast's, and nothing of ours lies between."""
    torch.manual_seed(0)
    module, data = Convolution(), Images()
    job = job_for(module)
    row = job.model.layout.rows(1, torch.device("cpu"))[0]
    fit = LocalFit(module, trainer(precision="bf16-mixed"), channels_last=True)
    fit.train(job, Worker("bob", data, None), job.model.layout.unflatten(row))
    assert module.seen == 4 * [(torch.bfloat16, True, True)]

    net = copy.deepcopy(module.net).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for x, y in 2 * list(data.train_dataloader()):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), y)
        loss.backward()
        optimizer.step()
    by_hand = {f"net.{name}": p.detach() for name, p in net.named_parameters()}
    assert torch.equal(row, job.model.vector - job.model.layout.flatten(by_hand))
