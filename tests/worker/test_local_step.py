"""How a worker steps. By hand: ``Scalar`` with lr 1 goes from x to the batch's mean, where the gradient is x − mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, trainer
from torch import Tensor, nn
from zoo import NETS, OPTIMIZERS, Points, Zoo

from lightning_fed.population import Worker
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Penalty, RecordPrivacy
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.local_step import HookedStep, LocalStep, PlainStep, PrivateStep


class Hooked(Scalar):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Nothing."""


class ByLBFGS(Scalar):
    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters())


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
    assert type(fit._step_for(job_for(module, **options), Worker("bob", Rows([1.0]), None), ())) is kind


@pytest.mark.parametrize("make", [Scalar, Hooked])
def test_changes_of_gradients_come_in_order_between_the_backward_pass_and_the_step(make: Callable[..., Any]) -> None:
    """The gradient 1 − 4 = −3 is doubled and then grows by 1: x goes from 1 to 1 + 5."""
    fit = LocalFit(module := make(x=1.0), trainer())
    x = fit.module.x

    def double() -> None:
        x.grad.mul_(2.0)

    def grow() -> None:
        x.grad.add_(1.0)

    step = fit._step_for(job_for(module), Worker("bob", Rows([4.0]), None), (double, grow))
    assert step([torch.tensor([4.0])], 0)["loss"] == 4.5
    assert x == 6.0


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
