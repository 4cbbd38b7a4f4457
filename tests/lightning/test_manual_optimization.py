"""Manual optimization and several optimizers: what a plain Trainer makes of a module, one worker makes of it, too."""

from __future__ import annotations

import copy
import math
import re
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit, trainer
from manual_modules import KINDS, Accumulating, Adversarial, ByHand, Manual, Pairs
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import LightningOptimizer, MisconfigurationException, pl
from lightning_fed.aggregation import NormalizedMean
from lightning_fed.algorithms import Ditto, FedAvg, FedBN, FedDyn, FedNova, FedProx, QFedAvg, Scaffold
from lightning_fed.engines import Auto, Engine, Isolated, Sequential, Vectorized
from lightning_fed.engines.remarks import Remark
from lightning_fed.optim import ExponentialDecay
from lightning_fed.privacy import CentralDP, RecordDP


def plainly(kind: type[pl.LightningModule], seed: int, epochs: int = 1) -> dict[str, Tensor]:
    """What a plain Trainer makes of a module."""
    module = kind()
    warnings.filterwarnings("ignore", ".*this fit will run with no optimizer")  # Lightning's, about ByHand
    trainer(max_epochs=epochs).fit(module, Pairs(seed))
    return module.state_dict()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("double")
def test_a_worker_does_what_a_trainer_does(kind: type[pl.LightningModule]) -> None:
    module = kind()
    before = copy.deepcopy(module.state_dict())
    fit(FederatedModule(module, local_epochs=2, engine="sequential"), FederatedDataModule({"ann": Pairs(1)}))
    assert_equal(module.state_dict(), plainly(kind, 1, epochs=2))
    assert any(not tensor.equal(before[name]) for name, tensor in module.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("double")
def test_the_next_worker_finds_nothing_of_the_one_before(kind: type[pl.LightningModule]) -> None:
    module = kind()
    fit(FederatedModule(module), FederatedDataModule({"ann": Pairs(1), "bob": Pairs(2)}))
    of_ann, of_bob = plainly(kind, 1), plainly(kind, 2)
    assert_equal(module.state_dict(), {name: (of_ann[name] + of_bob[name]) / 2 for name in of_ann})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("double")
def test_a_process_of_its_own_gives_the_same(kind: type[pl.LightningModule], isolated: Isolated) -> None:
    results = []
    for engine in ("sequential", isolated):
        module = kind()
        algorithm = FedAvg() if kind is ByHand else FedProx(0.1)
        fed = FederatedModule(module, algorithm=algorithm, engine=engine)
        fit(fed, FederatedDataModule({"ann": Pairs(1), "bob": Pairs(2)}), max_epochs=2)
        results.append((module.state_dict(), fed.last_report.workers["ann"]))
    (one, its_report), (other, others_report) = results
    assert all(tensor.equal(other[name]) for name, tensor in one.items())
    assert str(its_report) == str(others_report)  # a NaN is not equal to itself


class Two(Scalar):
    """Two numbers: x is stepped on once a batch, and y twice; the gradient of each is itself minus the mean."""

    def __init__(self, way: str = "lightning", returns: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.y = torch.nn.Parameter(torch.tensor(0.0))
        self.way = way
        self.returns = returns

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        ours, theirs = self.optimizers(use_pl_optimizer=self.way != "torch")
        losses = []
        for optimizer, number in ((ours, self.x), (theirs, self.y), (theirs, self.y)):

            def closure(optimizer: Any = optimizer, number: Tensor = number) -> Tensor:
                optimizer.zero_grad()
                loss = ((number - batch[0]) ** 2).mean() / 2
                self.manual_backward(loss)
                return loss

            if self.way == "closure":
                losses.append(optimizer.step(closure))
            else:
                losses.append(closure())
                optimizer.step()
        return losses[-1] if self.returns else None

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.x], lr=0.5), torch.optim.SGD([self.y], lr=0.5)


WAYS = ("lightning", "torch", "closure")


