"""What workers' optimizers and schedulers remember: one worker that keeps all does what a plain Trainer does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, assert_equal, fit, trainer
from manual_modules import Adversarial, Manual, Pairs, Scheduled
from torch import optim
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LambdaLR

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Ditto, FedProx, QFedAvg
from lightning_fed.engines import Auto, Isolated, Vectorized, remarks
from lightning_fed.engines.remarks import Remark
from lightning_fed.wire import WorkerError

ROUNDS = 4
STEPS = 4  # in a pass over Pairs


class Configured(Manual):
    """A linear model, trained automatically by the optimizer and scheduler that are asked for."""

    def __init__(self, configure: Callable[[Any], Any]) -> None:
        super().__init__()
        self.automatic_optimization = True
        self.configure = configure

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.error(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self.configure(self)


def adafactor(module: Any) -> Any:
    """An optimizer that remembers rows and columns of a matrix; the test is skipped if torch has none (before 2.5)."""
    if "Adafactor" not in dir(optim):
        pytest.skip(f"torch {torch.__version__} has no Adafactor")
    return optim.Adafactor(module.parameters())


OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "momentum": lambda m: optim.SGD(m.parameters(), lr=0.01, momentum=0.9),
    "Nesterov": lambda m: optim.SGD(m.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1),
    "Adam": lambda m: optim.Adam(m.parameters(), lr=0.05),
    "AMSGrad": lambda m: optim.AdamW(m.parameters(), lr=0.05, amsgrad=True),
    "Adagrad": lambda m: optim.Adagrad(m.parameters(), lr=0.1),
    "Adadelta": lambda m: optim.Adadelta(m.parameters()),
    "NAdam": lambda m: optim.NAdam(m.parameters(), lr=0.05),
    "ASGD": lambda m: optim.ASGD(m.parameters(), lr=0.01),
    "Rprop": lambda m: optim.Rprop(m.parameters()),
    "Adafactor": adafactor,
    "two groups": lambda m: optim.Adam([{"params": [m.net.weight]}, {"params": [m.net.bias], "lr": 0.2}], lr=0.05),
}


def by_step(scheduler: Any) -> dict[str, Any]:
    return {"optimizer": scheduler.optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def sgd(module: Any, lr: Any = 0.05) -> optim.SGD:
    return optim.SGD(module.parameters(), lr=lr, momentum=0.5)


class OnePerCall:
    """A factor that falls with every call, whatever it is called with."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, step: int) -> float:
        self.calls += 1
        return 0.9**self.calls  # type: ignore[no-any-return]


class Listing(lr_scheduler.LRScheduler):
    """Keeps its last rates in a list, changed in place."""

    def __init__(self, optimizer: Any) -> None:
        self.past = [1.0, 1.0]
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        self.past[:] = [self.past[1], sum(self.past) / 2 * 0.9]
        return [rate * self.past[1] for rate in self.base_lrs]


def in_turns(module: Any) -> Any:
    optimizer = sgd(module)
    cyclic = lr_scheduler.CyclicLR(optimizer, 0.001, 0.05, step_size_up=3)
    return by_step(lr_scheduler.ChainedScheduler([cyclic, LambdaLR(optimizer, OnePerCall())]))


def noam(module: Any) -> Any:
    return by_step(LambdaLR(sgd(module), lambda step: min((step + 1) ** -0.5, (step + 1) * 5**-1.5)))


def one_cycle(module: Any) -> Any:
    steps = int(module.trainer.estimated_stepping_batches)
    return by_step(lr_scheduler.OneCycleLR(sgd(module), max_lr=0.1, total_steps=steps))


def cosine(module: Any) -> Any:
    optimizer = sgd(module)
    return [optimizer], [lr_scheduler.CosineAnnealingLR(optimizer, module.trainer.max_epochs)]


