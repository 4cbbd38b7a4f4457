"""Layers that are frozen and unfrozen during a fit: at the workers, in the server's optimizer, in checkpoints.

The oracle is a plain Trainer on one worker's data: with a single full batch a round is a plain step, whatever the
callback does to the learning rates of the server's optimizer, which multiply the worker's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, assert_equal, fit, trainer
from pytorch_lightning.callbacks import BackboneFinetuning, BaseFinetuning
from torch import Tensor, nn

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.engines import Isolated
from lightning_fed.privacy import DPFTRL, BufferedToeplitz, CentralDP

pytestmark = [
    pytest.mark.usefixtures("double"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]


class Net(pl.LightningModule):
    """With a backbone, a head, and an optimizer over some of the parameters."""

    def __init__(self, optimized: Callable[[Any], Any] = lambda module: module.parameters()) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(1, 3), nn.Tanh())
        self.head = nn.Linear(3, 1)
        self._optimized = optimized

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0].unsqueeze(1)
        return (self.head(self.backbone(x)) - 2 * x).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self._optimized(self), lr=0.1)


def everything(module: Any) -> Any:
    return module.parameters()


def trainable(module: Any) -> Any:
    return [p for p in module.parameters() if p.requires_grad]


def head(module: Any) -> Any:
    """As in the docstring of BackboneFinetuning: the callback gives the Trainer's optimizer the rest."""
    return module.head.parameters()


class Callback(BaseFinetuning):
    """Freezes the backbone, and unfreezes a half of it in epoch 2."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 2:
            self.unfreeze_and_add_param_group(pl_module.backbone[0], optimizer)


class Switch(pl.Callback):
    """Says by the epoch whether the backbone is trained, and does no more."""

    def __init__(self, trains: Callable[[int], bool]) -> None:
        self._trains = trains

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.backbone.requires_grad_(self._trains(trainer.current_epoch))


def backbone_finetuning() -> pl.Callback:
    return BackboneFinetuning(unfreeze_backbone_at_epoch=2, lambda_func=lambda epoch: 1.5)


class Unfreeze(Switch):
    """Has the backbone frozen before optimizers are made, and then unfreezes it by ``requires_grad`` alone."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        pl_module.backbone.requires_grad_(False)


CALLBACKS: dict[str, tuple[Callable[[], pl.Callback], tuple[Callable[[Any], Any], ...]]] = {
    "BackboneFinetuning": (backbone_finetuning, (trainable, head)),
    "BaseFinetuning": (Callback, (trainable, head)),
    "unfreezes": (lambda: Unfreeze(lambda epoch: epoch >= 2), (everything,)),
    "freezes": (lambda: Switch(lambda epoch: epoch < 2), (everything, trainable)),
    "freezes for a while": (lambda: Switch(lambda epoch: epoch not in (1, 2)), (everything,)),
}
CASES = [(make, optimized) for make, optimizers in CALLBACKS.values() for optimized in optimizers]
callbacks = pytest.mark.parametrize(
    ("callback", "optimized"), CASES, ids=[f"{n}-{o.__name__}" for n, (_, os) in CALLBACKS.items() for o in os]
)
ROWS = [1.0, -2.0, 0.5]


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=1.0)


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=0.1)


def run(
    module: pl.LightningModule,
    callback: pl.Callback,
    engine: Any = "sequential",
    epochs: int = 5,
    ckpt: Path | None = None,
    server_optimizer: Any = sgd,
) -> pl.Trainer:
    fed = FederatedModule(module, engine=engine, server_optimizer=server_optimizer)
    fit = trainer(max_epochs=epochs, callbacks=[callback])
    fit.fit(fed, FederatedDataModule({"a": Rows(ROWS)}), ckpt_path=ckpt)
    return fit


