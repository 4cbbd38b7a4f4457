"""What the user's code finds about data on the Trainer: on the server, and on a worker."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_fed import FederatedDataModule, FederatedModule


def test_an_attribute_of_the_workers_datamodules_is_looked_for_where_it_is() -> None:
    data = FederatedDataModule({"bob": Rows([1.0], batch_size=3)})
    says = (
        "the server's trainer.datamodule is the FederatedDataModule, which has no 'batch_size'; a worker's datamodule "
        r"is trainer.datamodule.workers\['bob'\], .* self.trainer.datamodule"
    )
    with pytest.raises(AttributeError, match=says):
        data.batch_size  # noqa: B018
    assert data.workers["bob"].batch_size == 3  # type: ignore[attr-defined]
    assert getattr(data, "batch_size", None) is None
    for other in (copy.copy(data), copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        assert list(other.names) == ["bob"]
        assert len(pickle.loads(pickle.dumps(other.train_dataloader()))) == 1
    central = FederatedDataModule({"bob": EvaluatedRows([1.0])}, val=EvaluatedRows([1.0]))
    assert len(copy.copy(central.val_dataloader())) == 1
    assert len(list(copy.copy(FederatedDataModule({"bob": EvaluatedRows([1.0])}).val_dataloader()))) == 1


def test_the_loader_of_all_workers_says_where_that_of_one_is() -> None:
    data = FederatedDataModule({"bob": EvaluatedRows([1.0])})
    with pytest.raises(AttributeError, match=r"all workers' batches has no 'dataset'; .*data.workers\[name\]"):
        data.val_dataloader().dataset  # noqa: B018
    with pytest.raises(
        AttributeError, match=r"one batch of the server is a cohort, .* has no 'dataset'; .*on a worker"
    ):
        data.train_dataloader().dataset  # noqa: B018


def test_a_central_loader_has_what_the_users_loader_has() -> None:
    data = FederatedDataModule({"bob": Rows([1.0])}, val=EvaluatedRows([1.0, 2.0], batch_size=1))
    run = trainer()
    run.validate(FederatedModule(Evaluated()), data, verbose=False)
    assert len(run.val_dataloaders.dataset) == 2
    assert (run.val_dataloaders.batch_size, len(run.val_dataloaders), run.num_val_batches) == (1, 2, [2])


class Evaluated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("mean", batch[0].mean())


@pytest.mark.parametrize("central", [False, True])
def test_user_code_that_goes_through_a_loader_gets_its_own_batches(central: bool) -> None:
    seen: list[float] = []

    class Going(pl.Callback):
        def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.extend(float(values) for (values,) in trainer.datamodule.val_dataloader())

    values = EvaluatedRows([1.0, 2.0], batch_size=1)
    data = FederatedDataModule({"bob": Rows([1.0]) if central else values}, val=values if central else None)
    run = trainer(callbacks=[Going()])
    assert run.validate(FederatedModule(Evaluated()), data, verbose=False) == [{"mean": 1.5}]
    assert seen == [1.0, 2.0]


class Several(EvaluatedRows):
    """Two loaders with these rows, in a form that a Trainer takes."""

    def __init__(self, values: Any, form: str) -> None:
        super().__init__(values, batch_size=1)
        self.form = form

    def val_dataloader(self) -> Any:
        one, two = super().val_dataloader(), super().val_dataloader()
        forms = {"list": [one, two], "dict": {"one": one, "two": two}, "one": one}
        return CombinedLoader([one, two], "sequential") if self.form == "combined" else forms[self.form]


@pytest.mark.parametrize("form", ["one", "list", "dict", "combined"])
@pytest.mark.parametrize("central", [False, True])
def test_so_does_user_code_that_finds_the_loaders_on_the_trainer(central: bool, form: str) -> None:
    """Whenever it does so; what the Trainer itself goes through in the meantime is as it would be."""
    seen: list[list[float]] = []

    class Going(pl.Callback):
        def go(self, trainer: pl.Trainer, *_: Any) -> None:
            given: Any = trainer.val_dataloaders
            loaders = list(given.values()) if isinstance(given, dict) else given if isinstance(given, list) else [given]
            seen.append([float(values) for loader in loaders for (values,) in loader])

        on_train_batch_end = on_validation_start = on_validation_batch_end = on_train_end = go

    class Evaluates(Scalar):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("mean", batch[0].mean())

    values = Several([1.0, 2.0], form)
    data = FederatedDataModule({"bob": Rows([1.0]) if central else values}, val=values if central else None)
    run = fit(FederatedModule(Evaluates()), data, max_epochs=2, callbacks=[Going()], num_sanity_val_steps=0)
    several = 1 if form == "one" else 2
    assert seen == [[1.0, 2.0] * several] * (2 * (2 + 2 * several) + 1)
    metrics = {name: value.item() for name, value in run.callback_metrics.items() if name.startswith("mean")}
    assert set(metrics.values()) == {1.5}
    assert len(metrics) == several


def test_the_loader_of_a_round_says_what_it_gives() -> None:
    says: list[str] = []

    class Going(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            for batch in trainer.train_dataloader:
                with pytest.raises(TypeError) as error:
                    (_values,) = batch
                says.append(str(error.value))

    fit(FederatedModule(Scalar()), FederatedDataModule({"bob": Rows([1.0])}), callbacks=[Going()])
    assert says
    assert all("its cohort, which cannot be unpacked: no batch of a worker reaches the server" in text for text in says)


def test_training_on_loaders_one_after_another_is_refused_as_by_lightning() -> None:
    class Sequential(Rows):
        def train_dataloader(self) -> Any:
            loader: DataLoader[Any] = super().train_dataloader()
            return CombinedLoader([loader, loader], "sequential")

    with pytest.raises(ValueError, match="does not support the `CombinedLoader"):
        trainer().fit(Scalar(), Sequential([1.0]))
    with pytest.raises(
        RuntimeError, match=r"'bob' .* CombinedLoader\(mode=\"sequential\"\), which no Trainer trains on"
    ):
        fit(FederatedModule(Scalar()), FederatedDataModule({"bob": Sequential([1.0])}))


# ---- on a worker -----------------------------------------------------------------------------------------------------


FOUND: list[Any] = []


class Named(EvaluatedRows):
    """Rows that have a name."""

    def __init__(self, name: str, values: Any) -> None:
        super().__init__(values, batch_size=1)
        self.name = name


class Part(pl.LightningModule):
    def look(self, where: str) -> None:
        trainer: Any = self.trainer
        FOUND.append((where, trainer.datamodule.name))


class Looking(Scalar):
    """Notes which datamodule it finds on its Trainer, from where it is; so do its parts."""

    def __init__(self) -> None:
        super().__init__()
        self.part = Part()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        assert len(self.trainer.train_dataloader.dataset) == len(datamodule.train_dataloader().dataset)
        return ((self.x - batch[0]) ** 2).mean() + 0 * datamodule.values.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.part.look("step")
        trainer: Any = self.trainer
        loaders = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        assert len(trainer.datamodule.val_dataloader()) == len(loaders) == len(loaders.dataset)
        assert trainer.lightning_module is self
        self.log("rows", float(len(loaders.dataset)), reduce_fx="max")

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        self.part.look("step")
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not self.trainer.training:
            self.part.look("transfer")
        return batch

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.part.look("end")


@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("engine", ["sequential", "isolated"], indirect=True)
def test_code_about_a_workers_batch_finds_its_datamodule(stage: str, engine: Any) -> None:
    module = Looking()
    data = FederatedDataModule({"bob": Named("bob", [1.0, 2.0]), "ann": Named("ann", [3.0])})
    run = trainer(num_sanity_val_steps=0)
    FOUND.clear()
    getattr(run, stage)(FederatedModule(module, engine=engine), data)
    about = ["transfer", "step", *(["end"] if stage in ("fit", "validate") else [])]
    assert {name for _, name in FOUND} == {"bob", "ann"}
    # The Trainer takes a batch before it needs it.
    assert sorted(FOUND) == sorted((where, name) for name in ("bob", "bob", "ann") for where in about)
    assert module.part._trainer is not None
    assert getattr(module.part.trainer, "datamodule", data) is data


def test_code_about_a_central_batch_finds_the_central_datamodule() -> None:
    FOUND.clear()
    data = FederatedDataModule({"bob": Named("bob", [1.0, 2.0])}, val=Named("central", [3.0, 4.0, 5.0]))
    trainer().validate(FederatedModule(Looking()), data, verbose=False)
    assert [(where, "central") for _ in range(3) for where in ("transfer", "step", "end")] == FOUND


class Walked(nn.Module):
    """Notes each walk through the layers of the module that it is a part of."""

    def named_modules(self, *arguments: Any, **options: Any) -> Any:
        FOUND.append("walk")
        return super().named_modules(*arguments, **options)


@pytest.mark.parametrize("central", [False, True])
@pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
def test_no_batch_takes_a_walk_through_the_layers(stage: str, central: bool) -> None:
    """A deep module has thousands of them."""

    class Deep(Scalar):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Walked()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("mean", batch[0].mean())

        test_step = validation_step

        def predict_step(self, batch: Any, batch_idx: int) -> Any:
            return batch

        def on_validation_batch_start(self, *_: Any) -> None:
            pass

        on_train_batch_start = on_train_batch_end = on_before_optimizer_step = on_validation_batch_start
        on_validation_batch_end = on_test_batch_start = on_predict_batch_start = on_validation_batch_start

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch

    def walks(rows: int) -> int:
        values = EvaluatedRows([1.0] * rows, batch_size=1)
        data = FederatedDataModule({"bob": values}, val=values if central else None)
        FOUND.clear()
        getattr(trainer(num_sanity_val_steps=0), stage)(FederatedModule(Deep(), engine="sequential"), data)
        return len(FOUND)

    assert walks(9) == walks(2)


@pytest.mark.filterwarnings("ignore:the attribute 'parts.0' of Growing was changed on the server")
def test_a_part_that_comes_in_before_an_evaluation_logs_and_finds_the_data_in_it() -> None:
    class Growing(Scalar):
        def setup(self, stage: str) -> None:
            self.parts = nn.ModuleList()

        def on_validation_start(self) -> None:
            self.parts.append(Part())

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            for number, part in enumerate(self.parts):
                part.look("step")  # type: ignore[operator]
                part.log(f"part_{number}", batch[0].sum())  # type: ignore[operator]

    FOUND.clear()
    data = FederatedDataModule({"bob": Named("bob", [1.0])})
    run = fit(FederatedModule(Growing()), data, max_epochs=2, num_sanity_val_steps=0)
    assert FOUND == [("step", "bob")] * 3
    assert set(run.callback_metrics) >= {"part_0", "part_1"}


def test_what_a_step_sets_on_the_trainer_reaches_it() -> None:
    class Stopping(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.trainer.should_stop = True

    run = fit(
        FederatedModule(Stopping()),
        FederatedDataModule({"bob": EvaluatedRows([1.0])}),
        max_epochs=5,
        num_sanity_val_steps=0,
    )
    assert run.current_epoch == 1


class Replayed(Rows):
    """Gives what is in a buffer, as it is when a pass begins."""

    def __init__(self) -> None:
        super().__init__([1.0])
        self.buffer = [torch.tensor([1.0])]

    def train_dataloader(self) -> Any:
        return DataLoader(Replay(self.buffer), batch_size=1)


class Replay(IterableDataset[Any]):
    def __init__(self, buffer: list[Tensor]) -> None:
        self.buffer = buffer

    def __iter__(self) -> Any:
        return iter([*self.buffer])


class Collecting(Scalar):
    """Fills the buffer of its worker's datamodule while it trains on what is there, in both kinds of optimization."""

    def __init__(self, manual: bool) -> None:
        super().__init__(lr=0.5)
        self.automatic_optimization = not manual

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        datamodule.buffer.append(batch[0] + 1)
        loss = ((self.x - batch) ** 2).mean() / 2
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss


@pytest.mark.parametrize("manual", [False, True])
def test_a_replay_buffer_is_the_workers_and_grows_over_rounds(manual: bool) -> None:
    plain, module, rows, replayed = Collecting(manual), Collecting(manual), Replayed(), Replayed()
    trainer(max_epochs=3).fit(plain, rows)
    fit(FederatedModule(module), FederatedDataModule({"bob": replayed}), max_epochs=3)
    assert len(replayed.buffer) == len(rows.buffer) == 8
    assert module.x.item() == plain.x.item()
