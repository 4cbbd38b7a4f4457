"""One release, one charge: whoever asks for a cohort a second time is refused, and the model is what it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, fit, trainer
from private import Net, ValidatedNet, ValidatedPoints, people, weights
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule, RoundError
from lightning_fed.engines import Sequential
from lightning_fed.privacy import DPFTRL, CentralDP, DistributedDP, LocalDP, Privacy, RecordDP
from lightning_fed.server.loaders import Cohort

SECRET = CentralDP(clip=1.0, noise_multiplier=1.0, delta=1e-5, accountant="rdp")
PROMISES = [
    SECRET,
    DPFTRL(1.0, 1.0, delta=1e-5, accountant="rdp"),
    LocalDP(1.0, 1.0, delta=1e-5, accountant="rdp"),
    DistributedDP(1.0, 1, 1.0, delta=1e-5, accountant="rdp"),
    RecordDP(clip=1.0, sampling_rate=0.5, delta=1e-5, noise_multiplier=1.0, accountant="rdp"),
]


class Twice(torch.optim.SGD):
    """Looks at the gradient, takes a step, and looks again, as SAM does."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        closure()
        super().step()
        closure()
        return super().step()


class Hidden(torch.optim.SGD):
    """Swallows what the second look raises."""

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        closure()
        super().step()
        try:
            closure()
        except RuntimeError:
            return None
        raise AssertionError("the second look was answered")


def lbfgs(parameters: Any) -> Any:
    return torch.optim.LBFGS(parameters, lr=0.1, max_iter=5)