@pytest.mark.parametrize("way", WAYS)
def test_by_hand_fedprox_pulls_each_optimizers_parameters(way: str) -> None:
    """From 0 towards 8 by halves: x is 4 after a step, y is 4 and then, with the gradient -4 + 2 * 4, 2."""
    module = Two(way)
    fit(FederatedModule(module, algorithm=FedProx(2.0)), FederatedDataModule({"ann": Rows([8.0])}))
    assert (module.x.item(), module.y.item()) == (4.0, 2.0)


@pytest.mark.parametrize("way", WAYS)
def test_by_hand_the_control_variates_are_means_over_each_optimizers_steps(way: str) -> None:
    """x: the gradient is -8. y: -8 and -4, so -6 on average; with two workers the server moves half of that each."""
    fed = FederatedModule(Two(way), algorithm=Scaffold())
    fit(fed, FederatedDataModule({"ann": Rows([8.0]), "bob": Rows([0.0])}))
    assert fed.own_state["control"]["ann"].tolist() == [-8.0, -6.0]
    assert fed.own_state["control"]["bob"].tolist() == [0.0, 0.0]
    assert fed.server_state["control"].tolist() == [-4.0, -3.0]


@pytest.mark.parametrize("way", WAYS)
def test_by_hand_feddyn_corrects_in_the_second_round(way: str) -> None:
    """One worker. x: 0 → 4, so h = -4 α; then the gradient is (4 - 8) - h + α (4 - 4) with h's sign in the paper."""
    alone, pair = Two(way), Two("lightning")
    for module in (alone, pair):
        fit(FederatedModule(module, algorithm=FedDyn(0.5)), FederatedDataModule({"ann": Rows([8.0])}), max_epochs=2)
    assert (alone.x.item(), alone.y.item()) == (pair.x.item(), pair.y.item())

    class X(Scalar):  # the same x by automatic optimization
        pass

    automatic = X(lr=0.5)
    fit(FederatedModule(automatic, algorithm=FedDyn(0.5)), FederatedDataModule({"ann": Rows([8.0])}), max_epochs=2)
    assert alone.x.item() == automatic.x.item()


class OwnOptimizer(Two):
    """Steps on y with an optimizer that the Trainer has never seen."""

    def __init__(self) -> None:
        super().__init__()
        self.own = torch.optim.SGD([self.y], lr=0.5)

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        return super().optimizers(), self.own

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.x], lr=0.5)


class Wrapper(torch.optim.Optimizer):
    """Steps by another optimizer's steps, of which the first may be in a method of another name, as SAM's are."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})
        self.inner = torch.optim.SGD(self.param_groups, lr=lr)

    def second_step(self) -> None:
        self.inner.step()

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        value = None if closure is None else closure()
        self.second_step()
        return value


class Wrapped(Two):
    def configure_optimizers(self) -> Any:
        return Wrapper([self.x], lr=0.5), Wrapper([self.y], lr=0.5)


class ByAnotherName(Wrapped):
    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        wrappers = super().optimizers(use_pl_optimizer=False)
        for wrapper in wrappers:
            wrapper.step = wrapper.second_step
        return wrappers


class SuperStep(torch.optim.SGD):
    """Steps by ``super().step()``, of which torch calls hooks too."""

    def step(self, closure: Any = None) -> Any:
        return super().step(closure)


class BySuper(Two):
    def configure_optimizers(self) -> Any:
        return SuperStep([self.x], lr=0.5), SuperStep([self.y], lr=0.5)


class Fails(torch.optim.SGD):
    def step(self, closure: Any = None) -> Any:
        raise ZeroDivisionError


class AfterAFailure(Two):
    """Each step comes after one of another optimizer, on the same gradient, that fails."""

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        both = super().optimizers(use_pl_optimizer=False)
        for optimizer, number in zip(both, (self.x, self.y), strict=True):
            optimizer.step = partial(self._after_a_failure, optimizer, number)
        return both

    def _after_a_failure(self, optimizer: Any, number: Tensor) -> None:
        with pytest.raises(ZeroDivisionError):
            Fails([number], lr=0.5).step()
        type(optimizer).step(optimizer)


class OnTheSameGradient(Two):
    """Two optimizers of one number, which step on one gradient; and one that is not forgotten before it grows."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        first, second = self.optimizers()
        self.manual_backward(((self.x - batch[0]) ** 2).mean() / 2)
        first.step()
        second.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([self.x], lr=0.5), torch.optim.SGD([self.x, self.y], lr=0.5)


