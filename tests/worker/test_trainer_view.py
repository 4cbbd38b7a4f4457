"""A worker's ``self.trainer``: what a plain Trainer says and does in the local training, and nothing of other workers'.

With lr 1 a step of ``Scalar`` goes to the batch's mean: x becomes the last value that a worker has seen.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import Rows, Scalar, fit, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.engines import Isolated, Vectorized
from lightning_fed.wire import WorkerError
from lightning_fed.worker.trainer_view import TrainerView

OF_THE_FIT = ("accumulate_grad_batches", "estimated_stepping_batches", "gradient_clip_algorithm", "gradient_clip_val")
OF_THE_FIT += ("is_last_batch", "limit_train_batches", "max_epochs", "max_steps", "min_epochs", "min_steps")
OF_THE_FIT += ("num_devices", "num_nodes", "num_training_batches", "overfit_batches", "should_stop", "world_size")


@pytest.mark.parametrize("length", [{"epochs": 2}, {"steps": 3}, {"steps": 5}], ids=str)
def test_it_says_what_a_plain_trainer_does(length: dict[str, int]) -> None:
    said: list[dict[str, Any]] = []

    class Looking(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            said.append({name: getattr(self.trainer, name) for name in OF_THE_FIT})
            return super().training_step(batch, batch_idx)

    rows = Rows([1.0, 2.0, 3.0], batch_size=1)
    trainer(**{f"max_{name}": n for name, n in length.items()}).fit(Looking(), rows)
    plain = said.copy()
    assert len(plain) == length.get("steps", 6)
    said.clear()
    fed = FederatedModule(Looking(), engine="sequential", **{f"local_{name}": n for name, n in length.items()})
    others = {"gradient_clip_val": 1.0, "accumulate_grad_batches": 2, "limit_train_batches": 2, "min_epochs": 1}
    fit(fed, FederatedDataModule({"bob": rows}, rounds_per_epoch=2), min_steps=1, **others)
    assert said == plain * 2  # one round of two cohorts


def test_what_is_set_on_it_is_not_asked_for_on_the_server() -> None:
    class Costly(pl.Trainer):
        @property
        def costly(self) -> Any:
            raise RuntimeError("this takes its time")

    view = TrainerView(Costly(accelerator="cpu", logger=False), Scalar())
    for name in ("costly", "strategy_of_mine"):
        if name == "costly":
            with pytest.warns(UserWarning, match="self.trainer.costly = ... on a worker does not change its training"):
                setattr(view, name, 1)
        else:
            setattr(view, name, 1)
        assert getattr(view, name) == 1


MOMENTS = {"on_train_epoch_start": 3, "on_train_batch_start": 4, "on_before_backward": 3, "on_train_batch_end": 3}
MOMENTS |= {"on_train_epoch_end": 3}


@pytest.mark.filterwarnings("ignore:self.trainer.should_stop = True on a worker ends its training")
@pytest.mark.parametrize(("moment", "steps"), MOMENTS.items())
def test_should_stop_ends_the_training_when_a_plain_trainer_would(moment: str, steps: int) -> None:
    """Set from the third step on, in passes of three: after the batch that is trained, or before the next pass."""
    done: list[int] = []

    class Stopping(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            done.append(batch_idx)
            return super().training_step(batch, batch_idx)

    def hook(module: Any, *_: Any) -> None:
        if len(done) >= 3:
            module.trainer.should_stop = True

    setattr(Stopping, moment, hook)
    rows = Rows([1.0, 2.0, 3.0], batch_size=1)
    trainer(max_epochs=5).fit(Stopping(), rows)
    assert len(done) == steps
    done.clear()
    fit(FederatedModule(Stopping(), local_epochs=5), FederatedDataModule({"bob": rows}))
    assert len(done) == steps


class StopsAt2(Scalar):
    """Ends its training after a batch with the value 2."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch[0] == 2.0:
            self.trainer.should_stop = True
        return super().training_step(batch, batch_idx)


