"""Evaluation on loaders or a plain datamodule that the Trainer is given: as in Lightning, with the global model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, assert_equal, fit, trainer
from processes import run_in_processes
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule

pytestmark = pytest.mark.usefixtures("double")


FOUND: list[Any] = []  # no attribute of the module: what training changes there is set back


class Evaluated(Scalar):
    """Logs about a batch, and notes from which loader it comes."""

    def forward(self, batch: Any) -> Any:
        return batch[0] * self.x

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("mean", batch[0].mean() + self.x)

    test_step = validation_step

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        FOUND.append(dataloader_idx)
        return batch


class Plain(EvaluatedRows):
    """A plain datamodule that writes down what is called on it."""

    def __init__(self, values: Any) -> None:
        super().__init__(values, batch_size=2)
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup({stage})")

    def teardown(self, stage: str) -> None:
        self.calls.append(f"teardown({stage})")

    def on_exception(self, exception: BaseException) -> None:
        self.calls.append(f"on_exception({exception})")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls.append("transfer")
        return [batch[0] + 1]


def loaders() -> Any:
    values = torch.arange(5.0)
    return {"a": DataLoader(TensorDataset(values), batch_size=2), "b": [DataLoader(TensorDataset(values + 1))]}


def results(module: pl.LightningModule, stage: str, *data: Any, **options: Any) -> Any:
    verbose = {} if stage == "predict" else {"verbose": False}
    return getattr(trainer(), stage)(module, *data, **options, **verbose)


STAGES = ["validate", "test", "predict"]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("after_a_fit", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_loaders_are_evaluated_as_by_a_plain_trainer(stage: str, after_a_fit: bool, by_name: bool) -> None:
    plain, module = Evaluated(), Evaluated()
    fed, run = FederatedModule(module), trainer()
    data = FederatedDataModule({"bob": EvaluatedRows([2.0]), "ann": EvaluatedRows([4.0])})
    if after_a_fit:
        run.fit(fed, data)
        plain.load_state_dict(module.state_dict())
    FOUND.clear()
    expected, found = results(plain, stage, loaders()), list(FOUND)
    FOUND.clear()
    verbose = {} if stage == "predict" else {"verbose": False}
    actual = (
        getattr(run, stage)(fed, **{"dataloaders": loaders()}, **verbose)
        if by_name
        else getattr(run, stage)(fed, loaders(), **verbose)
    )
    assert_equal(actual, expected)
    assert FOUND == found != []
    assert run.datamodule is (data if after_a_fit else None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer` in both")
def test_a_plain_datamodule_is_evaluated_as_by_a_plain_trainer(stage: str) -> None:
    theirs, ours = Plain(torch.arange(5.0)), Plain(torch.arange(5.0))
    expected = results(Evaluated(), stage, datamodule=theirs)
    module, run = Evaluated(), trainer()
    verbose = {} if stage == "predict" else {"verbose": False}
    assert_equal(getattr(run, stage)(FederatedModule(module), datamodule=ours, **verbose), expected)
    assert ours.calls == theirs.calls
    assert run.datamodule is ours  # type: ignore[attr-defined]


def test_hooks_find_the_given_datamodule_on_the_trainer() -> None:
    class Looking(Evaluated):
        def on_validation_start(self) -> None:
            assert self.trainer.datamodule.batch_size == 2  # type: ignore[attr-defined]

    trainer().validate(FederatedModule(Looking()), Plain([1.0]), verbose=False)


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_is_the_datamodules_too_and_leaves_the_trainer_as_it_was(stage: str) -> None:
    class Failing(Evaluated):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            raise OSError("mine")

        test_step = predict_step = validation_step  # type: ignore[assignment]

    data, run = Plain([1.0]), trainer()
    with pytest.raises(OSError, match="mine"):
        getattr(run, stage)(FederatedModule(Failing()), datamodule=data)
    assert data.calls[-1] == "on_exception(mine)"
    assert run.datamodule is data  # type: ignore[attr-defined]
    (result,) = run.validate(FederatedModule(Evaluated()), datamodule=data, verbose=False)
    assert result == {"mean": 2.0}


@pytest.mark.parametrize("stage", STAGES)
def test_loaders_of_the_module_itself_are_evaluated(stage: str) -> None:
    class WithData(Evaluated):
        def val_dataloader(self) -> Any:
            return loaders()

        def test_dataloader(self) -> Any:
            return loaders()

        def predict_dataloader(self) -> Any:
            return loaders()

    assert_equal(results(FederatedModule(WithData()), stage), results(WithData(), stage))


def test_the_trainer_goes_on_with_the_workers_after_given_loaders(tmp_path: Path) -> None:
    class Cohorts(pl.Callback):
        def __init__(self) -> None:
            self.numbers: list[int] = []

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            self.numbers.append(batch.number)

    def data() -> FederatedDataModule:
        return FederatedDataModule({name: EvaluatedRows([2.0]) for name in "abcd"}, cohort_size=2)

    seen, fed = (
        Cohorts(),
        FederatedModule(Evaluated()),
    )
    run = trainer(callbacks=[seen])
    run.fit(fed, data())
    run.validate(fed, loaders(), verbose=False)
    run.save_checkpoint(tmp_path / "loaders.ckpt")
    run.validate(fed, datamodule=Plain([1.0]), verbose=False)
    run.save_checkpoint(tmp_path / "datamodule.ckpt")
    for name in ("loaders", "datamodule"):
        again = Cohorts()
        trainer(max_epochs=2, callbacks=[again]).fit(
            FederatedModule(Evaluated()), data(), ckpt_path=tmp_path / f"{name}.ckpt"
        )
        assert (seen.numbers, again.numbers) == ([0, 1], [2, 3])
    (result,) = trainer().validate(
        FederatedModule(Evaluated()), Plain([1.0]), ckpt_path=tmp_path / "loaders.ckpt", verbose=False
    )
    assert result == {"mean": 4.0}


def test_two_processes_count_each_batch_of_given_loaders_once() -> None:
    def work() -> Any:
        run = trainer(devices=2, strategy="ddp")
        return run.validate(FederatedModule(Evaluated()), loaders()["a"], verbose=False)

    both = run_in_processes(work)
    assert [ended.error for ended in both] == [None, None]
    assert [ended.result for ended in both] == [[{"mean": 2.0}]] * 2


NEEDS = (
    r"FederatedModule needs a FederatedDataModule, as in trainer.{}\(fed, FederatedDataModule\(.*\)\), and was given {}"
)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_a_fit_on_loaders_is_refused_with_the_fix() -> None:
    loader, fed, run = loaders()["a"], FederatedModule(Evaluated()), trainer()
    with pytest.raises(TypeError, match=NEEDS.format("fit", "a DataLoader$")):
        run.fit(fed, train_dataloaders=loader, val_dataloaders=loader)
    run.fit(fed, FederatedDataModule({"bob": Rows([1.0])}))
    with pytest.raises(TypeError, match=NEEDS.format("fit", "a DataLoader$")):
        run.fit(fed, train_dataloaders=loader, val_dataloaders=loader)
    with pytest.raises(TypeError, match=NEEDS.format("fit", "no data$")):
        run.fit(fed)
    with pytest.raises(TypeError, match=NEEDS.format("fit", "a Plain$")):
        run.fit(fed, datamodule=Plain([1.0]))


def test_loaders_beside_a_datamodule_are_refused_by_lightning() -> None:
    data = FederatedDataModule({"bob": Rows([1.0])})
    with pytest.raises(Exception, match=r"You cannot pass `train_dataloader` or `val_dataloaders`"):
        trainer().fit(FederatedModule(Evaluated()), datamodule=data, val_dataloaders=loaders()["a"])


@pytest.mark.parametrize("stage", STAGES)
def test_an_evaluation_without_data_is_refused_with_the_fix(stage: str) -> None:
    fed, run = FederatedModule(Evaluated()), trainer()
    for _ in range(2):
        with pytest.raises(
            TypeError, match=NEEDS.format(stage, rf"no data; or loaders .* trainer.{stage}\(fed, datal")
        ):
            getattr(run, stage)(fed)
        fit(fed, FederatedDataModule({"bob": EvaluatedRows([1.0])}))
