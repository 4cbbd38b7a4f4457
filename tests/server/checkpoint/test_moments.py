"""A checkpoint of any moment holds one round: the run that goes on from it ends as if nothing had been."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from helpers import EvaluatedRows, averaging, trainer
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm, Ditto, FedBN, Scaffold
from lightning_fed.privacy import AdaptiveClip, CentralDP
from lightning_fed.testing.workload import memory

ROUNDS, AT = 7, 3
ALGORITHMS: dict[str, Callable[[], Algorithm]] = {"Scaffold": Scaffold, "Ditto": lambda: Ditto(0.1)}

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:noise comes from the seed|CentralDP"),
]


class Stopped(Exception):
    """What ends a run."""


class Net(pl.LightningModule):
    """With a buffer that rounds change, and steps that may do something at a moment of a test's choice."""

    def __init__(self, at_validation: Any = None, at_training: Any = None) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.at_validation, self.at_training = at_validation, at_training

    def loss(self, batch: Any) -> torch.Tensor:
        x = batch[0].unsqueeze(1)
        return ((self.net(x) - 2 * x) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.at_training is not None and self.trainer.global_step == AT:
            self.at_training(self.trainer)
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        if self.at_validation is not None and self.trainer.global_step == AT:
            self.at_validation(self.trainer)
        self.log("loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class WatchedAdam(torch.optim.Adam):
    """One that something interrupts when it has changed a part of the model."""

    do: ClassVar[Any] = None

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        if self.do is not None and int(self.state[self.param_groups[0]["params"][0]].get("step", 0)) == AT:
            first = self.param_groups[0]["params"][0]
            first.data += 1
            self.state[first]["exp_avg"] += 1
            type(self).do()
        return super().step(lambda: loss)


class WatchedStepLR(torch.optim.lr_scheduler.StepLR):
    """One that something interrupts before its step."""

    do: ClassVar[Any] = None

    def step(self, epoch: int | None = None) -> None:
        if self.do is not None and self.last_epoch == AT:
            type(self).do()
        super().step(epoch)


class Draws(pl.loggers.logger.DummyLogger):
    """A logger that something interrupts."""

    def __init__(self, do: Any) -> None:
        super().__init__()
        self._do = do

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        if step == AT and "server/update_norm" in metrics:
            self._do()


def run(
    algorithm: Callable[[], Algorithm] = Scaffold,
    *callbacks: pl.Callback,
    ckpt: Path | None = None,
    net: pl.LightningModule | None = None,
    optimizer: type[torch.optim.Optimizer] = torch.optim.Adam,
    scheduler: type[torch.optim.lr_scheduler.StepLR] = torch.optim.lr_scheduler.StepLR,
    privacy: CentralDP | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Run, and return all that a run is: the model, what is remembered, and the server optimizer."""
    torch.manual_seed(0)
    fed = FederatedModule(
        net or Net(),
        algorithm=algorithm(),
        server_optimizer=lambda parameters: optimizer(parameters, lr=0.02),  # type: ignore[call-arg]
        server_lr_scheduler=lambda optimizer: scheduler(optimizer, 2, 0.5),
        local_steps=2,
        privacy=privacy,
        engine="sequential",
    )
    workers = {f"w{i}": EvaluatedRows([i, i + 1.0, i + 2.0, i + 3.0], batch_size=2, shuffle=True) for i in range(5)}
    data = FederatedDataModule(workers, cohort_size=2, rounds_per_epoch=3)
    fit = trainer(max_steps=ROUNDS, num_sanity_val_steps=0, callbacks=list(callbacks), **options)
    fit.fit(fed, data, ckpt_path=ckpt)
    return {
        **{"model": dict(fed.module.state_dict()), **memory(fed), "rounds": fit.global_step},
        "optimizer": fit.optimizers[0].state_dict(),
    }


class Saves(pl.Callback):
    """Saves checkpoints, the first times that it is asked to in a run."""

    def __init__(self, folder: Path, error: BaseException | None = None) -> None:
        self.folder, self.error, self.count = folder, error, itertools.count()

    def now(self, trainer: pl.Trainer, *_: Any) -> None:
        number = next(self.count)
        if number < 1:
            trainer.save_checkpoint(self.folder / f"{number}.ckpt")
        if self.error is not None:
            raise self.error

    def on_exception(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / "exception.ckpt")


def at(hook: str, saves: Saves) -> Saves:
    """Have it save in a hook, at round :data:`AT`."""

    def now(trainer: pl.Trainer, *rest: Any) -> None:
        if trainer.global_step == AT:
            saves.now(trainer)

    setattr(saves, hook, now)
    return saves


def assert_all_end_alike(folder: Path, whole: dict[str, Any], again: Callable[..., dict[str, Any]]) -> None:
    checkpoints = sorted(folder.glob("*.ckpt"))
    assert checkpoints
    for checkpoint in checkpoints:
        torch.testing.assert_close(
            again(ckpt=checkpoint), whole, rtol=0, atol=0, msg=lambda m, c=checkpoint: f"{c.name}: {m}"
        )


@pytest.fixture(scope="module", params=[pytest.param("Scaffold", marks=pytest.mark.slow), "Ditto"])
def algorithm(request: pytest.FixtureRequest) -> Callable[[], Algorithm]:
    return ALGORITHMS[request.param]


@pytest.fixture(scope="module")
def whole(algorithm: Callable[[], Algorithm]) -> dict[str, Any]:
    return run(algorithm)


HOOKS = ("on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward")
HOOKS += ("on_before_optimizer_step", "on_train_batch_end", "on_validation_batch_end", "on_train_epoch_end")


@pytest.mark.parametrize(
    ("hook", "error"), [*((hook, None) for hook in HOOKS), *((hook, Stopped()) for hook in HOOKS[::3])]
)
def test_in_a_hook(
    tmp_path: Path, algorithm: Callable[[], Algorithm], whole: dict[str, Any], hook: str, error: BaseException | None
) -> None:
    try:
        run(algorithm, at(hook, Saves(tmp_path, error)))
    except Stopped:
        assert error is not None
    assert_all_end_alike(tmp_path, whole, partial(run, algorithm))


@pytest.mark.parametrize("error", [None, Stopped()], ids=["saved", "raised"])
@pytest.mark.parametrize("where", ["optimizer", "scheduler", "logger", "validation", "training"])
def test_in_the_middle_of_something(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Callable[[], Algorithm],
    whole: dict[str, Any],
    where: str,
    error: BaseException | None,
) -> None:
    """Of the server optimizer's step, which has changed a part of the model; of the scheduler's; of drawing curves; of
    an evaluation, when the module may hold a worker's own model; of a worker's training."""
    saves, trainers = Saves(tmp_path, error), []

    class Notes(pl.Callback):
        def on_fit_start(self, trainer: Any, _: Any) -> None:
            trainers.append(trainer)

    def now(*_: Any) -> None:
        saves.now(trainers[0])

    own: dict[str, Any] = {
        "optimizer": {"optimizer": WatchedAdam},
        "scheduler": {"scheduler": WatchedStepLR},
        "logger": {"logger": Draws(now)},
        "validation": {"net": Net(at_validation=now)},
        "training": {"net": Net(at_training=now)},
    }[where]
    if where in ("optimizer", "scheduler"):
        monkeypatch.setattr(own[where], "do", now)
    torch.manual_seed(0)
    if "net" in own:
        own["net"].load_state_dict(Net().state_dict())
    try:
        run(algorithm, Notes(), saves, **own)
    except (Stopped, WorkerError):
        assert error is not None
    monkeypatch.undo()
    assert_all_end_alike(tmp_path, whole, partial(run, algorithm))


def test_what_is_left_in_memory_after_an_error_is_one_round_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model that the optimizer had half changed is what it was; going on in the same process repeats the round."""

    def stop() -> None:
        raise Stopped

    models = []
    for rounds in (AT, ROUNDS):
        torch.manual_seed(0)
        fed = FederatedModule(
            Net(), algorithm=Scaffold(), server_optimizer=lambda p: WatchedAdam(p, lr=0.02), local_steps=2
        )
        workers = {f"w{i}": EvaluatedRows([i, i + 1.0, i + 2.0, i + 3.0]) for i in range(3)}
        monkeypatch.setattr(WatchedAdam, "do", stop)
        try:
            trainer(max_steps=rounds, limit_val_batches=0).fit(fed, FederatedDataModule(workers))
        except Stopped:
            assert rounds == ROUNDS
        models.append((dict(fed.module.state_dict()), memory(fed)))
    torch.testing.assert_close(*models, rtol=0, atol=0)


@pytest.mark.parametrize("hook", ["on_before_zero_grad", "on_train_batch_end", "on_train_batch_start"])
def test_while_gradients_accumulate(tmp_path: Path, algorithm: Callable[[], Algorithm], hook: str) -> None:
    again = partial(run, algorithm, accumulate_grad_batches=2)
    whole = again()
    run(algorithm, at(hook, Saves(tmp_path)), accumulate_grad_batches=2)
    assert_all_end_alike(tmp_path, whole, again)


@pytest.mark.parametrize(
    "hook", ["on_before_zero_grad", "on_train_batch_end", "on_validation_epoch_start", "on_validation_batch_end"]
)
def test_while_weights_are_averaged(tmp_path: Path, hook: str) -> None:
    """In an evaluation the module holds the average, and the callback the model: each is stored as what it is."""
    average = partial(averaging, decay=0.9)
    whole = run(Scaffold, average())
    run(Scaffold, average(), at(hook, Saves(tmp_path)))
    for checkpoint in sorted(tmp_path.glob("*.ckpt")):
        torch.testing.assert_close(run(Scaffold, average(), ckpt=checkpoint), whole, rtol=0, atol=0)


@pytest.mark.parametrize("hook", ["on_before_zero_grad", "on_train_batch_end"])
def test_the_clipping_bound_is_that_of_the_round(tmp_path: Path, hook: str) -> None:
    """It moves when the aggregate is known, before the model does."""

    def again(*callbacks: pl.Callback, ckpt: Path | None = None) -> dict[str, Any]:
        promise = CentralDP(
            clip=AdaptiveClip(initial=0.5, count_std=2.0),
            noise_multiplier=1.0,
            delta=1e-5,
            insecure_deterministic_noise=True,
            release_metrics=True,
        )
        return run(FedBN, *callbacks, ckpt=ckpt, privacy=promise)

    whole = again()
    again(at(hook, Saves(tmp_path)))
    assert_all_end_alike(tmp_path, whole, again)
