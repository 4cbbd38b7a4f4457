"""Callbacks of Lightning and of users, which take the FederatedModule for the user's own module.

By hand: with ``Split`` the model is ``backbone + head``, and every gradient is that of (backbone + head − mean)²/2.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, fit, trainer
from pytorch_lightning.callbacks import BackboneFinetuning, StochasticWeightAveraging
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Ditto, FedAvg, FedProx, Scaffold

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["auto", "sequential"])


class Shift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


class Split(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Shift(), Shift()
        self.names = ["head"]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (values,) = batch
        return (self.head(self.backbone(torch.zeros(()))) - values.mean()).square() / 2

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.25)

    def greet(self, name: str) -> str:
        return f"hello {name} from {type(self).__name__}"


def people(rounds_per_epoch: int = 1) -> FederatedDataModule:
    return FederatedDataModule(
        {"a": Rows([4.0, 4.0], batch_size=1), "b": Rows([8.0], batch_size=1)}, rounds_per_epoch=rounds_per_epoch
    )


def test_callbacks_reach_the_users_module() -> None:
    class Reaches(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            assert pl_module.backbone is pl_module.module.backbone
            assert trainer.lightning_module.head is pl_module.module.head
            assert pl_module.greet("you") == "hello you from Split"
            pl_module.names = ["backbone"]
            pl_module.mine = 1
            with pytest.raises(AttributeError, match="'Split' object has no attribute 'nothing'"):
                pl_module.nothing  # noqa: B018 - it raises

    fed = FederatedModule(module := Split())
    fit(fed, people(), callbacks=[Reaches()])
    assert module.names == ["backbone"]
    assert module.mine == 1, "as in a plain Trainer, whose callbacks have the module itself"


every_engine = pytest.mark.parametrize("engine", ["auto", "sequential", "vectorized", "isolated"], indirect=True)


@every_engine
def test_backbone_finetuning_trains_the_backbone_from_the_round_on_in_which_it_is_unfrozen(engine: Any) -> None:
    callback = BackboneFinetuning(
        unfreeze_backbone_at_epoch=2, lambda_func=lambda epoch: 1.0, backbone_initial_lr=1.0, should_align=False
    )
    states = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            states.append((pl_module.backbone.by.item(), pl_module.head.by.item()))

    fit(FederatedModule(module := Split(), engine=engine), people(), max_epochs=4, callbacks=[callback, Watch()])
    backbone = head = 0.0
    for epoch, state in enumerate(states):
        ends = []
        for rows, weight in (([4.0, 4.0], 2 / 3), ([8.0], 1 / 3)):
            b, h = backbone, head
            for value in rows:
                gradient = b + h - value
                b, h = b - 0.25 * gradient * (epoch >= 2), h - 0.25 * gradient
            ends.append((weight, b, h))
        backbone, head = sum(w * b for w, b, _ in ends), sum(w * h for w, _, h in ends)
        assert_equal(state, (backbone, head))
    assert states[1][0] == 0.0
    assert states[2][0] > 0.5
    assert module.backbone.by.item() == states[3][0]


@every_engine
def test_a_layer_that_is_frozen_between_rounds_is_trained_by_no_worker_from_then_on(engine: Any) -> None:
    """Both layers go a quarter of the way to 4, which is 1; then the backbone alone a quarter of the other 2."""

    class Freeze(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.head.requires_grad_(trainer.current_epoch == 0)

    data = FederatedDataModule({"a": Rows([4.0]), "b": Rows([4.0])})
    fed = FederatedModule(module := Split(), engine=engine)
    fit(fed, data, max_epochs=2, callbacks=[Freeze()])
    assert (module.backbone.by.item(), module.head.by.item()) == (1.5, 1.0)


@pytest.mark.parametrize(
    ("algorithm", "works"), [(FedAvg(), True), (FedProx(mu=0.1), True), (Scaffold(), False), (Ditto(lam=0.1), False)]
)
def test_layers_are_frozen_in_a_fit_only_if_nothing_is_remembered_about_them(algorithm: Any, works: bool) -> None:
    class Freeze(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.head.requires_grad_(trainer.current_epoch == 0)

    fed = FederatedModule(Split(), algorithm)
    expected: Any = pytest.raises(ValueError, match=r"remembers numbers of the trained parameters, and 'head.by' was")
    with nullcontext() if works else expected:
        fit(fed, people(), max_epochs=2, callbacks=[Freeze()])
    with nullcontext() if works else expected:  # nor is another fit given what is remembered
        fit(fed, people())


class Normed(Scalar):
    """A BatchNorm of the data, whose mean and variance are known, beside x."""

    def __init__(self) -> None:
        super().__init__(lr=0.5)
        self.norm = nn.BatchNorm1d(1, affine=False)
        type(self).momenta = []  # on the class, since what training changes on the module is set back

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.momenta.append(self.norm.momentum)
        self.norm(batch[0].unsqueeze(1))
        return super().training_step(batch, batch_idx)


def batches() -> FederatedDataModule:
    """Batches with the means 2 and 4 for a, and 6 and 8 for b; all with an unbiased variance of 2."""
    return FederatedDataModule(
        {"a": Rows([1.0, 3.0, 3.0, 5.0], batch_size=2), "b": Rows([5.0, 7.0, 7.0, 9.0], batch_size=2)}
    )


@engines
def test_weight_averaging_renews_the_running_statistics(engine: Any) -> None:
    """The last pass, with momentum None, averages all batches: 3 and 7, and 5 for both; no batch of old counts."""
    module = Normed()
    swa = StochasticWeightAveraging(swa_lrs=1.0, swa_epoch_start=2)
    fit(FederatedModule(module, engine=engine), batches(), max_epochs=4, callbacks=[swa])
    assert module.momenta[-1] is None
    assert module.momenta[0] == module.norm.momentum == 0.1
    assert module.norm.running_mean is not None
    assert module.norm.running_var is not None
    assert_equal(module.norm.running_mean, torch.tensor([5.0]))
    assert_equal(module.norm.running_var, torch.tensor([2.0]))
    assert module.norm.num_batches_tracked == 2


class Student(pl.LightningModule):
    """A teacher follows the student by half of the way at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(3, 3), nn.Linear(3, 3).requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (values,) = batch
        with torch.no_grad():
            for own, followed in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                own.lerp_(followed, 0.5)
        x = values.view(-1, 1).expand(-1, 3)
        return nn.functional.mse_loss(self.student(x), self.teacher(x) + x)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.student.parameters(), lr=0.01)


@engines
def test_a_teacher_goes_on_from_a_checkpoint_bit_for_bit(engine: Any, tmp_path: Path) -> None:
    """Which of the frozen parameters have moved is in the checkpoint: those go by the aggregator, as buffers do."""

    def run(rounds: int, resume: str | None = None) -> tuple[pl.LightningModule, pl.Trainer]:
        torch.manual_seed(0)
        module = Student()
        data = {name: Rows([1.0, 2.0 + seed, 3.0], batch_size=1) for seed, name in enumerate("abcde")}
        run = trainer(max_steps=rounds)
        run.fit(FederatedModule(module, engine=engine), FederatedDataModule(data), ckpt_path=resume)
        return module, run

    whole, _ = run(4)
    run(2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = run(4, str(tmp_path / "half.ckpt"))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