def charges(fed: FederatedModule) -> int:
    assert fed.private_run is not None
    return sum(count for _, count in fed.private_run.accountant.history) // fed.private_run.releases


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The cohorts that are trained."""
    cohorts: list[Sequence[str]] = []
    run = Sequential.run

    def noted(self: Sequential, job: Any, cohort: Sequence[str]) -> Any:
        cohorts.append(cohort)
        return run(self, job, cohort)

    monkeypatch.setattr(Sequential, "run", noted)
    return cohorts


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("privacy", PROMISES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("optimizer", [lbfgs, lambda p: Twice(p, lr=1.0)], ids=["lbfgs", "sam"])
def test_an_optimizer_that_looks_twice_is_refused(
    privacy: Privacy, optimizer: Any, trained: list[Sequence[str]]
) -> None:
    """Before anybody is trained a second time; it has taken a step by then, which is taken back."""
    module = Net()
    before = weights(module)
    fed = FederatedModule(module, privacy=privacy, server_optimizer=optimizer, engine="sequential")
    with pytest.raises(RoundError, match=r"round 0: cohort 0 has been charged once .* LBFGS \(take SGD, Adam or Yogi"):
        fit(fed, FederatedDataModule(people(3)), max_steps=2)
    assert charges(fed) == 1
    assert len(trained) == 1
    assert (weights(module) == before).all()


def test_later_rounds_are_kept() -> None:
    """The model is as it was before the round that is refused, and not before the fit."""
    seen: list[torch.Tensor] = []

    class SecondTime(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            closure()
            if seen:
                super().step()
                closure()
            return super().step()

    class Notes(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            seen.append(weights(module))

    fed = FederatedModule(Net(), privacy=SECRET, server_optimizer=lambda p: SecondTime(p, lr=1.0))
    with pytest.raises(RoundError, match="round 1: cohort 1"):
        fit(fed, FederatedDataModule(people(3)), max_steps=3, callbacks=[Notes()])
    assert charges(fed) == 2
    assert (weights(fed.module) == seen[0]).all()


def test_an_optimizer_that_looks_once_may_need_a_closure() -> None:
    once = FederatedModule(Net(), privacy=SECRET, server_optimizer=lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=1))
    assert fit(once, FederatedDataModule(people(3)), max_steps=3).global_step == 3
    assert charges(once) == 3


@pytest.mark.parametrize("privacy", [SECRET, None])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_an_optimizer_that_does_not_look_is_refused(privacy: Any, accumulated: int) -> None:
    class Blind(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            return super().step()

    fed = FederatedModule(Net(), privacy=privacy, server_optimizer=lambda p: Blind(p, lr=1.0))
    before = weights(fed.module)
    with pytest.raises(RoundError, match="round 0: the server_optimizer did not call its closure"):
        fit(fed, FederatedDataModule(people(3)), max_steps=2, accumulate_grad_batches=accumulated, log_every_n_steps=1)
    assert (weights(fed.module) == before).all()


def test_what_an_optimizer_swallows_is_not_released_either(trained: list[Sequence[str]]) -> None:
    fed = FederatedModule(Net(), privacy=SECRET, server_optimizer=lambda p: Hidden(p, lr=1.0), engine="sequential")
    fit(fed, FederatedDataModule(people(3)), max_steps=2)
    assert charges(fed) == 2
    assert len(trained) == 2


def test_without_a_promise_lbfgs_is_what_it_was() -> None:
    """On a quadratic function it needs one step."""
    module = Scalar()
    fed = FederatedModule(module, server_optimizer=lambda p: torch.optim.LBFGS(p, lr=1.0, max_iter=5))
    fit(fed, FederatedDataModule({"a": Rows([1.0]), "b": Rows([3.0])}), max_steps=1)
    assert module.x.item() == pytest.approx(2.0)


def test_accumulated_cohorts_are_charged_once_each() -> None:
    fed = FederatedModule(Net(), privacy=SECRET)
    fit(fed, FederatedDataModule(people(3), rounds_per_epoch=6), max_epochs=1, accumulate_grad_batches=3)
    assert charges(fed) == 6
    fed = FederatedModule(Net(), privacy=SECRET, server_optimizer=lbfgs)
    with pytest.raises(RoundError, match="round 0: cohort 2 has been charged"):
        fit(fed, FederatedDataModule(people(3), rounds_per_epoch=6), max_epochs=1, accumulate_grad_batches=3)
    assert charges(fed) == 3


def again(module: FederatedModule, cohort: Cohort) -> None:
    module.training_step(cohort, 0)


def renamed(module: FederatedModule, cohort: Cohort) -> None:
    module.training_step(Cohort(cohort.number + 1000, cohort.seed, cohort.workers), 0)


def as_an_older_one(module: FederatedModule, cohort: Cohort) -> None:
    module.training_step(Cohort(cohort.number - 1, cohort.seed, cohort.workers), 0)


@pytest.mark.parametrize("ask", [again, renamed, as_an_older_one])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad", "on_train_batch_end"])
def test_a_callback_that_trains_a_cohort_itself_is_refused(ask: Callable[..., None], hook: str) -> None:
    """Before the round or after it; charged are what the Trainer, or the callback in its place, has released."""
    module = Net()
    at: dict[str, Any] = {}

    class Asks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            at["batch"] = batch
            if trainer.global_step == 1:
                at["before"] = weights(module)
                self.ask("on_train_batch_start", trainer, module)

        def on_before_zero_grad(self, trainer: Any, module: Any, optimizer: Any) -> None:
            self.ask("on_before_zero_grad", trainer, module)

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            self.ask("on_train_batch_end", trainer, module)

        def ask(self, here: str, trainer: Any, module: Any) -> None:
            if hook == here and trainer.global_step >= 1:
                ask(module, at["batch"])

    fed = FederatedModule(module, privacy=SECRET)
    with pytest.raises(RoundError, match=r"has been charged once|was not drawn by the FederatedDataModule's loader"):
        fit(fed, FederatedDataModule(people(3)), max_steps=3, callbacks=[Asks()])
    assert charges(fed) <= 2


def test_a_round_that_fails_is_charged_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new fit draws new cohorts, of the same numbers, and charges for them."""
    fed = FederatedModule(Net(), privacy=SECRET, engine="sequential")
    run = fed.engine.run
    monkeypatch.setattr(fed.engine, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(fed, FederatedDataModule(people(3)), max_steps=1)
    assert charges(fed) == 1
    monkeypatch.setattr(fed.engine, "run", run)
    fit(fed, FederatedDataModule(people(3)), max_steps=2)
    assert charges(fed) == 3


def test_a_cohort_comes_again_when_a_run_is_resumed_and_is_charged_again(tmp_path: Any) -> None:
    fed = FederatedModule(Net(), privacy=SECRET)
    done = fit(fed, FederatedDataModule(people(3)), max_steps=2)
    done.save_checkpoint(tmp_path / "two.ckpt")
    done.fit_loop.epoch_loop.max_steps = 4
    done.fit(fed, FederatedDataModule(people(3)))
    assert charges(fed) == 4
    trainer(max_steps=3).fit(fed, FederatedDataModule(people(3)), ckpt_path=tmp_path / "two.ckpt")
    assert charges(fed) == 5, "its number was 2 before"


def test_no_round_is_charged_by_a_sanity_check() -> None:
    fed = FederatedModule(ValidatedNet(), privacy=SECRET)
    data = FederatedDataModule(people(3), val=ValidatedPoints(9))
    fit(fed, data, max_steps=1, num_sanity_val_steps=1)
    assert charges(fed) == 1


def test_an_error_in_the_step_itself_leaves_no_half_of_it() -> None:
    class Breaks(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:  # type: ignore[override]
            super().step(closure)
            raise ArithmeticError("half way")

    module: nn.Module = Net()
    before = weights(module)
    fed = FederatedModule(module, privacy=SECRET, server_optimizer=lambda p: Breaks(p, lr=1.0))  # type: ignore[arg-type]
    with pytest.raises(ArithmeticError):
        fit(fed, FederatedDataModule(people(3)), max_steps=1)
    assert (weights(module) == before).all()
