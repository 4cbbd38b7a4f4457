from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch.utils.data import TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, Population, Uniform
from lightning_fed.population import EvaluationKind
from lightning_fed.server.evaluation.central_loader import CentralLoader
from lightning_fed.server.evaluation.workers_loader import WorkersLoader
from lightning_fed.server.loaders import Cohort, CohortLoader, Position

NAMES = [f"w{i}" for i in range(10)]


def rows(names: list[str] = NAMES, kind: type[Rows] = Rows) -> dict[str, pl.LightningDataModule]:
    return {name: kind([float(i)]) for i, name in enumerate(names)}


def cohorts(data: FederatedDataModule) -> list[Cohort]:
    return list(data.train_dataloader())


# ---- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"workers": {}}, ValueError, "workers is empty"),
        (
            {"workers": [Rows([1.0])]},
            TypeError,
            r"workers must be a mapping .*\{'bob': \(x, y\), .* not a list: name them, as in",
        ),
        ({"workers": Rows([1.0])}, TypeError, "workers must be a mapping .*, not a Rows"),
        ({"workers": {1: Rows([1.0])}}, TypeError, "workers: the name 1 must be a string"),
        ({"workers": {"": Rows([1.0])}}, TypeError, "workers: the name '' must be a string that is not empty"),
        (
            {"workers": {"bob": Rows}},
            TypeError,
            r"workers\['bob'\] must be .*, not the class Rows: .* such as Rows\(\)",
        ),
        ({"workers": {"bob": [1.0]}}, TypeError, r"workers\['bob'\]\[0\] is a float: give a tensor or an array"),
        (
            {"workers": (torch.ones(4, 2), torch.ones(4, 1))},
            TypeError,
            r"not a tuple: deal them out by .*PartitionedPopulation\(\(x, y\), IID",
        ),
        ({"workers": {"bob": 1.0}}, TypeError, r"workers\['bob'\] must be a .*LightningDataModule, .*, not float"),
        (
            {"workers": TensorDataset(torch.ones(1))},
            TypeError,
            r"workers must be a mapping .*, not a TensorDataset: deal it out by .*PartitionedPopulation\(dataset, IID",
        ),
        ({"batch_size": 0}, ValueError, "batch_size=0 must be at least 1"),
        ({"cohort_size": 0}, ValueError, "cohort_size=0 must lie between 1 and the population of 10"),
        ({"cohort_size": 11}, ValueError, "cohort_size=11 must lie between 1 and the population of 10 workers"),
        ({"eval_cohort_size": 0}, ValueError, "eval_cohort_size=0 must lie between 1 and"),
        ({"eval_cohort_size": 11}, ValueError, "eval_cohort_size=11 must lie between 1 and"),
        ({"rounds_per_epoch": 0}, ValueError, "rounds_per_epoch=0 must be at least 1"),
        ({"cached_workers": 0}, ValueError, "cached_workers=0 must be at least 1"),
        ({"val": [1.0]}, TypeError, r"val\[0\] is a float: give a tensor or an array"),
        ({"val": {"bob": Rows([1.0])}}, TypeError, r"val\['bob'\] is a Rows: give a tensor or an array"),
        ({"val": "held-out"}, TypeError, "val is a path, 'held-out', and no file is read here: read it, and give"),
        ({"val": 3}, TypeError, "val must be a LightningDataModule, a DataLoader, .* not int"),
        ({"sampler": "uniform"}, TypeError, "sampler must be a CohortSampler"),
        ({"sampler": Uniform}, TypeError, "sampler must be a CohortSampler"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FederatedDataModule(**{"workers": rows(), **arguments})


class Evaluates(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.training_step(batch, batch_idx)


NEEDS = r"a FederatedDataModule needs a FederatedModule, and was given an Evaluates: wrap it, as in trainer.fit\(Fed"


@pytest.mark.parametrize("loop", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize("after_a_run", [False, True])
def test_a_module_that_is_not_wrapped_is_refused(loop: str, after_a_run: bool) -> None:
    data = FederatedDataModule(rows(["bob", "alice"], EvaluatedRows))
    if after_a_run:
        fit(FederatedModule(Evaluates()), data)
    with pytest.raises(TypeError, match=NEEDS):
        getattr(trainer(), loop)(Evaluates(), datamodule=data)


def test_a_module_that_is_not_wrapped_and_does_not_evaluate_is_refused_too() -> None:
    module = Scalar()
    with pytest.raises(TypeError, match="was given a Scalar: wrap it"):
        trainer(max_epochs=1).fit(module, FederatedDataModule(rows(["bob", "alice"])))
    assert module.x.item() == 0.0


# ---- cohorts ---------------------------------------------------------------------------------------------------------


def test_without_a_size_every_worker_takes_part_in_order() -> None:
    assert cohorts(FederatedDataModule(rows(), seed=3)) == [Cohort(0, 3, tuple(NAMES))]


@pytest.mark.parametrize(("size", "per_epoch", "expected"), [(3, None, 4), (5, None, 2), (10, None, 1), (3, 7, 7)])
def test_an_epoch_is_about_one_visit_each_unless_told_otherwise(
    size: int, per_epoch: int | None, expected: int
) -> None:
    data = FederatedDataModule(rows(), cohort_size=size, rounds_per_epoch=per_epoch)
    assert len(data.train_dataloader()) == len(cohorts(data)) == expected
    assert all(len(set(cohort.workers)) == size for cohort in cohorts(data))


def test_cohorts_are_a_function_of_seed_and_number() -> None:
    first, again, other = (cohorts(FederatedDataModule(rows(), 3, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert {c.workers for c in first}.isdisjoint(c.workers for c in other)


def test_a_sampler_is_asked_even_if_all_take_part() -> None:
    (cohort,) = cohorts(FederatedDataModule(rows(), sampler=Uniform()))
    assert sorted(cohort.workers) == NAMES
    assert list(cohort.workers) != NAMES


def loader(next: int = 0, length: int = 4) -> CohortLoader:
    return CohortLoader(NAMES, 3, Uniform(), seed=1, length=length, position=Position(next))


def test_the_next_epoch_goes_on_where_the_last_one_ended() -> None:
    one = loader(length=8)
    assert [*loader(0), *loader(4)] == list(one)
    assert [cohort.number for cohort in loader(4)] == [4, 5, 6, 7]


def test_what_was_handed_out_is_not_run() -> None:
    data = FederatedDataModule(rows(), cohort_size=5)
    assert [cohort.number for cohort in cohorts(data)] == [cohort.number for cohort in cohorts(data)] == [0, 1]
    data.complete(cohorts(data)[0])
    assert [cohort.number for cohort in cohorts(data)] == [1, 2]


class Cohorts(pl.Callback):
    def __init__(self) -> None:
        self.numbers: list[int] = []

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Cohort, batch_idx: int) -> None:
        self.numbers.append(batch.number)


def test_a_fit_that_goes_on_goes_on_with_the_next_cohort_and_a_new_one_starts_over() -> None:
    fed, data = FederatedModule(Scalar(lr=0.1)), FederatedDataModule(rows(), cohort_size=5)
    seen = Cohorts()
    run = fit(fed, data, max_epochs=2, callbacks=[seen])
    run.fit_loop.max_epochs = 3
    run.fit(fed, data)
    assert seen.numbers == [0, 1, 2, 3, 4, 5]
    seen.numbers.clear()
    fit(fed, data, callbacks=[seen])
    assert seen.numbers == [0, 1]


def test_an_evaluation_in_between_does_not_start_the_cohorts_over() -> None:
    class Predicting(Scalar):
        def forward(self, batch: Any) -> Any:
            return batch[0] + self.x

    class Predicted(Rows):
        def predict_dataloader(self) -> Any:
            return self.train_dataloader()

    fed, data = FederatedModule(Predicting(lr=0.1)), FederatedDataModule(rows(kind=Predicted), cohort_size=5)
    seen = Cohorts()
    run = fit(fed, data, max_epochs=1, callbacks=[seen])
    trainer().predict(fed, data)
    run.fit_loop.max_epochs = 2
    run.fit(fed, data)
    assert seen.numbers == [0, 1, 2, 3]


def test_a_loader_that_user_code_asks_for_changes_no_cohort() -> None:
    """On the server (in a callback), its first cohort or all of them; on workers it is one of their own data."""

    class Asking(Scalar):
        def configure_optimizers(self) -> Any:
            assert len(list(self.trainer.datamodule.train_dataloader())) == 1
            return super().configure_optimizers()

    class AskingToo(Cohorts):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Cohort, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            assert next(iter(trainer.datamodule.train_dataloader())) == batch
            assert len(list(trainer.datamodule.train_dataloader())) == 2

    seen = AskingToo()
    fit(FederatedModule(Asking()), FederatedDataModule(rows(), cohort_size=5), max_epochs=3, callbacks=[seen])
    assert seen.numbers == [0, 1, 2, 3, 4, 5]


def test_a_failed_round_is_run_again_by_the_next_fit() -> None:
    class Failing(Cohorts):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if self.numbers == [0, 1, 2]:
                raise RuntimeError("power cut")

    fed, data = FederatedModule(Scalar()), FederatedDataModule(rows(), cohort_size=2)
    seen = Failing()
    run = trainer(max_epochs=1, accumulate_grad_batches=2, callbacks=[seen])
    with pytest.raises(RuntimeError, match="power cut"):
        run.fit(fed, data)
    run.fit(fed, data)
    assert seen.numbers == [0, 1, 2, 2, 3, 4, 5, 6]


# ---- a population that is too large to be gone through ---------------------------------------------------------------


class Million(Population):
    """A million workers, of whom nothing is known but by position or by name."""

    def __init__(self, kind: type[Rows] = Rows) -> None:
        self.kind = kind
        self.named: list[int] = []

    def __len__(self) -> int:
        return 1_000_000

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("gone through")

    def name(self, position: int) -> str:
        self.named.append(position)
        return f"w{position}"

    def __getitem__(self, name: str) -> pl.LightningDataModule:
        return self.kind([float(name[1:])])

    def num_examples(self, name: str) -> int:
        return 1

    def has_loader(self, kind: EvaluationKind) -> bool:
        return issubclass(self.kind, EvaluatedRows)


def test_a_start_and_a_round_ask_for_no_names_but_the_cohorts() -> None:
    workers = Million()
    data = FederatedDataModule(workers, cohort_size=3)
    assert (len(data.names), data.rounds_per_epoch) == (1_000_000, 333_334)
    fit(FederatedModule(Scalar()), data, max_steps=4)
    assert workers.named == [p for number in range(4) for p in Uniform().sample(1_000_000, 3, number, seed=0)]


def test_an_evaluation_asks_for_no_names_but_those_of_its_cohort() -> None:
    workers = Million(EvaluatedRows)
    data = FederatedDataModule(workers, cohort_size=1, eval_cohort_size=5)
    loader = data.val_dataloader()
    assert len(workers.named) == 5
    assert owners(loader) == [f"w{position}" for position in workers.named]


@pytest.mark.parametrize(("rank", "expected"), [(0, ["w0", "w2"]), (1, ["w1", "w3"])])
def test_an_evaluation_of_everybody_asks_for_names_one_by_one(rank: int, expected: list[str]) -> None:
    workers = Million(EvaluatedRows)
    data = FederatedDataModule(workers, cohort_size=1)
    batches = iter(WorkersLoader(data.pool, data.names, "val", rank, 2, lambda *_: None))
    assert [next(batches).worker, next(batches).worker] == expected
    assert len(workers.named) == 2


def test_cohorts_are_the_same_whichever_way_names_are_given() -> None:
    class Computed(Tested):
        def __iter__(self) -> Iterator[str]:
            raise AssertionError("gone through")

    listed, mapped, computed = (FederatedDataModule(w, 3, seed=1) for w in (rows(), Lazy(), Computed()))
    assert cohorts(listed) == cohorts(mapped) == cohorts(computed)
    everyone = FederatedDataModule(Computed(), seed=1)
    assert cohorts(everyone) == cohorts(FederatedDataModule(rows(), seed=1))


def test_an_empty_population_is_refused() -> None:
    class Nobody(Million):
        def __len__(self) -> int:
            return 0

    with pytest.raises(ValueError, match="workers is empty"):
        FederatedDataModule(Nobody())


# ---- evaluation data -------------------------------------------------------------------------------------------------


def owners(loader: Any) -> list[str | None]:
    return [batch.worker for batch in loader]


def test_the_workers_own_data_is_evaluated_worker_by_worker() -> None:
    data = FederatedDataModule({"bob": EvaluatedRows([1.0, 2.0, 3.0], batch_size=2), "alice": EvaluatedRows([4.0])})
    batches = list(data.val_dataloader())
    assert owners(batches) == ["bob", "bob", "alice"]
    assert [batch.batch[0].tolist() for batch in batches] == [[1.0, 2.0], [3.0], [4.0]]


def test_central_data_comes_first_and_belongs_to_nobody() -> None:
    data = FederatedDataModule(rows(kind=EvaluatedRows), val=EvaluatedRows([1.0, 2.0], batch_size=1))
    loader = data.test_dataloader()
    assert isinstance(loader, CentralLoader)
    assert (len(loader), owners(loader)) == (2, [None, None])
    assert isinstance(FederatedDataModule(rows(kind=EvaluatedRows), val=Rows([1.0])).val_dataloader(), WorkersLoader)


def test_evaluation_cohorts_are_always_the_same_workers_in_order() -> None:
    data = FederatedDataModule(rows(kind=EvaluatedRows), cohort_size=2, eval_cohort_size=4, seed=1)
    chosen = owners(data.val_dataloader())
    assert len(set(chosen)) == 4
    assert chosen == sorted(chosen)
    assert chosen == owners(data.val_dataloader()) == owners(data.test_dataloader())
    others = {
        tuple(owners(FederatedDataModule(rows(kind=EvaluatedRows), eval_cohort_size=4, seed=s).val_dataloader()))
        for s in range(9)
    }
    assert len(others) > 1


def test_a_worker_without_evaluation_data_is_passed_over() -> None:
    data = FederatedDataModule({"bob": Rows([1.0]), "alice": EvaluatedRows([2.0])})
    assert owners(data.val_dataloader()) == ["alice"]


@pytest.mark.parametrize(("rank", "expected"), [(0, ["a", "c", "e"]), (1, ["b", "d"])])
def test_processes_take_turns_with_workers_and_with_central_batches(rank: int, expected: list[str]) -> None:
    data = FederatedDataModule(rows(list("abcde"), EvaluatedRows))
    assert owners(WorkersLoader(data.pool, data.names, "val", rank, 2, lambda *_: None)) == expected
    central = CentralLoader(list("abcde"), rank, 2)
    assert [batch.batch for batch in central] == expected
    assert len(central) == len(expected)


def test_fewer_central_batches_than_processes_are_refused() -> None:
    with pytest.raises(ValueError, match="has 1 batches for 2 processes; use a smaller batch_size"):
        CentralLoader([1], 0, 2)


# ---- no evaluation data: Lightning must see none ---------------------------------------------------------------------

KINDS: tuple[EvaluationKind, ...] = ("val", "test", "predict")


def loaders(data: FederatedDataModule) -> list[str]:
    return [kind for kind in KINDS if is_overridden(f"{kind}_dataloader", data, pl.LightningDataModule)]


class OnlyTest(Rows):
    def test_dataloader(self) -> Any:
        return self.train_dataloader()


class Lazy(Mapping[str, pl.LightningDataModule]):
    def __getitem__(self, name: str) -> pl.LightningDataModule:
        raise AssertionError("built")

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


class Tested(Population):
    __getitem__ = Lazy.__getitem__
    __len__ = Lazy.__len__

    def name(self, position: int) -> str:
        return NAMES[position]

    def num_examples(self, name: str) -> int:
        return 1

    def has_loader(self, kind: EvaluationKind) -> bool:
        return kind == "test"


def same(data: FederatedDataModule) -> FederatedDataModule:
    return data


@pytest.mark.parametrize("clone", [same, copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
@pytest.mark.parametrize(
    ("workers", "val", "expected"),
    [
        (rows(), None, []),
        (rows(kind=EvaluatedRows), None, ["val", "test", "predict"]),
        ({"bob": Rows([1.0]), "alice": OnlyTest([1.0])}, None, ["test"]),
        (rows(), EvaluatedRows([1.0]), ["val", "test", "predict"]),
        (rows(), OnlyTest([1.0]), ["test"]),
        (rows(kind=OnlyTest), Rows([1.0]), ["test"]),
        (Tested(), None, ["test"]),
        (Lazy(), None, ["val", "test", "predict"]),
    ],
    ids=["none", "workers", "one worker", "central", "central test", "useless central", "population", "lazy mapping"],
)
def test_lightning_sees_a_loader_exactly_if_there_is_one(
    workers: Any, val: Any, expected: list[str], clone: Any
) -> None:
    data = clone(FederatedDataModule(workers, val=val))
    assert loaders(data) == expected
    for kind in set(KINDS) - set(expected):
        with pytest.raises(pl.utilities.exceptions.MisconfigurationException, match=f"`{kind}_dataloader` must be"):
            getattr(data, f"{kind}_dataloader")()


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_a_copy_gives_the_same_cohorts_and_batches(clone: Any) -> None:
    data = FederatedDataModule(rows(kind=EvaluatedRows), cohort_size=3, seed=4)
    again = clone(data)
    assert cohorts(again) == cohorts(data)
    assert owners(again.val_dataloader()) == NAMES
    assert again.workers is not data.workers


# ---- hooks -----------------------------------------------------------------------------------------------------------


def test_only_sampled_workers_are_built() -> None:
    class Counted(Tested):
        def __init__(self) -> None:
            self.built: list[str] = []

        def __getitem__(self, name: str) -> pl.LightningDataModule:
            self.built.append(name)
            return Rows([1.0])

    workers = Counted()
    data = FederatedDataModule(workers, cohort_size=2, rounds_per_epoch=2)
    expected = {name for cohort in cohorts(data) for name in cohort.workers}
    fit(FederatedModule(Scalar()), data)
    assert set(workers.built) == expected
    assert len(workers.built) == len(expected) < len(NAMES)


def test_central_data_is_prepared_set_up_and_torn_down_by_the_trainer() -> None:
    calls: list[str] = []

    class Central(Rows):
        def prepare_data(self) -> None:
            calls.append("prepare_data")

        def setup(self, stage: str) -> None:
            assert self.trainer is not None
            assert stage == "fit"
            calls.append("setup")

        def teardown(self, stage: str) -> None:
            assert stage == "fit"
            calls.append("teardown")

    fit(FederatedModule(Scalar()), FederatedDataModule(rows(), val=Central([1.0])))
    assert calls == ["prepare_data", "setup", "teardown"]


def test_a_cohort_is_not_moved_to_a_device() -> None:
    data = FederatedDataModule(rows())
    cohort = Cohort(0, 0, ("bob",))
    assert data.transfer_batch_to_device(cohort, torch.device("cpu"), 0) is cohort