def in_a_row(module: Any) -> Any:
    optimizer = sgd(module)
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return by_step(lr_scheduler.SequentialLR(optimizer, parts, milestones=[6]))


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda m: [[o := sgd(m)], [lr_scheduler.StepLR(o, 2, gamma=0.1)]],
    "MultiStepLR": lambda m: [[o := sgd(m)], [lr_scheduler.MultiStepLR(o, [1, 3], gamma=0.1)]],
    "every third step": lambda m: {
        "optimizer": (o := sgd(m)),
        "lr_scheduler": {"scheduler": lr_scheduler.ExponentialLR(o, 0.5), "interval": "step", "frequency": 3},
    },
    "warm restarts": lambda m: [[o := sgd(m)], [lr_scheduler.CosineAnnealingWarmRestarts(o, 2)]],
    "Noam": noam,
    "OneCycle": one_cycle,
    "cosine over max_epochs": cosine,
    "one after the other": in_a_row,
    "cycles, and a factor that counts": in_turns,
    "a list that is changed in place": lambda m: by_step(Listing(sgd(m))),
    "a rate that is a tensor": lambda m: by_step(lr_scheduler.ExponentialLR(sgd(m, lr=torch.tensor(0.05)), 0.8)),
}


class Warming(Configured):
    """Sets its rate by hand, a little more in each step."""

    def __init__(self) -> None:
        super().__init__(lambda m: sgd(m, lr=0.01))

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        for group in optimizer.param_groups:
            group["lr"] *= 1.1
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)