class StopsSecond(Scalar):
    """Ends its training after the second batch, whoever's it is: ``torch.vmap`` can run that."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 1:
            self.trainer.should_stop = True
        return super().training_step(batch, batch_idx)


def people() -> FederatedDataModule:
    rows = {"a": [1.0, 2.0, 9.0], "b": [3.0, 4.0, 5.0], "c": [1.0, 1.0, 3.0], "d": [4.0, 5.0, 6.0]}
    return FederatedDataModule({name: Rows(values, batch_size=1) for name, values in rows.items()})


@pytest.mark.parametrize("engine", ["auto", "sequential"])
@pytest.mark.parametrize(("kind", "ends"), [(StopsAt2, [2, 5, 3, 6]), (StopsSecond, [2, 4, 1, 5])])
def test_should_stop_ends_the_training_of_one_worker_alone(engine: Any, kind: type[Scalar], ends: list[int]) -> None:
    with pytest.warns(
        UserWarning, match=r"should_stop = True on a worker ends its training in this round, and"
    ) as told:
        run = fit(FederatedModule(model := kind(), engine=engine), people(), max_epochs=3)
    count = len([warning for warning in told if "should_stop" in str(warning.message)])
    assert count <= 2, "once for each copy of the module, and not in each round"
    assert model.x.item() == sum(ends) / 4
    assert (run.global_step, run.should_stop) == (3, False)


@pytest.mark.filterwarnings("ignore:self.trainer.should_stop = True on a worker ends its training")
def test_workers_that_train_together_cannot_stop() -> None:
    with pytest.raises(
        WorkerError, match=r"cannot be trained together.*sets self\.trainer\.should_stop.*engine='auto'"
    ):
        fit(FederatedModule(StopsSecond(), engine=Vectorized()), people())


def test_an_attribute_that_is_set_is_gone_with_the_worker_and_one_without_effect_is_warned_of() -> None:
    found: list[Any] = []

    class Setting(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            found.append((self.trainer.accumulate_grad_batches, getattr(self.trainer, "mine", None)))
            self.trainer.accumulate_grad_batches, self.trainer.mine = 4, 1
            return super().training_step(batch, batch_idx)

    with pytest.warns(
        UserWarning, match=r"self\.trainer\.accumulate_grad_batches = \.\.\. on a worker does not"
    ) as told:
        run = fit(FederatedModule(model := Setting(), engine="sequential"), people())
    assert found == [(1, None), (4, 1), (4, 1)] * 4
    assert model.x.item() == (9 + 5 + 3 + 6) / 4
    assert len([warning for warning in told if "self.trainer." in str(warning.message)]) == 1
    assert (run.accumulate_grad_batches, hasattr(run, "mine")) == (1, False)


def test_an_optimizer_that_is_set_is_gone_with_the_worker() -> None:
    """Though torch's own are built once for a cohort."""
    found: list[int] = []

    class Setting(Scalar):
        def on_train_epoch_start(self) -> None:
            found.append(len(self.trainer.optimizers))
            self.trainer.optimizers = []

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            assert self.trainer.optimizers == []

    with pytest.warns(UserWarning, match=r"self\.trainer\.optimizers = \.\.\. on a worker does not"):
        fit(FederatedModule(Setting()), people())
    assert found == [1, 1, 1, 1]


class Weighted(Rows):
    """Rows with a factor of their own."""

    def __init__(self, values: list[float], factor: float) -> None:
        super().__init__(values, batch_size=1)
        self.factor = factor


