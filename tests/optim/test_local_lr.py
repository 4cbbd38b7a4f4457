"""The workers' learning rate over rounds: a factor on top of whatever their own optimizer and scheduler do."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import FedNova, Scaffold
from lightning_fed.engines import Sequential, Vectorized
from lightning_fed.optim import CosineDecay, ExponentialDecay, LocalLRSchedule, StepDecay

pytestmark = pytest.mark.usefixtures("double")

engines = pytest.mark.parametrize("engine", ["sequential", "vectorized"])


class Of(LocalLRSchedule):
    """Factors from a list."""

    def __init__(self, *factors: float) -> None:
        self.factors = factors

    def factor(self, round: int) -> float:
        return self.factors[round]


class Slope(Scalar):
    """The loss is x, whose gradient is 1 everywhere: every step shows its learning rate."""

    def __init__(self, kind: str = "sgd", lr: float = 0.1) -> None:
        super().__init__(lr=lr)
        self.kind = kind

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.x + 0 * batch[0].mean()

    def configure_optimizers(self) -> Any:
        if self.kind == "adam":
            return torch.optim.Adam(self.parameters(), lr=self.lr)
        if self.kind == "momentum":
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.5)
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr)
        if self.kind == "decaying":
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        if self.kind == "one cycle":
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.8, total_steps=4)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        return optimizer


def way(kind: str, engine: Any, *factors: float, workers: int = 2, **options: Any) -> list[float]:
    """How far x goes down in each round of three steps."""
    ways = []
    for rounds in range(1, len(factors) + 1):
        module = Slope(kind)
        federated = FederatedModule(module, engine=engine, local_lr_schedule=Of(*factors), **options)
        data = FederatedDataModule({f"w{i}": Rows([0.0] * 3, batch_size=1) for i in range(workers)})
        fit(federated, data, max_steps=rounds)
        ways.append(-module.x.item() - sum(ways))
    return ways


@engines
def test_by_hand(engine: Any) -> None:
    assert way("sgd", engine, 1.0, 0.5, 3.0) == pytest.approx([0.3, 0.15, 0.9])


class ByHand(Slope):
    """Steps an optimizer that it has made elsewhere than in ``configure_optimizers``."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.way = way
        self.own = torch.optim.SGD([self.x], lr=self.lr)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        made = {"made in the step": lambda: torch.optim.SGD([self.x], lr=self.lr), "wrapped": lambda: Around([self.x])}
        own: Any = made[self.way]() if self.way in made else self.own
        own.zero_grad()
        if self.way == "fails first" and batch_idx == 0:
            with pytest.raises(ZeroDivisionError):
                own.step(lambda: 1 / 0)  # the pre-hook has been called, and no post-hook will be
        self.manual_backward(super().training_step(batch, batch_idx))
        own.step()

    def configure_optimizers(self) -> Any:
        return self.own if self.way == "returned" else None


class Around(torch.optim.Optimizer):
    """Lets an SGD step on its own groups, as optimizers that look ahead do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})
        self.inner = torch.optim.SGD(self.param_groups)

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


@pytest.mark.parametrize("way", ["made in __init__", "made in the step", "wrapped", "returned", "fails first"])
def test_of_optimizers_that_user_code_makes_elsewhere(way: str) -> None:
    for factors, distance in (((1.0, 0.5), 0.45), ((1.0, 0.0), 0.3), ((3.0,), 0.9)):
        module = ByHand(way)
        fed = FederatedModule(module, local_lr_schedule=Of(*factors))
        fit(fed, FederatedDataModule({"ann": Rows([0.0] * 3, batch_size=1)}), max_steps=len(factors))
        assert -module.x.item() == pytest.approx(distance)
        assert module.own.param_groups[0]["lr"] == 0.1


class Fails(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise ZeroDivisionError


class Twofold(torch.optim.SGD):
    """Steps by ``super().step()``, of which torch calls hooks too, and then once more by its rate."""

    def step(self, closure: Any = None) -> Any:
        value = super().step(closure)
        for group in self.param_groups:
            with torch.no_grad():
                group["params"][0] -= group["lr"]
        return value


class Swallows(Slope):
    """Goes on with another optimizer after a step that has failed."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        others = [Fails([self.x], lr=0.1), torch.optim.SGD([self.x], lr=0.1)]
        self.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        with pytest.raises(ZeroDivisionError):
            others[0].step()
        others[1].step()

    def configure_optimizers(self) -> Any:
        return None


