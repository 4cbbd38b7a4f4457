"""The Trainer's options about numbers of batches: the server's, where one is a cohort, and of the workers' loaders."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import Rows, Scalar, assert_equal, fit, trainer
from processes import run_in_processes
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.privacy import CentralDP
from lightning_fed.server import checks
from lightning_fed.server.evaluation.offered import least_part

pytestmark = pytest.mark.usefixtures("double")


class Sums(Scalar):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("sum", batch[0].sum(), reduce_fx="sum")

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return batch[0]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([torch.ones(1)] * 4)


class Many(Rows):
    """Batches of one row, in one loader or two."""

    def __init__(self, *values: float, second: tuple[float, ...] | None = None, shuffle: bool = False) -> None:
        super().__init__(values, batch_size=1, shuffle=shuffle)
        self.second = second

    def loaders(self) -> Any:
        first = DataLoader(TensorDataset(self.values), batch_size=1)
        return first if self.second is None else [first, DataLoader(TensorDataset(torch.tensor(self.second)))]

    def val_dataloader(self) -> Any:
        return self.loaders()

    def test_dataloader(self) -> Any:
        return self.loaders()

    def predict_dataloader(self) -> Any:
        return self.loaders()


STAGES = {"validate": "limit_val_batches", "test": "limit_test_batches", "predict": "limit_predict_batches"}


def evaluated(stage: str, limit: Any, module: pl.LightningModule, data: pl.LightningDataModule, **options: Any) -> Any:
    run = trainer(**{STAGES[stage]: limit}, **options)
    return run.predict(module, data) if stage == "predict" else getattr(run, stage)(module, data, verbose=False)


# ---- evaluation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("second", [None, (5.0, 6.0, 7.0, 8.0)])
@pytest.mark.parametrize(
    ("stage", "limit"), [*(("validate", limit) for limit in (0.3, 0.5, 0.99, 2, 7)), ("test", 0.5), ("predict", 0.5)]
)
@pytest.mark.parametrize("where", ["of the worker", "central"])
def test_one_workers_batches_are_limited_as_by_a_plain_trainer(stage: str, second: Any, limit: Any, where: str) -> None:
    data = Many(1.0, 2.0, 3.0, 4.0, second=second)
    ours = FederatedDataModule({"bob": data}, val=data if where == "central" else None)
    assert_equal(evaluated(stage, limit, FederatedModule(Sums()), ours), evaluated(stage, limit, Sums(), data))


def test_a_fraction_is_of_each_workers_batches_and_a_number_of_all() -> None:
    """Half of 4, of 3 and of 2 batches: 1 + 2, 10 and 100; and the first three of all: 1 + 2 + 3."""
    data = FederatedDataModule(
        {"ann": Many(1, 2, 3, 4), "bob": Many(10, 20, 30), "cyd": Many(100, 200), "dan": Rows([1.0])}
    )
    fed = FederatedModule(Sums())
    assert evaluated("validate", 0.5, fed, data) == [{"sum": 113.0}]
    assert {name: values["sum"] for name, values in fed.last_evaluation.workers.items()} == {
        "ann": 3,
        "bob": 10,
        "cyd": 100,
    }
    assert evaluated("validate", 3, fed, data) == [{"sum": 6.0}]
    assert set(fed.last_evaluation.workers) == {"ann"}


@pytest.mark.parametrize("limit", [0.3, 0.5])
def test_a_fit_with_a_fraction_counts_as_a_plain_one(limit: float) -> None:
    class Noting(pl.Callback):
        def __init__(self) -> None:
            self.noted: list[Any] = []

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            self.noted.append((trainer.num_val_batches, float(trainer.callback_metrics["sum"])))

    def noted(module: pl.LightningModule, data: pl.LightningDataModule) -> Any:
        noting = Noting()
        trainer(max_epochs=2, limit_val_batches=limit, callbacks=[noting]).fit(module, data)
        return noting.noted

    data = Many(1.0, 2.0, 3.0, 4.0)
    assert noted(FederatedModule(Sums()), FederatedDataModule({"bob": data})) == noted(Sums(), data)


SAYS = "give an int, which counts the batches of all workers together"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("drop", [False, True])
def test_a_fraction_of_too_few_batches_is_refused_at_the_start(stage: str, drop: bool) -> None:
    data = FederatedDataModule({"ann": Many(1, 2, 3, 4), "bob": Many(10)})
    fed = FederatedModule(Sums(), on_worker_error="drop" if drop else "raise")
    says = rf"^worker 'bob': {STAGES[stage]}=0.5 of 1 batches is less than one; give at least 1.0, or {SAYS}"
    with pytest.raises(ValueError, match=says):
        evaluated(stage, 0.5, fed, data)
    if stage == "validate":
        with pytest.raises(ValueError, match=says):
            fit(fed, data, limit_val_batches=0.5, num_sanity_val_steps=0)


@pytest.mark.parametrize("batches", [3, 49, 98, 103, 107, 1000])
@pytest.mark.parametrize("where", ["first", "last", "second loader"])
def test_the_fraction_that_is_named_is_taken(batches: int, where: str) -> None:
    """49 * (1 / 49) is less than one; and what is enough for one worker, or loader, is not for another with less."""
    few, many = (1.0,) * batches, (1.0,) * (2 * batches)
    workers = {
        "first": (Many(*few), Many(*many)),
        "last": (Many(*many), Many(*few)),
        "second loader": (Many(*many, second=few), Many(*many, second=many)),
    }
    data = FederatedDataModule(dict(zip(("ann", "bob"), workers[where], strict=True)))
    with pytest.raises(ValueError, match="is less than one") as refused:
        evaluated("predict", 0.4 / batches, FederatedModule(Sums()), data)
    named = re.search(rf"of {batches} batches is less than one; give at least ([\d.e-]+), or", str(refused.value))
    assert named is not None
    part = float(named[1])
    assert part == pytest.approx(1 / batches, rel=1e-2)
    assert evaluated("predict", part, FederatedModule(Sums()), data)


def test_the_least_part_is_one_batch_of_any_number() -> None:
    for batches in [*range(1, 20_000), *(10**power for power in range(5, 16))]:
        assert int(batches * least_part(batches)) == 1


def test_a_fraction_of_a_stream_is_refused() -> None:
    class Streaming(Many):
        def loaders(self) -> Any:
            return DataLoader(Stream(), batch_size=1)

    says = rf"^worker 'bob': limit_val_batches=0.5 is a part of its batches, whose number cannot be told; {SAYS}"
    with pytest.raises(ValueError, match=says):
        evaluated(
            "validate", 0.5, FederatedModule(Sums()), FederatedDataModule({"ann": Many(1, 2), "bob": Streaming(1)})
        )
    assert evaluated("validate", 3, FederatedModule(Sums()), FederatedDataModule({"bob": Streaming(1)})) == [
        {"sum": 3.0}
    ]


def test_a_worker_whose_loader_raises_is_dropped_from_a_fraction() -> None:
    class Broken(Many):
        def loaders(self) -> Any:
            raise OSError("disk gone")

    data = FederatedDataModule({"bad": Broken(1), "ann": Many(1, 2)})
    with pytest.warns(
        UserWarning, match="worker 'bad' failed in round 0: its val_dataloader raised OSError: disk gone"
    ):
        assert evaluated("validate", 0.5, FederatedModule(Sums(), on_worker_error="drop"), data) == [{"sum": 1.0}]
    with pytest.raises(
        RuntimeError, match="worker 'bad' failed in round 0: its val_dataloader raised OSError: disk gone"
    ):
        evaluated("validate", 0.5, FederatedModule(Sums()), FederatedDataModule({"bad": Broken(1)}))


def test_the_fraction_that_is_named_is_enough_for_all_processes() -> None:
    def evaluate() -> Any:
        data = FederatedDataModule({"ann": Many(1, 2, 3, 4), "bob": Many(10, 20)})
        return evaluated("validate", 0.2, FederatedModule(Sums()), data, devices=2, strategy="ddp")

    for ended in run_in_processes(evaluate):
        assert "worker 'bob': limit_val_batches=0.2 of 2 batches is less than one; give at least 0.5" in str(
            ended.error
        )


@pytest.mark.parametrize("faulty", [None, "few", "none"])
def test_a_fraction_in_two_processes_is_that_in_one(faulty: str | None) -> None:
    def evaluate(devices: int) -> Any:
        workers: dict[str, Any] = {"ann": Many(1, 2, 3, 4), "bob": Many(10, 20, 30), "cyd": Many(100, 200)}
        if faulty is not None:
            workers = {"ann": Many(1, 2), "bob": Many(1) if faulty == "few" else Rows([1.0])}
        options: Any = {"devices": devices, "strategy": "ddp"} if devices > 1 else {}
        return evaluated("validate", 0.5, FederatedModule(Sums()), FederatedDataModule(workers), **options)

    both = run_in_processes(lambda: evaluate(2))
    if faulty is None:
        assert [ended.error for ended in both] == [None, None]
        assert [ended.result for ended in both] == [evaluate(1)] * 2 == [[{"sum": 113.0}]] * 2
    else:
        says = "limit_val_batches=0.5 of 1 batches" if faulty == "few" else "one of 2 processes has no batches"
        assert [says in str(ended.error) for ended in both] == [True, True]


def test_no_worker_is_asked_for_loaders_that_are_not_gone_through() -> None:
    class Unasked(Many):
        def loaders(self) -> Any:
            raise AssertionError("asked")

    data = FederatedDataModule({"bob": Unasked(1.0)})
    fit(FederatedModule(Sums()), data, limit_val_batches=0)
    fit(FederatedModule(Sums()), FederatedDataModule({"bob": Unasked(1.0)}, val=Many(1.0)))


# ---- training --------------------------------------------------------------------------------------------------------


class Cohorts(pl.Callback):
    """Keeps the workers of each round, and at which rounds there was a validation."""

    def __init__(self) -> None:
        self.workers: list[tuple[str, ...]] = []
        self.numbers: list[int] = []
        self.validated: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.workers.append(batch.workers)
        self.numbers.append(batch.number)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.validated.append(trainer.global_step)


def six() -> FederatedDataModule:
    workers = {f"w{i}": Many(float(i), float(i), float(i), shuffle=True) for i in range(6)}
    return FederatedDataModule(workers, cohort_size=2, rounds_per_epoch=4)


@pytest.mark.parametrize(("overfit", "rounds"), [(1, 1), (2, 2), (9, 4), (0.5, 2), (1.0, 4)])
@pytest.mark.filterwarnings("ignore:You requested to overfit but enabled train dataloader shuffling")
def test_overfit_batches_has_the_same_workers_in_every_epoch(overfit: Any, rounds: int) -> None:
    seen = Cohorts()
    fit(FederatedModule(Sums()), six(), max_epochs=3, overfit_batches=overfit, callbacks=[seen])
    first = seen.workers[:rounds]
    assert seen.workers == first * 3
    assert rounds == 1 or len(set(first)) > 1
    assert seen.numbers == list(range(3 * rounds))  # each round is one of its own all the same


@pytest.mark.parametrize(
    "engine", ["sequential", "vectorized", pytest.param("isolated", marks=pytest.mark.slow)], indirect=True
)
def test_overfit_batches_turns_shuffling_off_as_lightning_does(engine: Any) -> None:
    """With one step a round of SGD at rate 1, x is the first row of the data after every round."""
    values = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    for seed in range(3):
        fed = FederatedModule(Sums(), local_steps=1, engine=engine)
        data = FederatedDataModule({name: Many(*values, shuffle=True) for name in ("ann", "bob")}, seed=seed)
        with pytest.warns(UserWarning, match="We are turning off the train dataloader shuffling for you"):
            fit(fed, data, overfit_batches=1, max_epochs=2)
        assert fed.module.x.item() == 1.0


def test_overfit_batches_goes_on_with_the_same_workers(tmp_path: Any) -> None:
    def run(epochs: int, **options: Any) -> Cohorts:
        seen, run = Cohorts(), trainer(max_epochs=epochs, overfit_batches=2)
        run.callbacks.append(seen)  # type: ignore[attr-defined]
        with pytest.warns(UserWarning, match="We are turning off"):
            run.fit(FederatedModule(Sums()), six(), **options)
        run.save_checkpoint(tmp_path / "last.ckpt")
        return seen

    first = run(1)
    again = run(3, ckpt_path=tmp_path / "last.ckpt")
    assert again.workers == first.workers * 2
    assert again.numbers == [2, 3, 4, 5]


def test_overfit_batches_and_a_promise_are_refused_together() -> None:
    fed = FederatedModule(Sums(), privacy=CentralDP(clip=1.0, noise_multiplier=1.0, insecure_deterministic_noise=True))
    with pytest.raises(
        ValueError, match=r"overfit_batches=1\) has the same workers in every epoch, and CentralDP promis"
    ):
        fit(
            fed,
            FederatedDataModule({f"w{i}": Many(1.0) for i in range(4)}, cohort_size=2, val=Many(1.0)),
            overfit_batches=1,
            max_steps=3,
        )


@pytest.mark.parametrize(("limit", "rounds"), [(1, 1), (2, 2), (0.5, 2), (1.0, 4)])
def test_limit_train_batches_counts_rounds_and_says_so(limit: Any, rounds: int, monkeypatch: Any) -> None:
    lines: list[str] = []
    monkeypatch.setattr(checks, "rank_zero_info", lines.append)
    run = fit(FederatedModule(Sums()), six(), limit_train_batches=limit)
    assert run.global_step == rounds
    says = f"limit_train_batches={limit}) counts rounds, and no batches of workers"
    assert (says in "".join(lines)) == (limit != 1.0 or isinstance(limit, int))


@pytest.mark.parametrize("runs", [True, 3])
def test_fast_dev_run_is_about_rounds_and_pooled_batches(runs: Any, monkeypatch: Any) -> None:
    seen = Cohorts()
    lines: list[str] = []
    monkeypatch.setattr(checks, "rank_zero_info", lines.append)
    run = fit(FederatedModule(Sums()), six(), fast_dev_run=runs, callbacks=[seen])
    assert run.global_step == int(runs)
    assert run.num_val_batches == [int(runs)]
    assert lines == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"val_check_interval": 2}, [2, 4, 6, 8]),
        ({"val_check_interval": 0.5}, [2, 4, 6, 8]),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, [3, 6]),
        ({"check_val_every_n_epoch": 2}, [8]),
    ],
)
def test_validation_comes_where_a_plain_trainer_has_it(options: dict[str, Any], expected: list[int]) -> None:
    seen, plain = Cohorts(), Cohorts()
    fit(FederatedModule(Sums()), six(), max_epochs=2, num_sanity_val_steps=0, callbacks=[seen], **options)
    plain.on_train_batch_start = lambda *_: None  # type: ignore[method-assign,assignment]
    trainer(max_epochs=2, num_sanity_val_steps=0, callbacks=[plain], **options).fit(Sums(), Many(1.0, 2.0, 3.0, 4.0))
    assert seen.validated == plain.validated == expected


@pytest.mark.parametrize(("steps", "batches"), [(0, 0), (2, 2), (-1, 9)])
def test_a_sanity_check_takes_pooled_batches(steps: int, batches: int) -> None:
    taken: list[int] = []

    class Checked(Sums):
        def on_validation_batch_start(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            if self.trainer.sanity_checking:
                taken.append(batch_idx)

    data = FederatedDataModule({name: Many(1.0, 2.0, 3.0) for name in ("ann", "bob", "cyd")})
    fit(FederatedModule(Checked()), data, num_sanity_val_steps=steps)
    assert taken == list(range(batches))