class ByFactor(Scalar):
    """Its learning rate is the worker's factor, and its loss is divided by the number of the worker's rows."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        assert self.trainer.lightning_module is self
        assert self.trainer.val_dataloaders is None
        return super().training_step(batch, batch_idx) / len(self.trainer.train_dataloader.dataset)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.trainer.datamodule.factor)


@pytest.mark.parametrize("engine", ["auto", "sequential"])
def test_the_data_is_the_workers_own(engine: Any) -> None:
    """From 0: worker a goes 0.5 · 4 = 2; b goes 1/2 · 8 = 4 and another 1/2 · (6 − 4) to 5; c goes 0.25 · 4 = 1."""
    workers = {"a": Weighted([4.0], 0.5), "b": Weighted([8.0, 6.0], 1.0), "c": Weighted([4.0], 0.25)}
    fit(FederatedModule(model := ByFactor(), engine=engine, aggregator=UniformMean()), FederatedDataModule(workers))
    assert model.x.item() == pytest.approx((2 + 5 + 1) / 3)


class InStep(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * self.trainer.datamodule.factor


def test_the_data_is_asked_for_in_a_step_only(isolated: Isolated) -> None:
    """From 0 by factors of 0.5 and 0.25 towards 4; with engine="auto" after an attempt to train both together."""
    for engine in ("auto", "sequential", isolated):
        workers = {"a": Weighted([4.0], 0.5), "b": Weighted([4.0], 0.25), "c": Weighted([4.0], 0.75)}
        fit(FederatedModule(model := InStep(), engine=engine), FederatedDataModule(workers))
        assert model.x.item() == 2.0


@pytest.mark.parametrize("kind", [ByFactor, InStep])
def test_workers_that_train_together_have_no_data_of_their_own(kind: type[Scalar]) -> None:
    workers = {"a": Weighted([4.0], 0.5), "b": Weighted([8.0], 1.0)}
    with pytest.raises(Exception, match=r"self\.trainer\.datamodule is one worker's.*engine='auto' or 'sequential'"):
        fit(FederatedModule(kind(), engine="vectorized"), FederatedDataModule(workers))


# ---- what is the server's --------------------------------------------------------------------------------------------


class Setting(Scalar):
    """Sets something on the Trainer, from where a path leads."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        *parts, last = self.path.split(".")
        place: Any = self.trainer
        for part in parts:
            place = getattr(place, part)
        setattr(place, last, 1)
        return super().training_step(batch, batch_idx)


NOT_ITS_OWN = ["fit_loop.max_epochs", "fit_loop.epoch_loop.max_steps", "fit_loop.epoch_progress.current.completed"]
NOT_ITS_OWN += ["validate_loop.verbose", "strategy.parallel_devices"]


@pytest.mark.parametrize("path", NOT_ITS_OWN)
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_what_would_reach_the_servers_run_cannot_be_set(engine: Any, path: str) -> None:
    run = trainer(max_epochs=3)
    with pytest.raises(
        WorkerError, match=rf"'ann' .* self\.trainer\.{path} = \.\.\. on a worker would reach the server"
    ):
        run.fit(FederatedModule(Setting(path), engine=engine), FederatedDataModule({"ann": Rows([1.0])}))
    assert (run.max_epochs, run.max_steps) == (3, -1)


def test_loops_say_what_the_trainer_says_and_refuse_to_count_batches() -> None:
    read: list[Any] = []

    class Reading(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loop: Any = self.trainer.fit_loop
            read.append((loop.max_epochs, loop.min_epochs, loop.epoch_loop.max_steps, loop.epoch_loop.global_step))
            with pytest.raises(AttributeError, match=r"take batch_idx from the arguments of training_step"):
                loop.epoch_loop.batch_idx  # noqa: B018
            return super().training_step(batch, batch_idx)

    data = FederatedDataModule({"ann": Rows([1.0])})
    fit(FederatedModule(Reading(), engine="sequential", local_epochs=2), data, max_epochs=3, min_epochs=3)
    assert read == [(2, 0, -1, round) for round in (0, 0, 1, 1, 2, 2)]


def test_the_batches_of_a_pass_are_the_workers_own_and_those_of_an_evaluation_the_servers() -> None:
    read: list[Any] = []

    class Reading(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            read.append((self.trainer.fit_loop.max_batches, self.trainer.validate_loop.max_batches))
            return super().training_step(batch, batch_idx)

    fit(FederatedModule(Reading(), engine="sequential"), FederatedDataModule({"ann": Rows([1.0] * 3, batch_size=1)}))
    assert read == 3 * [(3, [])]


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_a_worker_adds_no_callback_to_the_server(engine: Any) -> None:
    class Adding(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.trainer.callbacks.append(pl.Callback())  # type: ignore[attr-defined]
            return super().training_step(batch, batch_idx)

    run = trainer(max_epochs=1)
    with pytest.raises(WorkerError, match=r"'tuple' object has no attribute 'append'"):
        run.fit(FederatedModule(Adding(), engine=engine), FederatedDataModule({"ann": Rows([1.0])}))
    assert pl.Callback not in map(type, run.callbacks)  # type: ignore[attr-defined]
