"""``precision="16-mixed"``, which scales losses: what a module's hooks see and do there is what a plain Trainer has."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, trainer
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedProx

SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def _seen() -> None:
    SEEN.clear()


def in_half(**options: Any) -> pl.Trainer:
    """A Trainer in 16-mixed, with the scale that workers begin with: Lightning's own skips the first steps."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    return trainer(plugins=[MixedPrecision("16-mixed", "cpu", scaler)], **options)


class Layered(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0][:, None]).float().pow(2).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Counts(Layered):
    def optimizer_step(self, *arguments: Any, **options: Any) -> Any:
        SEEN.append("step")
        return super().optimizer_step(*arguments, **options)


class WarmsUp(Layered):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (batch_idx + 1)
        optimizer.step(closure=optimizer_closure)


class EverySecond(Layered):
    """Accumulates gradients over two batches."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        if batch_idx % 2 == 0:
            optimizer.zero_grad()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2 == 0:
            optimizer_closure()
        else:
            optimizer.step(closure=optimizer_closure)


class ClosesTwice(Layered):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()
        optimizer.step(closure=optimizer_closure)


class StepsTwice(Layered):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)
        optimizer.step(closure=optimizer_closure)


class SkipsABatch(Counts):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return None if batch_idx == 1 else super().training_step(batch, batch_idx)


class Clips(Counts):
    def on_before_optimizer_step(self, optimizer: Any) -> None:
        SEEN.append([round(p.grad.item(), 2) for p in self.parameters() if p.grad is not None])

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        nn.utils.clip_grad_norm_(self.parameters(), 0.5)


@pytest.mark.parametrize(
    "kind", [Layered, Counts, WarmsUp, EverySecond, ClosesTwice, StepsTwice, Clips], ids=lambda k: k.__name__
)
def test_hooks_are_called_and_steps_taken_as_in_a_trainer(kind: type[Layered]) -> None:
    plain = kind()
    in_half(max_epochs=1).fit(plain, Rows([1.0, 2.0, 3.0, 4.0], batch_size=1))
    seen, SEEN[:] = list(SEEN), []
    ours = kind()
    data = FederatedDataModule({"a": Rows([1.0, 2.0, 3.0, 4.0], batch_size=1)})
    in_half(max_epochs=1).fit(FederatedModule(ours, engine="sequential"), data)
    assert seen == SEEN
    # The server's step is plus one minus the other, in float32: a rounding of each.
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-6)
    assert not torch.equal(ours.layer.bias, torch.zeros(1))


@pytest.mark.filterwarnings("ignore:.*whose step was skipped")
def test_a_batch_without_a_loss_is_skipped_there() -> None:
    ours = SkipsABatch()
    data = FederatedDataModule({"a": Rows([1.0, 2.0, 3.0], batch_size=1)})
    in_half(max_epochs=1).fit(FederatedModule(ours, engine="sequential"), data)
    assert SEEN == 3 * ["step"]
    weight, bias = 0.5, 0.0
    for x in (1.0, 3.0):
        slope = 2 * (weight * x + bias)
        weight, bias = weight - 0.1 * slope * x, bias - 0.1 * slope
    assert ours.layer.weight.item() == pytest.approx(weight, rel=5e-3)  # half precision has 11 bits


def test_what_an_algorithm_adds_to_gradients_is_not_scaled() -> None:
    """FedProx adds μ(w − global): nothing in a first step, and in a second what it adds in 32 bits."""

    def after(kind: type[Layered], run: pl.Trainer) -> Tensor:
        ours = kind()
        data = FederatedDataModule({"a": Rows([1.0, 2.0], batch_size=1)})
        run.fit(FederatedModule(ours, algorithm=FedProx(2.0), engine="sequential"), data)
        return ours.layer.weight.detach()

    in_full = after(Counts, trainer(max_epochs=1))
    torch.testing.assert_close(after(Counts, in_half(max_epochs=1)), in_full, rtol=5e-3, atol=0.0)
    assert len(SEEN) == 4


@pytest.mark.parametrize("by_hand", [False, True])
def test_lbfgs_is_refused_at_the_start_as_a_trainer_refuses_it(by_hand: bool) -> None:
    class ByLBFGS(Layered):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not by_hand

        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise AssertionError("it is refused before a worker trains")

    with pytest.raises(ValueError, match=r"precision='16-mixed' scales losses, which goes with no LBFGS"):
        in_half(max_epochs=1).fit(FederatedModule(ByLBFGS()), FederatedDataModule({"a": Rows([1.0])}))
