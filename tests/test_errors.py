"""What goes wrong, and what is said about it: who, in which round, why, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset

from lightning_fed import FederatedDataModule, FederatedModule, RoundError, WorkerError
from lightning_fed.algorithms import Cyclic, Ditto, FedAvg, FedBN, FedDyn, Scaffold
from lightning_fed.privacy import CentralDP
from lightning_fed.server.checks import refuse_unsupported
from lightning_fed.transforms import ClipNorm


class Cause(Exception):
    pass


class Model(Scalar):
    """A Scalar with a buffer that every step changes, and that fails where a batch says so (with a value of 666)."""

    bad = False

    def __init__(self, fails: str = "training_step") -> None:
        super().__init__()
        self.fails = fails
        self.y = nn.Parameter(torch.tensor([0.1, 0.2]))
        self.register_buffer("steps", torch.tensor(0.0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.steps += 1
        Model.bad = bool((batch[0] == 666).any())
        self.fail("training_step")
        return super().training_step(batch, batch_idx) + self.y.square().sum()

    def on_after_backward(self) -> None:
        self.fail("backward")

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.fail("optimizer_step")

    def fail(self, where: str) -> None:
        if self.bad and self.fails == where:
            raise Cause("out of memory")


def failing(method: str) -> Callable[[], Rows]:
    """Make the data of a worker whose datamodule raises in a method."""

    def fail(self: Any, *_: Any) -> Any:
        raise Cause("out of memory")

    return lambda: type("Failing", (Rows,), {method: fail})([6.0])


class BadRow(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            raise Cause("out of memory")
        return (torch.tensor(6.0),)


class BadRows(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(BadRow())


class Stream:
    def __iter__(self) -> Iterator[Any]:
        yield [torch.tensor([6.0])]
        raise Cause("out of memory")


class BrokenStream(Rows):
    def train_dataloader(self) -> Any:
        return Stream()


FAILURES: dict[str, tuple[str, Callable[[], Rows]]] = {
    "prepare_data": ("data", failing("prepare_data")),
    "setup": ("data", failing("setup")),
    "train_dataloader": ("data", failing("train_dataloader")),
    "transfer_batch_to_device": ("data", failing("transfer_batch_to_device")),
    "__getitem__": ("data", lambda: BadRows([6.0])),
    "an iterable": ("data", lambda: BrokenStream([6.0])),
    "training_step": ("training_step", lambda: Rows([6.0, 666.0], batch_size=1)),
    "backward": ("backward", lambda: Rows([6.0, 666.0], batch_size=1)),
    "optimizer_step": ("optimizer_step", lambda: Rows([6.0, 666.0], batch_size=1)),
}


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_unchanged(module: nn.Module, before: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)


class AfterRounds(pl.Callback):
    """Keeps the global model after every round."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.states.append(state(module.module))


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("algorithm", [FedAvg(), Cyclic()], ids=["FedAvg", "Cyclic"])
def test_raise_names_worker_round_and_cause_and_leaves_the_global_model(failure: str, algorithm: Any) -> None:
    fails, bad = FAILURES[failure]
    module = Model(fails)
    before = state(module)
    data = FederatedDataModule({"good": Rows([2.0]), "bad": bad(), "other": Rows([4.0])})
    with pytest.raises(WorkerError, match=r"^worker 'bad' failed in round 0: Cause: out of memory$") as caught:
        fit(FederatedModule(module, algorithm), data)
    assert isinstance(caught.value.__cause__, Cause)
    assert (caught.value.worker, caught.value.round) == ("bad", 0)
    assert_unchanged(module, before)


@pytest.mark.parametrize("failure", FAILURES)
def test_drop_goes_on_with_the_others_as_if_there_were_no_more(failure: str) -> None:
    fails, bad = FAILURES[failure]
    with_bad, without = Model(fails), Model(fails)
    others = {"good": Rows([2.0, 2.0]), "other": Rows([5.0])}
    fed = FederatedModule(with_bad, on_worker_error="drop")
    run = fit(fed, FederatedDataModule({"bad": bad(), **others}), max_epochs=2)
    fit(FederatedModule(without), FederatedDataModule(others), max_epochs=2)
    assert run.global_step == 2
    assert_unchanged(with_bad, state(without))
    assert with_bad.x.item() == 3.0
    assert [str(error) for error in fed.last_report.failures] == [
        "worker 'bad' failed in round 1: Cause: out of memory"
    ]
    assert list(fed.last_report.workers) == ["good", "other"]