@pytest.mark.parametrize("kind", [OwnOptimizer, Wrapped, ByAnotherName, BySuper, AfterAFailure])
def test_by_hand_fedprox_pulls_whatever_optimizer_steps(kind: type[Two]) -> None:
    """As above: x is 4, and y is 4 and then 2."""
    module = kind()
    fit(FederatedModule(module, algorithm=FedProx(2.0)), FederatedDataModule({"ann": Rows([8.0])}))
    assert (module.x.item(), module.y.item()) == (4.0, 2.0)


@pytest.mark.filterwarnings("ignore:local training changes the module's attribute")
@pytest.mark.parametrize("kind", [OwnOptimizer, Wrapped, ByAnotherName, BySuper, AfterAFailure])
def test_by_hand_the_control_variates_are_means_over_whatever_steps(kind: type[Two]) -> None:
    fed = FederatedModule(kind(), algorithm=Scaffold())
    fit(fed, FederatedDataModule({"ann": Rows([8.0])}))
    assert fed.own_state["control"]["ann"].tolist() == [-8.0, -6.0]


def test_by_hand_what_is_added_to_gradients_is_gone_after_the_step() -> None:
    """Two passes. The first one's gradient is -8 for both steps: x is 4, and by -8 + 4 then 6. In the second one -2 is
    added to it, so -10: by -10 + 6 x is 8, and by -10 + 8 then 9."""
    module = OnTheSameGradient()
    fit(FederatedModule(module, algorithm=FedProx(1.0), local_epochs=2), FederatedDataModule({"ann": Rows([8.0])}))
    assert module.x.item() == 9.0


def test_a_worker_that_fails_leaves_nothing_behind_in_the_process() -> None:
    class Fails(Manual):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("out of power")

    with pytest.raises(RuntimeError, match="out of power"):
        fit(FederatedModule(Fails(), algorithm=FedProx(1.0)), FederatedDataModule({"ann": Pairs(1)}))
    assert not _global_optimizer_pre_hooks
    assert not _global_optimizer_post_hooks