def assert_one_worker_is_a_plain_fit(engine: Any, callback: Any, optimized: Any) -> None:
    plain = Net(optimized)
    trainer(max_epochs=5, callbacks=[callback()]).fit(plain, Rows(ROWS))
    run(module := Net(optimized), callback(), engine)
    assert_equal(dict(module.state_dict()), dict(plain.state_dict()))
    start = Net().state_dict()
    assert all(not torch.equal(tensor, start[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@callbacks
def test_one_worker_is_a_plain_fit(engine: str, callback: Any, optimized: Any) -> None:
    assert_one_worker_is_a_plain_fit(engine, callback, optimized)


def test_so_it_is_in_a_process_of_its_own(isolated: Isolated) -> None:
    assert_one_worker_is_a_plain_fit(isolated, backbone_finetuning, head)


@pytest.mark.parametrize("server_optimizer", [pytest.param(sgd, marks=pytest.mark.slow), adam])
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@callbacks
def test_a_run_goes_on_bit_for_bit(
    tmp_path: Path, engine: str, callback: Any, optimized: Any, server_optimizer: Any
) -> None:
    """From before the switch, just at it, and after it: Lightning itself leaves the backbone frozen then."""
    run(whole := Net(optimized), callback(), engine, server_optimizer=server_optimizer)
    for epochs in (1, 2, 3, 4):
        stopped = run(Net(optimized), callback(), engine, epochs, server_optimizer=server_optimizer)
        stopped.save_checkpoint(tmp_path / "it.ckpt")
        stopped = run(resumed := Net(optimized), callback(), engine, 5, tmp_path / "it.ckpt", server_optimizer)
        torch.testing.assert_close(
            resumed.state_dict(), whole.state_dict(), rtol=0, atol=0, msg=lambda m, n=epochs: f"{n}: {m}"
        )
        flags = [p.requires_grad for p in whole.parameters()]
        assert [p.requires_grad for p in resumed.parameters()] == flags
    stopped.save_checkpoint(tmp_path / "it.ckpt")  # which has itself gone on from another
    run(resumed := Net(optimized), callback(), engine, 6, tmp_path / "it.ckpt", server_optimizer)
    run(whole := Net(optimized), callback(), engine, 6, server_optimizer=server_optimizer)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


class SavesInTheMiddle(Unfreeze):
    def __init__(self, path: Path) -> None:
        super().__init__(lambda epoch: epoch >= 2)
        self._path = path

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == 2:
            trainer.save_checkpoint(self._path)


def test_it_goes_on_from_the_middle_of_the_round_in_which_layers_are_unfrozen(tmp_path: Path) -> None:
    run(whole := Net(), SavesInTheMiddle(tmp_path / "it.ckpt"), server_optimizer=adam)
    callback = Unfreeze(lambda epoch: epoch >= 2)
    run(resumed := Net(), callback, ckpt=tmp_path / "it.ckpt", server_optimizer=adam)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_run_with_other_layers_frozen_from_the_start_does_not_go_on(tmp_path: Path) -> None:
    run(Net(), backbone_finetuning(), epochs=1).save_checkpoint(tmp_path / "it.ckpt")
    with pytest.raises(ValueError, match=r"'backbone.0.bias' is trained from the start of this run, and was frozen"):
        run(Net(), pl.Callback(), ckpt=tmp_path / "it.ckpt")


# ---- code that runs at the workers ---------------------------------------------------------------------------------


class UnfreezesItself(Net):
    def __init__(self, hook: str) -> None:
        super().__init__()
        self.backbone.requires_grad_(False)
        self._hook = hook

    def on_train_epoch_start(self) -> None:
        if self._hook == "on_train_epoch_start" and self.current_epoch == 1:
            self.backbone.requires_grad_(True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self._hook == "training_step" and self.current_epoch == 1:
            self.unfreeze()
        return super().training_step(batch, batch_idx)


class UnfreezesInAStep(UnfreezesItself):
    on_train_epoch_start = pl.LightningModule.on_train_epoch_start  # a hook of its own goes one by one


@pytest.mark.parametrize(
    ("module", "engine"),
    [
        (lambda: UnfreezesItself("on_train_epoch_start"), "sequential"),
        (lambda: UnfreezesItself("training_step"), "sequential"),
        (lambda: UnfreezesInAStep("training_step"), "vectorized"),
    ],
    ids=["in a hook", "in a step", "together"],
)
def test_a_worker_that_unfreezes_a_layer_is_refused(module: Any, engine: str) -> None:
    with pytest.raises(WorkerError, match=r"'a' failed in round 1.*unfrozen 'backbone.0.weight'.*hook of a callback"):
        run(module(), pl.Callback(), engine)


def test_a_worker_may_freeze_and_unfreeze_what_is_trained() -> None:
    """As GANs do within a step."""

    class Toggles(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.backbone.requires_grad_(False)
            loss = super().training_step(batch, batch_idx)
            self.backbone.requires_grad_(True)
            return loss

    run(module := Toggles(), pl.Callback(), epochs=1)
    assert torch.equal(module.backbone[0].weight, Net().backbone[0].weight)
    assert not torch.equal(module.head.weight, Net().head.weight)


def test_several_workers_train_what_is_unfrozen() -> None:
    fed = FederatedModule(module := Net(head))
    data = FederatedDataModule({name: Rows([value, 1.0]) for name, value in zip("abc", (1.0, 2.0, 3.0), strict=True)})
    fit(fed, data, max_epochs=3, callbacks=[backbone_finetuning()])
    assert not torch.equal(module.backbone[0].weight, Net().backbone[0].weight)


# ---- what cannot go on with other numbers --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:DPFTRL|noise comes from the seed")
@pytest.mark.parametrize("factorization", [None, BufferedToeplitz()], ids=["tree", "factorized"])
def test_noise_that_goes_on_over_rounds_is_about_the_same_layers(factorization: Any) -> None:
    promise = DPFTRL(clip=1.0, noise_multiplier=1.0, factorization=factorization)
    data = FederatedDataModule({f"w{i}": Rows([i, 1.0]) for i in range(6)}, cohort_size=2, rounds_per_epoch=1)
    with pytest.raises(ValueError, match="4 numbers were trained in the rounds before, and now there are 10, but"):
        fit(FederatedModule(Net(), privacy=promise), data, max_epochs=4, callbacks=[backbone_finetuning()])


@pytest.mark.filterwarnings("ignore:CentralDP|noise comes from the seed")
def test_under_a_promise_a_layer_that_is_frozen_stays_as_it_is() -> None:
    states = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            states.append(pl_module.backbone[0].weight.detach().clone())

    data = FederatedDataModule({f"w{i}": Rows([i, 1.0]) for i in range(6)}, cohort_size=3, rounds_per_epoch=1)
    fed = FederatedModule(Net(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0))
    fit(fed, data, max_epochs=4, callbacks=[Switch(lambda epoch: epoch < 2), Watch()])
    assert not torch.equal(states[0], states[1])
    assert torch.equal(states[1], states[3])


# ---- parameters in place of others -----------------------------------------------------------------------------------


class Thresholds(Net):
    """Puts another parameter in place of one before each validation, as ``ParameterDict.update()`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = nn.ParameterDict({"high": torch.zeros(())})

    def on_validation_start(self) -> None:
        self.limits.update({"high": self.head.weight.detach().max()})

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("high", self.limits["high"])


class Late(pl.Callback):
    """Trains the backbone from epoch 2 on."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.backbone.requires_grad_(trainer.current_epoch >= 2)


def thresholds(epochs: int, ckpt_path: Path | None = None) -> tuple[FederatedModule, pl.Trainer]:
    fed, run = FederatedModule(Thresholds()), trainer(max_epochs=epochs, callbacks=[Late()])
    run.fit(fed, FederatedDataModule({"ann": EvaluatedRows([1.0, 2.0])}), ckpt_path=ckpt_path)
    return fed, run


def test_a_hook_may_put_another_parameter_in_place_of_one(tmp_path: Path) -> None:
    plain = Thresholds()
    trainer(max_epochs=4, callbacks=[Late()]).fit(plain, EvaluatedRows([1.0, 2.0]))
    fed, _ = thresholds(4)
    assert plain.limits["high"] != 0
    assert_equal(fed.module.state_dict(), plain.state_dict())
    _, half = thresholds(3)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = thresholds(4, tmp_path / "half.ckpt")
    assert_equal(resumed.module.state_dict(), plain.state_dict())
