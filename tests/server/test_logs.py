"""What stands in the logs, and on which step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import Rows, Scalar, fit
from pytorch_lightning.loggers import TensorBoardLogger
from spy import Spy, length
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.datasets import ToyDataModule
from lightning_fed.models import LinearRegression


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would draw: by name, the steps and values."""
    (events,) = folder.glob("**/events.out.tfevents.*")
    accumulator = EventAccumulator(str(events))
    accumulator.Reload()
    return {tag: [(e.step, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def logged(folder: Path, fed: FederatedModule, data: FederatedDataModule, **options: Any) -> Any:
    logger = TensorBoardLogger(str(folder), default_hp_metric=False)
    fit(fed, data, logger=logger, **options)
    logger.finalize("success")
    return curves(folder)


def test_every_curve_and_its_first_values_by_hand(tmp_path: Path) -> None:
    """x = 0, workers [2] and [4, 4], lr 0.5: losses 2 and 8, mean by rows 6; x becomes 5/3."""
    data = FederatedDataModule({"a": Rows([2.0]), "b": Rows([4.0, 4.0])})
    spy = Spy()
    drawn = logged(tmp_path, FederatedModule(Scalar(lr=0.5), aggregator=spy), data, max_epochs=3)
    drawn = {name: values for name, values in drawn.items() if not name.startswith(("epoch", "at_end/"))}
    first = {name: values[0] for name, values in drawn.items()}
    seconds, local, rest = (first.pop(name)[1] for name in ("round/seconds", "time/local", "time/aggregate"))
    assert 0 < local < seconds
    assert local + rest == pytest.approx(seconds)
    loss = next(name for name in ("train_loss", "loss") if name in first)
    assert first == {
        loss: (0, pytest.approx(6.0)),
        f"worker/a/{loss}": (0, pytest.approx(2.0)),
        f"worker/b/{loss}": (0, pytest.approx(8.0)),
        **{
            f"workers/{loss}/{label}": (0, pytest.approx(value))
            for label, value in {"min": 2, "p10": 2.6, "median": 5, "p90": 7.4, "max": 8, "std": 3}.items()
        },
        "local/lr-SGD": (0, 0.5),
        "round/cohort_size": (0, 2),
        "round/dropped": (0, 0),
        "round/stragglers": (0, 0),
        "round/examples": (0, 3),
        "comm/bytes_down": (0, length(spy.jobs())),
        "comm/bytes_up": (0, length(spy.updates())),
        "comm/megabytes_down_total": (0, pytest.approx(length(spy.jobs()) / 1e6)),
        "comm/megabytes_up_total": (0, pytest.approx(length(spy.updates()) / 1e6)),
        "round/coverage": (0, 1.0),
        "update/norm": (0, pytest.approx(5 / 3)),
        "update/p10_norm": (0, pytest.approx(1.1)),  # of 1 and 2
        "update/p90_norm": (0, pytest.approx(1.9)),
        "update/alignment": (0, pytest.approx(1.0)),  # with one parameter both point the same way
        "server/update_norm": (0, pytest.approx(5 / 3)),
        "server/lr": (0, 1.0),
        "local/lr": (0, 0.5),
    }
    assert [step for step, _ in drawn[loss]] == [0, 1, 2]


def test_training_and_validation_of_a_round_stand_on_the_same_step(tmp_path: Path) -> None:
    data = FederatedDataModule({"bob": ToyDataModule(rows=[0, 1]), "alice": ToyDataModule(rows=[2, 3])})
    drawn = logged(tmp_path, FederatedModule(LinearRegression(2, 1)), data, max_epochs=4)
    assert [s for s, _ in drawn["train_loss"]] == [s for s, _ in drawn["val_loss"]] == [0, 1, 2, 3]
    assert "worker/bob/val_mse" in drawn
    assert [s for s, _ in drawn["worker/bob/val_mse"]] == [0, 1, 2, 3]


def test_beyond_twenty_workers_only_their_distribution_is_drawn(tmp_path: Path) -> None:
    data = FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(21)})
    drawn = logged(tmp_path, FederatedModule(Scalar()), data, max_epochs=1)
    assert not [name for name in drawn if name.startswith("worker/")]
    loss = next(name.split("/")[1] for name in drawn if name.startswith("workers/"))
    values = {point: drawn[f"workers/{loss}/{point}"][0][1] for point in ("min", "p10", "median", "p90", "max")}
    assert values == pytest.approx({"min": 0, "p10": 2, "median": 50, "p90": 162, "max": 200})


@pytest.mark.parametrize("border", [0, 2, 3])
def test_log_workers_up_to_moves_the_border(tmp_path: Path, border: int) -> None:
    data = FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(3)})
    drawn = logged(tmp_path, FederatedModule(Scalar(), log_workers_up_to=border), data, max_epochs=1)
    assert len([name for name in drawn if name.startswith("workers/")]) == 6
    assert len([name for name in drawn if name.startswith("worker/")]) == (3 if border == 3 else 0)


def test_log_every_n_steps_thins_the_curves_as_in_lightning(tmp_path: Path) -> None:
    data = FederatedDataModule({"a": Rows([1.0])}, rounds_per_epoch=5)
    drawn = logged(tmp_path, FederatedModule(Scalar()), data, max_epochs=2, log_every_n_steps=3)
    assert [step for step, _ in drawn["round/cohort_size"]] == [2, 5, 8]


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_an_epochs_last_round_is_drawn_if_it_has_fewer_rounds_than_that(tmp_path: Path) -> None:
    data = FederatedDataModule({"a": Rows([1.0])}, rounds_per_epoch=2)
    drawn = logged(tmp_path, FederatedModule(Scalar()), data, max_epochs=3, log_every_n_steps=50)
    assert [step for step, _ in drawn["round/cohort_size"]] == [1, 3, 5]


def test_no_round_is_drawn_every_0_rounds(tmp_path: Path) -> None:
    data = FederatedDataModule({"a": Rows([1.0])}, rounds_per_epoch=2)
    drawn = logged(tmp_path, FederatedModule(Scalar()), data, max_epochs=3, log_every_n_steps=0)
    assert not drawn


def test_the_cohorts_mean_is_in_callback_metrics_under_the_users_own_name() -> None:
    data = FederatedDataModule({"bob": ToyDataModule(rows=[0, 1]), "alice": ToyDataModule(rows=[2, 3])})
    federated = FederatedModule(LinearRegression(2, 1))
    trainer = fit(federated, data, max_epochs=3)
    mean = federated.last_report.means()["train_loss"]
    assert trainer.callback_metrics["train_loss"].item() == pytest.approx(mean)
    assert trainer.progress_bar_metrics["loss"] == pytest.approx(federated.last_report.loss)