def test_on_a_worker_there_are_its_own_metrics_and_no_others() -> None:
    """Neither the server's of the round before, nor what is logged only at the end."""

    class Asks(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            before = dict(self.trainer.callback_metrics)
            self.log("index", float(batch_idx))
            self.log("later", 1.0, on_step=False, on_epoch=True)
            seen.append((before, dict(self.trainer.callback_metrics)))
            return super().training_step(batch, batch_idx)

    seen: list[Any] = []
    fit(FederatedModule(Asks()), FederatedDataModule({"ann": Pairs(1, rows=6)}), max_epochs=2)
    assert seen == 2 * [({}, {"index": 0.0}), ({"index": 0.0}, {"index": 1.0})]


def test_of_a_metric_that_a_worker_has_not_logged_the_error_says_what_there_is() -> None:
    class Asks(Manual):
        def on_train_epoch_end(self) -> None:
            self.log("size", 1.0)
            self.trainer.callback_metrics["val_loss"]

    says = (
        r"worker 'ann' failed in round 0: .*callback_metrics\['val_loss'\] on a worker: .* this pass .* \('size'\), and"
    )
    with pytest.raises(RuntimeError, match=says):
        fit(FederatedModule(Asks()), FederatedDataModule({"ann": Pairs(1)}))


def test_of_an_optimizer_in_an_attribute_no_numbers_are_shown(recwarn: pytest.WarningsRecorder) -> None:
    class Keeps(Manual):
        def __init__(self) -> None:
            super().__init__()
            self.own = super().configure_optimizers()

        def configure_optimizers(self) -> Any:
            return self.own

    with pytest.warns(Remark, match="attribute 'own.state.Parameter', which is set back") as said:
        fit(FederatedModule(Keeps()), FederatedDataModule({"ann": Pairs(1), "bob": Pairs(2)}), max_epochs=3)
    assert len([one for one in said if issubclass(one.category, Remark)]) == 1


def test_by_hand_the_loss_is_what_is_returned_or_else_the_mean_of_what_went_backward() -> None:
    """The losses are 8²/2 twice, and 4²/2 for the second step of y."""
    for returns, loss in ((True, 8.0), (False, (32.0 + 32.0 + 8.0) / 3)):
        fed = FederatedModule(Two(returns=returns))
        run = fit(fed, FederatedDataModule({"ann": Rows([8.0])}))
        assert fed.last_report.workers["ann"].loss == loss
        assert run.callback_metrics["loss"].item() == pytest.approx(loss)


def test_without_any_loss_the_examples_count_and_no_curve_of_it_is_drawn() -> None:
    class Silent(Scalar):
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.x.data += 1.0
            self.log("x", self.x)

        def configure_optimizers(self) -> None:
            return None

    module = Silent()
    fed = FederatedModule(module)
    run = fit(fed, FederatedDataModule({"ann": Rows([8.0, 1.0]), "bob": Rows([1.0])}))
    assert module.x.item() == 1.0
    assert fed.last_report.examples == 3
    assert math.isnan(fed.last_report.workers["ann"].loss)
    assert "loss" not in run.callback_metrics
    assert run.callback_metrics["x"] == 1.0


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(0.1), Scaffold(), FedDyn(0.1), Ditto(0.1), FedBN(["critic*"])])
@pytest.mark.usefixtures("double")
def test_every_algorithm_learns_with_it(algorithm: Any) -> None:
    fed = FederatedModule(Adversarial(), algorithm=algorithm)
    losses = []

    class Notes(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            losses.append(fed.last_report.loss)

    workers = {f"w{i}": Pairs(i) for i in range(3)}
    fit(fed, FederatedDataModule(workers), max_epochs=5, callbacks=[Notes()])
    assert losses[-1] < losses[0]


def test_q_fedavg_takes_the_loss_that_is_returned() -> None:
    losses = Two(returns=True), Two(returns=False)
    for module in losses:
        fit(FederatedModule(module, algorithm=QFedAvg(1.0, lr=0.5)), FederatedDataModule({"ann": Rows([8.0])}))
        assert module.x.item() > 0


def test_the_schedule_of_local_rates_reaches_every_optimizer() -> None:
    """In round 1 rates are halved: from 4, x moves by (8 - 4) / 4, and y by 1 and 3/4."""
    module = Two()
    fed = FederatedModule(module, local_lr_schedule=ExponentialDecay(0.5))
    fit(fed, FederatedDataModule({"ann": Rows([8.0])}), max_epochs=2)
    assert (module.x.item(), module.y.item()) == (5.0, 6 + 0.5 + 0.375)


def test_a_promise_about_workers_goes_with_it() -> None:
    module = Two()
    promise = CentralDP(clip=1e6, noise_multiplier=1e-9)
    data = FederatedDataModule({"ann": Rows([8.0]), "bob": Rows([8.0])})
    fit(FederatedModule(module, privacy=promise), data)
    assert module.x.item() == pytest.approx(4.0, abs=0.1)


def test_optimizers_are_lightnings_in_manual_and_in_automatic_optimization() -> None:
    seen = []

    class Automatic(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append((self.optimizers(), self.optimizers(use_pl_optimizer=False)))
            return super().training_step(batch, batch_idx)

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            seen.append((optimizer, optimizer.optimizer))
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    module = Automatic()
    fit(FederatedModule(module), FederatedDataModule({"ann": Rows([8.0])}))
    assert module.x.item() == 8.0
    for wrapped, bare in seen:
        assert isinstance(wrapped, LightningOptimizer)
        assert isinstance(wrapped, torch.optim.SGD)
        assert type(bare) is torch.optim.SGD
        assert wrapped.optimizer is bare
    assert len(seen) == 2


def test_in_a_hook_of_the_server_they_are_the_servers_and_that_is_said() -> None:
    seen = []

    class Asks(Manual):
        def on_train_epoch_end(self) -> None:
            seen.append(self.optimizers().param_groups[0]["lr"])

        def on_train_end(self) -> None:
            seen.append(self.optimizers().param_groups[0]["lr"])

    with pytest.warns(UserWarning, match=r"self.optimizers\(\) in a hook or step of Asks .* gives the server's"):
        fit(FederatedModule(Asks()), FederatedDataModule({"ann": Pairs(1)}))
    assert seen == [0.05, 1.0]


def test_gradients_of_the_worker_before_are_gone() -> None:
    """Three batches: the third one's gradients are left over, and nobody forgets them."""
    module, workers = Accumulating(), {"ann": Pairs(1, rows=9), "bob": Pairs(1, rows=9)}
    fit(FederatedModule(module), FederatedDataModule(workers))
    alone = Accumulating()
    fit(FederatedModule(alone), FederatedDataModule({"ann": Pairs(1, rows=9)}))
    torch.testing.assert_close(module.state_dict(), alone.state_dict())


# ---- what is refused, and how ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": FedNova()}, r"Manual optimizes manually .* NormalizedMean \(FedNova's\) needs the number of"),
        ({"aggregator": NormalizedMean()}, "needs the number of local steps"),
        (
            {"privacy": RecordDP(clip=1.0, noise_multiplier=1.0, sampling_rate=0.5, delta=1e-5)},
            "Manual optimizes manually .* RecordDP has to take the gradient of each example",
        ),
        ({"engine": Sequential(compile=True)}, "Manual optimizes manually .* leave compile=True out"),
    ],
)
def test_what_goes_by_single_steps_is_refused(options: dict[str, Any], message: str) -> None:
    module = Manual()
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=message):
        fit(FederatedModule(module, **options), FederatedDataModule({"ann": Pairs(1)}))
    assert all(tensor.equal(before[name]) for name, tensor in module.state_dict().items())