def test_a_later_round_is_named_and_the_rounds_before_stay() -> None:
    class Later(Rows):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            if self.trainer is not None and self.trainer.global_step == 2:
                raise Cause("out of memory")
            return batch

    module, rounds = Model(), AfterRounds()
    data = FederatedDataModule({"bad": Later([6.0])})
    with pytest.raises(WorkerError, match="worker 'bad' failed in round 2"):
        fit(FederatedModule(module), data, max_epochs=5, callbacks=[rounds])
    assert len(rounds.states) == 2
    assert_unchanged(module, rounds.states[-1])


# ---- updates that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("transforms", [(), (ClipNorm(100.0),)], ids=["plain", "clipped"])
@pytest.mark.parametrize("algorithm", [FedAvg(), Cyclic()], ids=["FedAvg", "Cyclic"])
def test_an_update_that_is_not_finite_is_like_any_failure(value: float, transforms: Any, algorithm: Any) -> None:
    data = {"bad": Rows([value]), "good": Rows([3.0])}
    module = Model()
    before = state(module)
    with pytest.raises(WorkerError, match=r"worker 'bad' failed in round 0: .*NaN or Inf.*learning rate.*drop"):
        fit(FederatedModule(module, algorithm, transforms=transforms), FederatedDataModule(data))
    assert_unchanged(module, before)
    fed = FederatedModule(module, algorithm, transforms=transforms, on_worker_error="drop")
    fit(fed, FederatedDataModule(data))
    assert module.x.item() == 3.0
    assert [failure.worker for failure in fed.last_report.failures] == ["bad"]