KINDS: dict[str, Callable[[], pl.LightningModule]] = {
    **{name: lambda make=make: Configured(make) for name, make in {**OPTIMIZERS, **SCHEDULES}.items()},
    "a rate set by hand": Warming,
    "optimized manually": Scheduled,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # torch 2.4's SequentialLR gives one
def test_a_worker_that_remembers_all_does_what_a_trainer_does(kind: str) -> None:
    module, plain = KINDS[kind](), KINDS[kind]()
    trainer(max_epochs=ROUNDS).fit(plain, Pairs(1))
    fed = FederatedModule(module, local_optimizer_state="kept", local_schedule="continue")
    fit(fed, FederatedDataModule({"ann": Pairs(1)}), max_epochs=ROUNDS)
    assert_equal(module.state_dict(), plain.state_dict())


class Sparse(pl.LightningModule):
    """An embedding of the rows' numbers, whose gradients are sparse."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.table = torch.nn.Embedding(5, 2, sparse=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.table(batch[0].long()) - 1).square().mean()

    def configure_optimizers(self) -> Any:
        return optim.SparseAdam(list(self.parameters()), lr=0.1)


@pytest.mark.usefixtures("double")
def test_an_optimizer_that_takes_sparse_gradients_only_remembers_too() -> None:
    module, plain, rows = Sparse(), Sparse(), Rows([0.0, 1.0, 1.0, 4.0], batch_size=2)
    trainer(max_epochs=ROUNDS).fit(plain, rows)
    fit(FederatedModule(module, local_optimizer_state="kept"), FederatedDataModule({"ann": rows}), max_epochs=ROUNDS)
    assert_equal(module.state_dict(), plain.state_dict())


def test_by_hand_momenta_are_each_workers_own() -> None:
    """With momentum 0.5 and lr 1, from 0: ann goes to 8 and bob to -4, so both begin at 2; then ann's velocity is
    (2 - 8) + 0.5 * (-8) = -10, and bob's (2 + 4) + 0.5 * 4 = 8; without memory it is -6 and 6."""
    for state, end in (("fresh", 2.0), ("kept", (2 + 10 + 2 - 8) / 2)):
        scalar = Momentum()
        fed = FederatedModule(scalar, local_optimizer_state=state)
        fit(fed, FederatedDataModule({"ann": Rows([8.0]), "bob": Rows([-4.0])}), max_epochs=2)
        assert scalar.x.item() == end


class Momentum(Scalar):
    def configure_optimizers(self) -> Any:
        return optim.SGD(self.parameters(), lr=1.0, momentum=0.5)


def test_what_is_kept_is_own_state() -> None:
    fed = FederatedModule(Momentum(), local_optimizer_state="kept")
    fit(fed, FederatedDataModule({"ann": Rows([8.0]), "bob": Rows([-4.0])}))
    kept = fed.own_state["local.optimizer"]
    kind = kept["ann"][0].item()  # which optimizers they are
    assert {worker: row.tolist() for worker, row in kept.items()} == {"ann": [kind, 1.0, -8.0], "bob": [kind, 1.0, 4.0]}


def test_a_worker_that_fails_keeps_what_it_remembered_before() -> None:
    class Falters(Momentum):
        def on_train_epoch_end(self) -> None:
            if self.trainer.global_step == 1 and self.trainer.datamodule.values[0] > 0:
                raise RuntimeError("out of power")

    fed = FederatedModule(Falters(), local_optimizer_state="kept", on_worker_error="drop")
    fit(fed, FederatedDataModule({"ann": Rows([8.0]), "bob": Rows([-4.0])}), max_epochs=2)
    assert [failure.worker for failure in fed.last_report.failures] == ["ann"]
    assert fed.own_state["local.optimizer"]["ann"].tolist()[1:] == [1.0, -8.0]
    assert fed.own_state["local.optimizer"]["bob"].tolist()[1:] == [1.0, 8.0]


@pytest.mark.parametrize("kind", ["Adam", "OneCycle", "optimized manually"])
@pytest.mark.usefixtures("double")
def test_resuming_goes_on_where_the_workers_were(kind: str, tmp_path: Path) -> None:
    results = []
    for parts in ((ROUNDS,), (2, ROUNDS)):
        path = None
        for epochs in parts:
            module = KINDS[kind]()
            # The schedule is one over all rounds in either part, as it would be with a plain Trainer of max_epochs=4.
            run = trainer(max_epochs=ROUNDS, callbacks=[StopAfter(epochs)])
            options: Any = {"local_optimizer_state": "kept", "local_schedule": "continue"}
            fed = FederatedModule(module, algorithm=FedProx(0.1), **options)
            run.fit(fed, FederatedDataModule({"ann": Pairs(1), "bob": Pairs(2)}), ckpt_path=path)
            path = tmp_path / f"{kind}-{epochs}.ckpt"
            run.save_checkpoint(path)
        results.append(module.state_dict())
    assert all(tensor.equal(results[1][name]) for name, tensor in results[0].items())


class StopAfter(pl.Callback):
    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def test_a_process_of_its_own_remembers_the_same(isolated: Isolated) -> None:
    for kind in (Adaptive, Scheduled):
        results = []
        for engine in ("sequential", isolated):
            module = kind()
            options: Any = {"local_optimizer_state": "kept", "local_schedule": "continue"}
            fed = FederatedModule(module, engine=engine, **options)
            fit(fed, FederatedDataModule({"ann": Pairs(1), "bob": Pairs(2)}), max_epochs=3)
            results.append((module.state_dict(), fed.own_state))
        (one, of_one), (other, of_other) = results
        assert all(tensor.equal(other[name]) for name, tensor in one.items())
        assert of_one.keys() == of_other.keys() == {"local.optimizer", "local.schedule"}
        for table, rows in of_one.items():
            assert all(row.equal(of_other[table][worker]) for worker, row in rows.items())


class Adaptive(Configured):
    def __init__(self) -> None:
        super().__init__(_adaptive)


def _adaptive(module: Any) -> Any:
    return by_step(lr_scheduler.ExponentialLR(optim.Adam(module.parameters(), lr=0.1), 0.9))


def test_with_a_cohort_a_worker_counts_the_rounds_in_which_it_takes_part() -> None:
    """Half of the workers take part in each of 8 rounds of 2 epochs of 4 steps: 8 epochs and 32 steps are expected."""
    seen = []

    class Asks(Configured):
        def __init__(self) -> None:
            super().__init__(sgd)

        def on_train_epoch_start(self) -> None:
            seen.append((self.trainer.max_epochs, self.trainer.estimated_stepping_batches))

    data = FederatedDataModule({f"w{i}": Pairs(i) for i in range(4)}, cohort_size=2, rounds_per_epoch=4)
    fit(FederatedModule(Asks(), local_epochs=2, local_schedule="continue"), data, max_epochs=2)
    assert set(seen) == {(8, 32)}


# ---- what is said of schedulers that begin anew ---------------------------------------------------------------------


def test_a_scheduler_that_never_acts_is_said_once(engine: str) -> None:
    module = Stepped()
    fed = FederatedModule(module, engine=engine)
    data = FederatedDataModule({"ann": Pairs(1), "bob": Pairs(2)})
    with pytest.warns(Remark, match="the workers' StepLR begins anew in each round, and no step .*local_sched") as said:
        fit(fed, data, max_epochs=3)
    assert len([one for one in said if issubclass(one.category, Remark)]) == 1


class Stepped(Configured):
    def __init__(self) -> None:
        super().__init__(_stepped)


class SteppedByHand(Scheduled):
    """Its rates fall at the end of an epoch, when the round is over."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        Adversarial.training_step(self, batch, batch_idx)

    def on_train_epoch_end(self) -> None:
        for scheduler in self.lr_schedulers():
            scheduler.step()


def test_so_is_one_that_user_code_steps() -> None:
    with pytest.warns(Remark, match="workers' ExponentialLR begins anew in each round, and no step"):
        fit(FederatedModule(SteppedByHand()), FederatedDataModule({"ann": Pairs(1)}), max_epochs=2)


def _stepped(module: Any) -> Any:
    optimizer = sgd(module)
    return [optimizer], [lr_scheduler.StepLR(optimizer, 1)]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(remarks, "rank_zero_info", lines.append)
    return lines


def test_of_one_that_acts_within_a_round_the_log_says_that_it_begins_anew(log: list[str]) -> None:
    fit(FederatedModule(Configured(noam)), FederatedDataModule({"ann": Pairs(1)}), max_epochs=3)
    (said,) = log
    assert said.startswith(
        "The workers' LambdaLR begins anew in each round; FederatedModule(local_schedule='continue')"
    )


def test_nothing_is_said_of_one_that_goes_on(log: list[str]) -> None:
    fed = FederatedModule(Stepped(), local_schedule="continue")
    fit(fed, FederatedDataModule({"ann": Pairs(1)}), max_epochs=3)
    assert log == []


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_optimizer_state": "keep"}, "local_optimizer_state='keep' must be one of 'fresh', 'kept'"),
        ({"local_schedule": "restarts"}, "local_schedule='restarts' must be one of 'restart', 'continue'"),
        (
            {"local_optimizer_state": "kept", "algorithm": Ditto(0.1)},
            "='kept': Ditto trains a worker 2 times in a round",
        ),
        ({"local_schedule": "continue", "algorithm": QFedAvg(1.0, lr=0.1)}, "='continue': QFedAvg trains a worker 2"),
    ],
)
def test_wrong_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FederatedModule(Scalar(), **options)


def test_an_optimizer_that_remembers_no_numbers_for_each_parameter_is_refused_at_the_start() -> None:
    class ByLBFGS(Scalar):
        def configure_optimizers(self) -> Any:
            return optim.LBFGS(self.parameters())

    fed = FederatedModule(ByLBFGS(), local_optimizer_state="kept")
    with pytest.raises(ValueError, match=r"what LBFGS remembers is not a few numbers .*='fresh'"):
        fit(fed, FederatedDataModule({"ann": Rows([1.0])}))


def test_optimizers_that_are_made_elsewhere_are_not_kept_and_that_is_said_at_the_start() -> None:
    class MakesItsOwn(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return None

    fed = FederatedModule(MakesItsOwn(), local_optimizer_state="kept")
    with pytest.raises(
        ValueError, match=r"^local_optimizer_state='kept': configure_optimizers\(\) returned no optimizer"
    ):
        fit(fed, FederatedDataModule({"ann": Rows([1.0])}))


class StepsAnother(Manual):
    """Steps what configure_optimizers returns, and a second one."""

    def __init__(self) -> None:
        super().__init__()
        self.other = optim.SGD([self.net.bias], lr=0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.other.step()
        return loss


def test_so_is_one_beside_those_that_are_kept(engine: Any) -> None:
    if engine == "vectorized":
        engine = "auto"
    module, data = StepsAnother(), FederatedDataModule({"ann": Pairs(1)})
    start = module.net.weight.detach().clone()
    says = (
        r"worker 'ann' failed in round 0: .*local_optimizer_state='kept': training steps the SGD that "
        r"configure_optimizers\(\) does not return, so nothing of it would be kept; return it there, or take"
    )
    with pytest.raises(WorkerError, match=says):
        fit(
            FederatedModule(module, local_optimizer_state="kept", engine=engine), FederatedDataModule({"ann": Pairs(1)})
        )
    assert module.net.weight.equal(start)
    fit(FederatedModule(module, engine=engine), data)
    assert not module.net.weight.equal(start)


class Odd(optim.SGD):
    """Remembers something elsewhere than in a few numbers for each parameter."""

    def __init__(self, parameters: Any, where: str) -> None:
        super().__init__(parameters, lr=0.01, momentum=0.9)
        self.where, self.count = where, 0
        self.inner = optim.Adam(self.param_groups) if where == "in another optimizer" else None

    def step(self, closure: Any = None) -> Any:
        value = super().step(closure)
        if self.where == "in an attribute":
            self.count += 1
        for group in self.param_groups:
            if self.where == "in a group":
                group["count"] = group.get("count", 0) + 1
            for parameter in group["params"]:
                state = self.state[parameter]
                state["steps"] = state.get("steps", 0) + 1
                if self.where == "from its second step on" and state["steps"] > 1:
                    state["slow"] = parameter.detach().clone()
        return value


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("in an attribute", "what Odd remembers is not a few numbers for each parameter"),
        ("in another optimizer", "what Odd remembers is not a few numbers for each parameter"),
        ("from its second step on", "what Odd remembers is not a few numbers for each parameter"),
        ("in a group", "Odd remembers something in the settings .* take local_schedule='continue' too"),
    ],
)
def test_nothing_that_an_optimizer_remembers_is_left_out_in_silence(where: str, message: str) -> None:
    fed = FederatedModule(Configured(lambda m: Odd(m.parameters(), where)), local_optimizer_state="kept")
    with pytest.raises((ValueError, RuntimeError), match=message):
        fit(fed, FederatedDataModule({"ann": Pairs(1)}))


@pytest.mark.parametrize("option", [{"local_optimizer_state": "kept"}, {"local_schedule": "continue"}])
def test_a_parameter_group_that_comes_in_training_is_refused(option: dict[str, Any]) -> None:
    class Grows(Configured):
        def __init__(self) -> None:
            super().__init__(lambda m: sgd(m.net))
            self.more = torch.nn.Linear(3, 1)

        def on_train_epoch_start(self) -> None:
            self.optimizers().add_param_group({"params": list(self.more.parameters()), "lr": 0.1})

    fit(FederatedModule(Grows()), FederatedDataModule({"ann": Pairs(1)}), max_epochs=2)
    fed = FederatedModule(Grows(), **option)
    with pytest.raises(RuntimeError, match=r"training gave an optimizer a parameter group .* keep nothing"):
        fit(fed, FederatedDataModule({"ann": Pairs(1)}))


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ("RMSprop", "Adagrad", "is of other optimizers .* or with local_optimizer_state='fresh'"),
        ("Adam", "momentum", "is of other optimizers .* or with local_optimizer_state='fresh'"),
        ("StepLR", "MultiStepLR", "is of other schedulers or optimizers .* or with local_schedule='restart'"),
    ],
)
def test_what_is_kept_goes_to_no_other_optimizers_and_schedulers(
    before: str, now: str, message: str, tmp_path: Path
) -> None:
    options: Any = {"local_optimizer_state": "kept", "local_schedule": "continue"}
    kinds = {"RMSprop": lambda m: optim.RMSprop(m.parameters(), lr=0.1), **OPTIMIZERS, **SCHEDULES}
    data = FederatedDataModule({"ann": Pairs(1)})
    fit(FederatedModule(Configured(kinds[before]), **options), data).save_checkpoint(tmp_path / "a.ckpt")
    fed = FederatedModule(Configured(kinds[now]), **options)
    with pytest.raises(RuntimeError, match=f"worker 'ann' failed in round 1: .*{message}"):
        trainer(max_epochs=2).fit(fed, data, ckpt_path=tmp_path / "a.ckpt")


def test_a_scheduler_whose_state_is_no_numbers_is_refused() -> None:
    class Odd(lr_scheduler.LRScheduler):
        seen: Any = None

        def get_lr(self) -> list[float]:
            self.seen = {1, 2}
            return [group["lr"] for group in self.optimizer.param_groups]

    class Unseen(Odd):
        def __init__(self, optimizer: Any) -> None:
            super().__init__(optimizer)
            self.seen = None

    fed = FederatedModule(Configured(lambda m: by_step(Unseen(sgd(m)))), local_schedule="continue")
    with pytest.raises(RuntimeError, match="a scheduler or optimizer remembers a set, which cannot be kept"):
        fit(fed, FederatedDataModule({"ann": Pairs(1)}))


def test_workers_that_remember_go_one_by_one_and_auto_says_why() -> None:
    data = FederatedDataModule({f"w{i}": Rows([1.0]) for i in range(5)})
    with pytest.raises(RuntimeError, match="with local_optimizer_state='kept' each worker goes on from where it was"):
        fit(FederatedModule(Momentum(), engine=Vectorized(), local_optimizer_state="kept"), data)
    engine = Auto()
    fit(FederatedModule(Momentum(), engine=engine, local_schedule="continue"), data)
    assert engine.choice == "sequential"


class Halves(Scalar):
    """Trains what requires gradients, as BackboneFinetuning asks for: first x alone."""

    def __init__(self) -> None:
        super().__init__(lr=0.1)
        self.first = Parameter(torch.tensor(0.0), requires_grad=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.first

    def configure_optimizers(self) -> Any:
        return optim.SGD([p for p in self.parameters() if p.requires_grad], lr=self.lr, momentum=0.5)


class Unfreeze(pl.Callback):
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.first.requires_grad_(trainer.current_epoch > 0)


@pytest.mark.parametrize("options", [{}, {"local_schedule": "continue"}, {"local_optimizer_state": "kept"}])
def test_a_layer_that_is_unfrozen_takes_no_momentum_of_another(options: dict[str, Any]) -> None:
    data = FederatedDataModule({"a": Rows([1.0])})
    fed = FederatedModule(Halves(), **options)
    if "local_optimizer_state" not in options:
        fit(fed, data, max_epochs=2, callbacks=[Unfreeze()])
        assert fed.module.first.item() == pytest.approx(-0.1)
        return
    with pytest.raises(ValueError, match=r"local_optimizer_state='kept' remembers .*'first' was frozen or unfrozen"):
        fit(fed, data, max_epochs=2, callbacks=[Unfreeze()])