class ByTwofold(Slope):
    """Steps its own optimizer, of which the first step may fail."""

    def __init__(self, fails: bool, by_hand: bool, elsewhere: bool) -> None:
        super().__init__()
        self.automatic_optimization = not by_hand
        self.fails, self.by_hand, self.elsewhere = fails, by_hand, elsewhere

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        if not self.by_hand:
            return loss
        torch.optim.SGD([self.x], lr=0.1)  # from when on torch calls hooks in super().step()
        own = Twofold([self.x], lr=0.1) if self.elsewhere else self.optimizers(use_pl_optimizer=False)
        assert isinstance(own, Twofold)
        own.zero_grad()
        if self.fails:
            with pytest.raises(ZeroDivisionError):
                own.step(lambda: 1 / 0)
        self.manual_backward(loss)
        own.step()
        return loss

    def configure_optimizers(self) -> Any:
        return None if self.elsewhere else Twofold(self.parameters(), lr=0.1)


def test_of_another_optimizer_after_a_step_that_failed() -> None:
    fed = FederatedModule(module := Swallows(), local_lr_schedule=Of(0.5))
    fit(fed, FederatedDataModule({"ann": Rows([0.0] * 3, batch_size=1)}), max_steps=1)
    assert -module.x.item() == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("fails", "by_hand", "elsewhere"),
    [(False, False, False), (False, True, False), (True, True, False), (False, True, True), (True, True, True)],
)
def test_of_an_optimizer_that_steps_by_its_super_class(fails: bool, by_hand: bool, elsewhere: bool) -> None:
    fed = FederatedModule(module := ByTwofold(fails, by_hand, elsewhere), local_lr_schedule=Of(0.5))
    fit(fed, FederatedDataModule({"ann": Rows([0.0] * 3, batch_size=1)}), max_steps=1)
    assert -module.x.item() == pytest.approx(0.3)


@engines
def test_with_momentum_whose_past_does_not_last_beyond_a_round(engine: Any) -> None:
    # The buffer goes 1, 1.5, 1.75
    assert way("momentum", engine, 1.0, 0.5) == pytest.approx([0.425, 0.2125])


@engines
def test_with_adam(engine: Any) -> None:
    assert way("adam", engine, 1.0, 0.5) == pytest.approx([0.3, 0.15], rel=1e-4)


@engines
def test_with_a_scheduler_of_the_users_own(engine: Any) -> None:
    """It multiplies its own learning rate from step to step, in which the factor must not accumulate."""
    assert way("decaying", engine, 1.0, 0.5, 2.0) == pytest.approx([0.175, 0.0875, 0.35])


@engines
def test_with_a_scheduler_that_sets_the_learning_rate(engine: Any) -> None:
    whole, half = way("one cycle", engine, 1.0, 0.5)
    assert half == pytest.approx(whole / 2)


@engines
def test_every_worker_and_every_chunk_alike(engine: Any) -> None:
    """The optimizer is made once for a cohort: the second worker's must have the factor once, not twice."""
    kind = Sequential() if engine == "sequential" else Vectorized(chunk_size=2)
    assert way("sgd", kind, 0.5, 0.5, workers=5) == pytest.approx([0.15, 0.15])