class Masked(Scalar):
    """Holds an infinity on purpose, and a statistic that may become one by accident."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1))
        self.register_buffer("mean", torch.tensor(0.0))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.mean.copy_(batch[0].mean())
        return (self.x - batch[0].nan_to_num(0.0, 0.0)).square().mean() / 2


def test_an_infinity_that_was_there_before_is_no_failure() -> None:
    module = Masked()
    before = module.mask.clone()
    fit(FederatedModule(module), FederatedDataModule({"a": Rows([2.0, 2.0]), "b": Rows([5.0])}), max_epochs=2)
    assert (module.x.item(), module.mean.item()) == (3.0, 3.0)
    assert torch.equal(module.mask, before)


def test_a_buffer_that_becomes_infinite_is_a_failure() -> None:
    with pytest.raises(WorkerError, match=r"worker 'b' failed in round 0: .*NaN or Inf"):
        fit(FederatedModule(Masked()), FederatedDataModule({"a": Rows([2.0]), "b": Rows([math.inf])}))


# ---- quorum ----------------------------------------------------------------------------------------------------------


def test_too_few_workers_fail_the_round_and_every_failure_is_told() -> None:
    module = Model()
    before = state(module)
    data = {"a": failing("setup")(), "b": Rows([2.0]), "c": Rows([math.nan])}
    fed = FederatedModule(module, on_worker_error="drop", min_workers=2)
    with pytest.raises(RoundError) as caught:
        fit(fed, FederatedDataModule(data))
    message = str(caught.value)
    assert "round 0: 1 workers are left, but min_workers=2" in message
    assert "worker 'a' failed in round 0: Cause: out of memory" in message
    assert "worker 'c' failed in round 0: its update has NaN" in message
    assert_unchanged(module, before)


def test_enough_workers_do() -> None:
    data = {"a": failing("setup")(), "b": Rows([2.0]), "c": Rows([4.0])}
    fed = FederatedModule(Scalar(), on_worker_error="drop", min_workers=2)
    fit(fed, FederatedDataModule(data))
    assert fed.module.x.item() == 3.0


def test_a_round_in_which_all_fail_is_refused_even_with_drop() -> None:
    with pytest.raises(RoundError, match="round 0: 0 workers are left, but min_workers=1"):
        fit(FederatedModule(Scalar(), on_worker_error="drop"), FederatedDataModule({"a": failing("setup")()}))


# ---- data ------------------------------------------------------------------------------------------------------------


class Dropping(Rows):
    def train_dataloader(self) -> Any:
        return DataLoader(super().train_dataloader().dataset, batch_size=8, drop_last=True)


class Nothing(Rows):
    def train_dataloader(self) -> Any:
        return iter(())


class NoLoader(Rows):
    train_dataloader = pl.LightningDataModule.train_dataloader


class Absent(Rows):
    def train_dataloader(self) -> Any:
        return None


class Number(Rows):
    def train_dataloader(self) -> Any:
        return 3


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Rows([]), "it has no training examples; give it data or leave it out of `workers`"),
        (Rows([], shuffle=True), "it has no training examples; give it data or leave it out of `workers`"),
        (Dropping([1.0]), "gives no batch from 1 examples; give it a smaller batch_size or drop_last=False"),
        (Nothing([1.0]), "its train_dataloader gave no batch in pass 1"),
        (
            NoLoader([1.0]),
            r"its NoLoader gives no train_dataloader\(\); let it return a DataLoader, or leave it out of",
        ),
        (Absent([1.0]), r"its Absent gives no train_dataloader\(\); let it return a DataLoader, or leave it out of"),
        (Number([1.0]), "returned a int, which is no iterable of batches; return a DataLoader, another iterable"),
    ],
    ids=["empty", "empty shuffled", "drop_last", "empty iterator", "no loader", "None", "no iterable"],
)
def test_a_worker_without_batches_is_named(data: Rows, message: str) -> None:
    with pytest.raises(WorkerError, match=f"worker 'poor' failed in round 0: .*{message}"):
        fit(FederatedModule(Scalar()), FederatedDataModule({"rich": Rows([1.0]), "poor": data}))


def test_an_iterator_that_is_used_up_after_one_pass_is_told() -> None:
    class Once(Rows):
        def train_dataloader(self) -> Any:
            return iter([[torch.tensor([1.0])]])

    with pytest.raises(WorkerError, match=r"worker 'a' failed in round 0: .*gave no batch in pass 2"):
        fit(FederatedModule(Scalar(), local_epochs=2), FederatedDataModule({"a": Once([1.0])}))


def test_a_plain_loader_or_nothing_is_refused() -> None:
    class Loader(Scalar):
        def train_dataloader(self) -> Any:
            return Rows([1.0]).train_dataloader()

    needs = r"FederatedModule needs a FederatedDataModule, as in trainer.fit\(fed, FederatedDataModule\(.*"
    with pytest.raises(TypeError, match=needs + "a DataLoader$"):
        trainer().fit(FederatedModule(Scalar()), Rows([1.0]).train_dataloader())
    with pytest.raises(TypeError, match=needs + "a Rows$"):
        trainer().fit(FederatedModule(Scalar()), Rows([1.0]))


# ---- modules, arguments and strategies -------------------------------------------------------------------------------


class NoStep(pl.LightningModule):
    configure_optimizers = Scalar.configure_optimizers


class NoOptimizer(pl.LightningModule):
    training_step = Scalar.training_step


class Frozen(Scalar):
    def __init__(self) -> None:
        super().__init__()
        self.x.requires_grad_(False)


class Fetches(Scalar):
    def training_step(self, dataloader_iter: Any) -> Any:
        batch, batch_idx, _ = next(dataloader_iter)
        return super().training_step(batch, batch_idx)


class FetchesInValidation(Scalar):
    def validation_step(self, dataloader_iter: Any) -> None:
        next(dataloader_iter)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.parametrize(
    ("module", "message"),
    [
        (NoStep, r"NoStep has no training_step\(\); local training needs it"),
        (NoOptimizer, r"NoOptimizer has no configure_optimizers\(\); local training needs it"),
        (Frozen, "Frozen has no parameter with requires_grad; there is nothing to train"),
        (
            Fetches,
            r"Fetches.training_step\(dataloader_iter\) fetches batches by itself.*training_step\(batch, batch_idx",
        ),
        (FetchesInValidation, r"FetchesInValidation.validation_step\(dataloader_iter\) fetches"),
    ],
)
def test_a_module_that_cannot_be_trained_is_refused(module: Callable[[], pl.LightningModule], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(FederatedModule(module()), FederatedDataModule({"a": Rows([1.0])}))


def test_a_module_that_is_only_evaluated_needs_no_training() -> None:
    class Evaluated(pl.LightningModule):
        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("mean", batch[0].mean())

    data = FederatedDataModule({"a": EvaluatedRows([1.0, 3.0])})
    assert trainer().test(FederatedModule(Evaluated()), data, verbose=False) == [{"mean": 2.0}]


@pytest.mark.parametrize("where", ["setup", "configure_model"])
def test_layers_may_be_made_when_the_run_starts(where: str) -> None:
    def make(self: Any, stage: str = "") -> None:
        self.x = nn.Parameter(torch.tensor(0.0))

    late = type("Late", (Scalar,), {where: make})()
    del late.x
    fit(FederatedModule(late), FederatedDataModule({"a": Rows([1.0, 3.0])}))
    assert late.x.item() == 2.0


def two(module: pl.LightningModule) -> Any:
    return [torch.optim.SGD(module.parameters(), lr=1.0) for _ in range(2)]


@pytest.mark.parametrize(
    ("configure", "message"),
    [(two, "returned 2 optimizers"), (lambda module: None, "returned None")],
)
def test_optimizers_that_no_worker_can_use_are_refused_even_with_drop(configure: Any, message: str) -> None:
    module = type("Own", (Scalar,), {"configure_optimizers": configure})()
    with pytest.raises(ValueError, match=rf"Own.configure_optimizers\(\).*{message}"):
        fit(FederatedModule(module, on_worker_error="drop"), FederatedDataModule({"a": Rows([1.0])}))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"module": nn.Linear(1, 1)}, TypeError, "module must be a .*LightningModule, not Linear"),
        ({"module": Scalar}, TypeError, "module must be a .*LightningModule, not "),
        ({"algorithm": "fedavg"}, TypeError, "algorithm must be an Algorithm"),
        ({"algorithm": FedAvg}, TypeError, "algorithm must be an Algorithm"),
        ({"aggregator": "mean"}, TypeError, "aggregator must be an Aggregator"),
        ({"transforms": [1.0]}, TypeError, "transforms"),
        ({"transforms": ClipNorm(1.0)}, TypeError, "transforms"),
        ({"engine": "fast"}, ValueError, "engine='fast' must be one of 'auto', 'sequential'"),
        ({"on_worker_error": "ignore"}, ValueError, "on_worker_error='ignore' must be one of 'raise', 'drop'"),
        ({"min_workers": 0}, ValueError, "min_workers=0 must be at least 1"),
        ({"local_epochs": 0}, ValueError, "local_epochs=0"),
        ({"local_steps": 0}, ValueError, "local_steps=0"),
        ({"server_optimizer": torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)}, TypeError, "server_optimizer"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FederatedModule(**{"module": Scalar(), **arguments})


def test_a_cohort_larger_than_the_population_is_refused() -> None:
    with pytest.raises(ValueError, match="cohort_size=3 must lie between 1 and the population of 2 workers"):
        FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])}, cohort_size=3)


def test_a_quorum_larger_than_the_cohort_can_never_be_met() -> None:
    with pytest.raises(ValueError, match=r"min_workers=3 .*cohort"):
        fit(FederatedModule(Scalar(), min_workers=3), FederatedDataModule({"a": Rows([1.0]), "b": Rows([2.0])}))


def test_a_strategy_that_divides_the_model_is_refused() -> None:
    class FSDPStrategy:
        pass

    run = trainer()
    run.datamodule = FederatedDataModule({"a": Rows([1.0])})  # type: ignore[attr-defined]
    run._accelerator_connector.strategy = FSDPStrategy()
    with pytest.raises(ValueError, match=r"strategy FSDPStrategy cannot work: .*Use strategy='auto' or 'ddp'"):
        refuse_unsupported(Scalar(), run)


# ---- evaluation data -------------------------------------------------------------------------------------------------


class Validating(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", batch[0].mean())


class BrokenValidation(Rows):
    def val_dataloader(self) -> Any:
        def batches() -> Iterator[Any]:
            yield [torch.tensor([3.0])]
            raise Cause("disk")

        return batches()


class Validated(Rows):
    def val_dataloader(self) -> Any:
        return self.train_dataloader()


@pytest.fixture
def broken() -> FederatedDataModule:
    return FederatedDataModule({"bad": BrokenValidation([1.0]), "good": Validated([6.0])})


def test_a_workers_evaluation_data_that_raises_is_named(broken: FederatedDataModule) -> None:
    with pytest.raises(
        WorkerError, match="worker 'bad' failed in round 1: its val_dataloader raised Cause: disk"
    ) as caught:
        fit(FederatedModule(Validating()), broken, num_sanity_val_steps=0)
    assert isinstance(caught.value.__cause__, Cause)


def test_with_drop_evaluation_goes_on_without_it(broken: FederatedDataModule) -> None:
    fed = FederatedModule(Validating(), on_worker_error="drop")
    with pytest.warns(UserWarning, match="worker 'bad' .* disk; the evaluation goes on without it"):
        run = fit(fed, broken, num_sanity_val_steps=0)
    assert run.callback_metrics["mean"].item() == 6.0  # not a part of the other's data, whose first batch was there
    assert fed.last_evaluation.workers == {"good": {"mean": 6.0}}
    assert [failure.worker for failure in fed.last_evaluation.failures] == ["bad"]


class FailingSteps(Scalar):
    """Stumbles over negative rows."""

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if batch[0].min() < 0:
            raise Cause("mine")
        return batch[0]

    test_step = validation_step
    predict_step = validation_step


STEPS = {"validate": "validation_step", "test": "test_step", "predict": "predict_step"}


@pytest.mark.parametrize("stage", list(STEPS))
def test_an_error_of_the_users_evaluation_step_names_the_worker(stage: str) -> None:
    data = FederatedDataModule({"good": EvaluatedRows([1.0]), "bad": EvaluatedRows([-1.0])})
    with pytest.raises(
        WorkerError, match=rf"^worker 'bad' failed in round 0: {STEPS[stage]}\(\) on its data raised Cause: mine$"
    ) as caught:
        getattr(trainer(), stage)(FederatedModule(FailingSteps()), data)
    assert isinstance(caught.value.__cause__, Cause)


@pytest.mark.filterwarnings("ignore:predict returned None")
def test_the_predictions_of_a_worker_that_is_dropped_are_missing() -> None:
    data = FederatedDataModule(
        {"bad": EvaluatedRows([2.0, -1.0, 3.0], batch_size=1), "good": EvaluatedRows([4.0])}, seed=1
    )
    fed = FederatedModule(FailingSteps(), on_worker_error="drop")
    with pytest.warns(UserWarning, match="worker 'bad' .* mine; the evaluation goes on without it"):
        predicted = trainer().predict(fed, data)
    assert [None if p is None else p.item() for p in predicted or []] == [2.0, None, None, 4.0]


def test_an_evaluation_in_which_all_fail_is_refused_even_with_drop() -> None:
    data = FederatedDataModule({name: EvaluatedRows([-1.0]) for name in "ab"})
    fed = FederatedModule(FailingSteps(), on_worker_error="drop")
    with (
        pytest.warns(UserWarning, match="goes on without it"),
        pytest.raises(RoundError, match=r"no worker is left whose data could be evaluated.*\n.*'a'.*\n.*'b'"),
    ):
        trainer().validate(fed, data, verbose=False)


def test_an_error_about_central_data_is_left_as_it_is() -> None:
    data = FederatedDataModule({"a": Rows([1.0])}, val=EvaluatedRows([-1.0]))
    with pytest.raises(Cause, match=r"^mine$"):
        trainer().validate(FederatedModule(FailingSteps()), data, verbose=False)


def test_after_an_evaluation_that_failed_the_next_one_is_right(broken: FederatedDataModule) -> None:
    fed, run = FederatedModule(Validating()), trainer()
    with pytest.raises(WorkerError):
        run.validate(fed, broken, verbose=False)
    (metrics,) = run.validate(fed, FederatedDataModule({"a": Validated([1.0])}), verbose=False)
    assert metrics == {"mean": 1.0}


# ---- what a bad worker leaves of itself, and of others ---------------------------------------------------------------


class Normed(pl.LightningModule):
    """A regression with a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        (values,) = batch
        return (self.layer(self.norm(values.unsqueeze(1))).squeeze(1) - values).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("error", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class BadFrom(EvaluatedRows):
    """Rows that cannot be read in training from some round on."""

    def __init__(self, values: list[float], round: int = 0) -> None:
        super().__init__(values)
        self.round = round

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        if self.trainer is not None and self.trainer.training and self.trainer.global_step >= self.round:
            raise Cause("out of memory")
        return batch


GOOD = {"ann": [1.0, 3.0, 4.0], "bob": [2.0, 7.0], "cyd": [5.0, 6.0, 9.0]}


def good(kind: type[Rows] = EvaluatedRows) -> dict[str, pl.LightningDataModule]:
    return {name: kind(values) for name, values in GOOD.items()}


def train(module: pl.LightningModule, data: dict[str, Any], rounds: int = 2, **options: Any) -> FederatedModule:
    torch.manual_seed(0)
    fed = FederatedModule(module, on_worker_error="drop", **options)
    fit(fed, FederatedDataModule(data), max_epochs=rounds, limit_val_batches=0)
    return fed


def normed() -> Normed:
    torch.manual_seed(0)
    return Normed()


@pytest.mark.parametrize("engine", ["sequential", "vectorized", "auto"])
@pytest.mark.parametrize("places", [("first",), ("last",), ("first", "last"), ("first", "second", "last")], ids=str)
@pytest.mark.usefixtures("double")
def test_several_may_be_bad_at_any_place(engine: Any, places: tuple[str, ...]) -> None:
    bad = {place: BadFrom([8.0, 6.0]) for place in places}
    last = {"last": bad.pop("last")} if "last" in bad else {}
    fed = train(normed(), {**bad, **good(), **last}, engine=engine)
    assert [failure.worker for failure in fed.last_report.failures] == list(places)
    assert_equal(state(fed.module), state(train(normed(), good(), engine="sequential").module))


@pytest.mark.parametrize("engine", ["sequential", "vectorized", "auto"])
def test_where_all_are_bad_each_is_named_and_the_model_stays(engine: Any) -> None:
    module = normed()
    before = state(module)
    with pytest.raises(RoundError) as caught:
        train(module, {name: BadFrom(values) for name, values in GOOD.items()}, engine=engine)
    for name in GOOD:
        assert f"worker {name!r} failed in round 0: Cause: out of memory" in str(caught.value)
    assert_unchanged(module, before)


OWN_STATE: dict[str, Callable[[], Any]] = {
    "Scaffold": Scaffold,
    "FedBN": FedBN,
    "Ditto": lambda: Ditto(lam=0.1),
    "FedDyn": lambda: FedDyn(alpha=0.1),
}


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.parametrize("algorithm", OWN_STATE)
@pytest.mark.usefixtures("double")
def test_a_bad_workers_own_state_is_what_it_was_and_the_others_is_as_without_it(algorithm: str, engine: Any) -> None:
    """It takes part in the first round, and fails in the two after it."""
    make = OWN_STATE[algorithm]
    once = train(normed(), {**good(), "bad": EvaluatedRows([8.0, 6.0])}, 1, algorithm=make(), engine=engine)
    fed = train(normed(), {**good(), "bad": BadFrom([8.0, 6.0], round=1)}, 3, algorithm=make(), engine=engine)
    assert [failure.worker for failure in fed.last_report.failures] == ["bad"]
    assert fed.own_state
    for table, rows in fed.own_state.items():
        assert_equal(rows["bad"], once.own_state[table]["bad"])
        assert not torch.equal(rows["ann"], once.own_state[table]["ann"])


@pytest.mark.usefixtures("double")
def test_a_bad_workers_personal_model_is_still_evaluated() -> None:
    data = {**good(), "bad": BadFrom([8.0, 6.0], round=1)}
    once = train(normed(), {**good(), "bad": EvaluatedRows([8.0, 6.0])}, 1, algorithm=FedBN())
    fed = train(normed(), data, 2, algorithm=FedBN())
    assert_equal(
        dict(fed.personal_module("bad").norm.state_dict()), dict(once.personal_module("bad").norm.state_dict())
    )
    (metrics,) = trainer().validate(fed, FederatedDataModule(data), verbose=False)
    assert math.isfinite(metrics["error"])


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
@pytest.mark.usefixtures("double")
@pytest.mark.filterwarnings("ignore:CentralDP. noise comes from the seed")
def test_under_a_promise_a_bad_worker_counts_as_one_that_sends_zeros(engine: Any) -> None:
    """The sum is divided by a number that does not depend on who failed."""

    def trained(other: Rows) -> FederatedModule:
        privacy = CentralDP(clip=0.5, noise_multiplier=1.0, insecure_deterministic_noise=True)
        return train(
            Scalar(), {"ann": Rows([1.0]), "bob": Rows([2.0]), "other": other}, 1, privacy=privacy, engine=engine
        )

    failed, zeros = trained(failing("setup")()), trained(Rows([0.0]))  # a Scalar at 0 does not move on a 0
    assert_equal(state(failed.module), state(zeros.module))
