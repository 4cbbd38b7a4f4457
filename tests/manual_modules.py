"""Modules that step their optimizers themselves, each in another way that Lightning's documentation or users show.

All are small, draw nothing, and take batches ``(x, y)`` of float rows, ``[n, 3]`` and ``[n, 1]``.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl


class Pairs(pl.LightningDataModule):
    """Rows of x and of y, which is a linear function of x; the seed says which rows."""

    def __init__(self, seed: int, rows: int = 12, batch_size: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(rows, 3, generator=generator, dtype=torch.get_default_dtype())
        self.y = self.x.sum(dim=1, keepdim=True) + seed
        self.batch_size = batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(self.x, self.y), self.batch_size)


class Manual(pl.LightningModule):
    """A linear model, and one optimizer stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        torch.manual_seed(1)
        self.net = nn.Linear(3, 1)

    def error(self, batch: Any) -> Tensor:
        return mse_loss(self.net(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.error(batch)
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Adversarial(Manual):
    """A generator and a discriminator in turn, each with the other one's gradients switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.critic = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        generator, critic = self.optimizers()
        x, y = batch
        self.toggle_optimizer(critic)
        loss = self.critic(y).mean() ** 2 + (self.critic(self.net(x).detach()).mean() - 1) ** 2
        critic.zero_grad()
        self.manual_backward(loss)
        critic.step()
        self.untoggle_optimizer(critic)
        with generator.toggle_model():
            loss = self.critic(self.net(x)).mean() ** 2 + self.error(batch)
            generator.zero_grad()
            self.manual_backward(loss)
            generator.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=0.01), torch.optim.SGD(self.critic.parameters(), lr=0.1)


class Scheduled(Adversarial):
    """The same with a scheduler for each, stepped by hand: by steps and by epochs."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        by_steps, _ = self.lr_schedulers()
        by_steps.step()

    def on_train_epoch_end(self) -> None:
        self.lr_schedulers()[1].step()

    def configure_optimizers(self) -> Any:
        generator, critic = super().configure_optimizers()
        by_steps = torch.optim.lr_scheduler.ExponentialLR(generator, 0.7)
        by_epochs = torch.optim.lr_scheduler.StepLR(critic, 1, gamma=0.5)
        return [generator, critic], [by_steps, {"scheduler": by_epochs, "interval": "epoch"}]


class InDicts(Scheduled):
    """The same in the other form of ``configure_optimizers``."""

    def configure_optimizers(self) -> Any:
        (generator, critic), (by_steps, by_epochs) = super().configure_optimizers()
        return (
            {"optimizer": generator, "lr_scheduler": by_steps},
            {"optimizer": critic, "lr_scheduler": by_epochs},
        )


class Accumulating(Manual):
    """Steps on every second batch, clips by hand, and never forgets gradients before its first backward pass."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.error(batch) / 2)
        if batch_idx % 2 == 1:
            self.clip_gradients(optimizer, gradient_clip_val=0.1, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()


class ByClosure(Manual):
    """Passes a closure, which LBFGS evaluates several times."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = self.error(batch)
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)
        return {"loss": self.error(batch), "batch": batch_idx}

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


class Hooked(Manual):
    """Has a hand in each of the hooks that a Trainer calls in manual optimization, and in one that it does not."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(1.0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        loss = self.error(batch)
        self.manual_backward(loss, retain_graph=True)
        self.manual_backward(loss)
        optimizer.step()
        return loss

    def backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        (2 * loss).backward(*arguments, **options)

    def on_before_backward(self, loss: Tensor) -> None:
        self.scale.fill_(0.5)

    def on_after_backward(self) -> None:
        for parameter in self.parameters():
            parameter.grad.mul_(self.scale)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad.add_(0.01)

    def optimizer_step(self, *arguments: Any) -> None:
        raise AssertionError("a Trainer does not call it in manual optimization")


class Unwrapped(Manual):
    """Steps torch's own optimizer, and runs the backward pass itself."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.error(batch).backward()
        optimizer.step()


class ByHand(Manual):
    """Has no optimizer at all."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.error(batch)
        for parameter, gradient in zip(
            self.parameters(), torch.autograd.grad(loss, list(self.parameters())), strict=True
        ):
            parameter.data.sub_(gradient, alpha=0.05)
        return loss

    def configure_optimizers(self) -> None:
        return None


class WithTeacher(Manual):
    """A student, and a teacher that follows it after every step, as in BYOL and in a DQN's target network."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def error(self, batch: Any) -> Tensor:
        return mse_loss(self.net(batch[0]), self.teacher(batch[0]) + batch[1])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for own, theirs in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            own.data.lerp_(theirs.data, 0.1)


class AlternatingDirections(Manual):
    """ADMM: two blocks of parameters in turn, and dual variables in a buffer, which no optimizer moves."""

    def __init__(self) -> None:
        super().__init__()
        self.split = nn.Parameter(torch.zeros(1, 3))
        self.register_buffer("dual", torch.zeros(1, 3))

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            gap = self.net.weight - self.split + self.dual
            self.manual_backward(self.error(batch) + self.split.abs().sum() + gap.square().sum())
            optimizer.step()
        self.dual += (self.net.weight - self.split).detach()
        self.log("gap", self.dual.abs().sum())

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net.parameters(), lr=0.05), torch.optim.SGD([self.split], lr=0.02)]


class OfParts(Manual):
    """Leaves the step to a part of it, which asks for its optimizer and scheduler itself."""

    def __init__(self) -> None:
        super().__init__()
        del self.net
        self.part = Manual()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.part.training_step(batch, batch_idx)
        self.part.lr_schedulers().step()
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = self.part.configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)]


class ThroughStrategy(Manual):
    """Finds its optimizer where Lightning keeps it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (optimizer,) = self.trainer.strategy.optimizers
        optimizer.zero_grad()
        self.manual_backward(self.error(batch))
        optimizer.step()


class OnPlateaus(Manual):
    """Steps a ReduceLROnPlateau on what it has logged, as Lightning's documentation of manual optimization does."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("mean", loss, on_step=False, on_epoch=True)
        self.log("last", loss)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        self.lr_schedulers().step(self.trainer.callback_metrics["last"])

    def on_train_epoch_end(self) -> None:
        metrics = self.trainer.callback_metrics
        self.lr_schedulers().step(metrics["mean"] + metrics["last"])

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


KINDS = (
    *(Manual, Adversarial, Scheduled, InDicts, Accumulating, ByClosure, Hooked, Unwrapped, ByHand, WithTeacher),
    *(AlternatingDirections, OfParts, ThroughStrategy, OnPlateaus),
)