@engines
def test_with_factor_one_it_is_as_if_it_were_not(engine: Any) -> None:
    ends = []
    for schedule in (None, Of(1.0, 1.0)):
        module = Slope("momentum")
        data = FederatedDataModule({"a": Rows([0.0] * 3, batch_size=1)})
        fit(FederatedModule(module, engine=engine, local_lr_schedule=schedule), data, max_steps=2)
        ends.append(module.x.item())
    assert ends[0] == ends[1]


def test_the_users_own_code_sees_its_own_learning_rate() -> None:
    seen: list[float] = []

    class Watching(Slope):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            seen.append(self.optimizers().param_groups[0]["lr"])

    federated = FederatedModule(Watching("sgd"), local_lr_schedule=Of(0.5))
    fit(federated, FederatedDataModule({"a": Rows([0.0] * 3, batch_size=1)}))
    assert seen == [0.1] * 3


def test_a_control_variate_is_a_gradient_and_knows_nothing_of_it() -> None:
    federated = FederatedModule(Slope("sgd"), algorithm=Scaffold(), local_lr_schedule=Of(0.5))
    fit(federated, FederatedDataModule({"a": Rows([0.0] * 3, batch_size=1)}))
    assert federated.own_state["control"]["a"].item() == pytest.approx(1.0)


def test_with_an_optimizer_that_evaluates_the_loss_itself() -> None:
    """It steps through a closure, and the hooks around its step are the same."""

    class Newton(Scalar):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=1.0, max_iter=1)

    ends = []
    for factor in (1.0, 0.5):
        module = Newton()
        data = FederatedDataModule({"a": Rows([0.5])})
        fit(FederatedModule(module, engine="sequential", local_lr_schedule=Of(factor)), data)
        ends.append(module.x.item())
    assert ends[1] == pytest.approx(ends[0] / 2)


def test_resuming_goes_on_with_the_round() -> None:
    """The factor is one of the round, not of the rounds since the start of the process."""
    module = Slope("sgd")
    federated = FederatedModule(module, local_lr_schedule=StepDecay(every=2, gamma=0.5))
    data = FederatedDataModule({"a": Rows([0.0])}, rounds_per_epoch=2)
    fit(federated, data, max_steps=6)
    assert -module.x.item() == pytest.approx(2 * (0.1 + 0.05 + 0.025))


# ---- the schedules --------------------------------------------------------------------------------------------------


def test_the_schedules_by_hand() -> None:
    assert [ExponentialDecay(0.9).factor(r) for r in (0, 1, 10)] == pytest.approx([1, 0.9, 0.9**10])
    assert [StepDecay(3, 0.1).factor(r) for r in (0, 2, 3, 8, 9)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    cosine = CosineDecay(rounds=10, last=0.2)
    assert [cosine.factor(r) for r in (0, 5, 10, 11, 1000)] == pytest.approx([1, 0.6, 0.2, 0.2, 0.2])
    assert cosine.factor(3) == pytest.approx(0.2 + 0.8 * (1 + math.cos(0.3 * math.pi)) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExponentialDecay(0.0), "gamma=0.0 must be positive"),
        (lambda: StepDecay(0), "every=0 must be positive"),
        (lambda: StepDecay(1, -1.0), "gamma=-1.0 must be positive"),
        (lambda: CosineDecay(0), "rounds=0 must be positive"),
        (lambda: CosineDecay(5, last=-0.1), "last=-0.1 must be at least 0"),
    ],
)
def test_out_of_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_fednova_is_told_by_the_steps_alone() -> None:
    """Equal steps at any factor are FedAvg, so the factor is no effective step of its own."""
    ends = []
    for algorithm in (None, FedNova()):
        module = Slope("sgd")
        options = {} if algorithm is None else {"algorithm": algorithm}
        data = FederatedDataModule({"a": Rows([0.0] * 3, batch_size=1), "b": Rows([0.0] * 3, batch_size=1)})
        fit(FederatedModule(module, local_lr_schedule=Of(0.5), **options), data)  # type: ignore[arg-type]
        ends.append(module.x.item())
    assert ends[0] == pytest.approx(ends[1])