def test_without_an_optimizer_there_is_no_step_to_correct_gradients_before() -> None:
    with pytest.raises(
        RuntimeError,
        match=r"ByHand.configure_optimizers\(\) returned no optimizer, .* wherever they are made, or use FedAvg",
    ):
        fit(FederatedModule(ByHand(), algorithm=Scaffold()), FederatedDataModule({"ann": Pairs(1)}))


def test_it_goes_one_by_one_and_auto_says_why() -> None:
    data = FederatedDataModule({f"w{i}": Pairs(i) for i in range(5)})
    with pytest.raises(RuntimeError, match="Manual optimizes manually, one worker at a time"):
        fit(FederatedModule(Manual(), engine=Vectorized()), data)
    engine: Engine = Auto()
    fit(FederatedModule(Manual(), engine=engine), data)
    assert engine.choice == "sequential"


def test_several_optimizers_in_automatic_optimization_are_refused_with_both_ways_out() -> None:
    class Several(Scalar):
        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD([self.x], lr=1.0), torch.optim.SGD([self.x], lr=1.0)]

    says = r"Several.configure_optimizers\(\) returned 2 optimizers, .* parameter groups, or set self.automatic_optimi"
    with pytest.raises(ValueError, match=says):
        fit(FederatedModule(Several()), FederatedDataModule({"ann": Rows([1.0])}))


def test_what_lightning_refuses_is_refused_in_its_words() -> None:
    class Automatic(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.manual_backward(self.x)

    class Text(Manual):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return "done"

    with pytest.raises(RuntimeError, match=re.escape("worker 'ann' failed in round 0: ") + ".*manual_backward"):
        fit(FederatedModule(Automatic()), FederatedDataModule({"ann": Rows([1.0])}))
    with pytest.raises(RuntimeError, match="in manual optimization, training_step must return a tensor, a dict, or"):
        fit(FederatedModule(Text()), FederatedDataModule({"ann": Pairs(1)}))
    with pytest.raises(MisconfigurationException):  # as a plain Trainer does
        trainer().fit(Text(), Pairs(1))
