"""The dashboard: what is shown in which run, read back from what TensorBoard reads."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from processes import run_in_processes
from pytorch_lightning.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import FedProx
from lightning_fed.callbacks import Dashboard
from lightning_fed.callbacks.dashboard.boards import Board, board_of
from lightning_fed.callbacks.dashboard.labels import label_counts
from lightning_fed.callbacks.dashboard.layout import layout_of
from lightning_fed.datasets import Dirichlet, PartitionedPopulation
from lightning_fed.privacy import CentralDP
from lightning_fed.secure import SecureAggregation
from lightning_fed.selection import RoundRobin

SCALARS = {"loss", "val_acc", "epoch", "server/lr", "server/update_norm", "local/lr", "local/lr-SGD", "time/evaluate"}
SCALARS |= {f"round/{name}" for name in ("cohort_size", "dropped", "stragglers", "examples", "seconds", "coverage")}
SCALARS |= {f"comm/{name}" for name in ("bytes_up", "bytes_down", "megabytes_up_total", "megabytes_down_total")}
SCALARS |= {"time/local", "time/aggregate", *(f"update/{n}" for n in ("norm", "p10_norm", "p90_norm", "alignment"))}
POINTS = ("min", "p10", "median", "p90", "max", "std")
SPREADS = {f"workers/{metric}/{point}" for metric in ("loss", "val_acc") for point in POINTS}
SUMMARY = {"at_end/megabytes", "at_end/seconds", "at_end/val_acc", "at_end/val_acc_best", "at_end/val_acc_p10"}
TEXTS = {f"run/{name}/text_summary" for name in ("settings", "what_leaves", "promise")}
FIGURES = {"who/partition", "who/participation", "who/val_acc_per_worker"}


class Net(Scalar):
    """Logs one metric about the data of each worker."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", batch[0].float().mean())

    test_step = validation_step


class Labelled(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch[:1], batch_idx)


def federation(workers: int = 12, cohort_size: int | None = 5, **options: Any) -> FederatedDataModule:
    """Workers whose data are their numbers, with a label for each."""
    rows = TensorDataset(torch.arange(8.0 * workers), torch.arange(8 * workers) % 4)
    population = PartitionedPopulation(rows, Dirichlet(workers, alpha=1.0, min_size=2), val_fraction=0.5)
    return FederatedDataModule(population, cohort_size=cohort_size, rounds_per_epoch=2, **options)


def board(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(str(folder), name="run", default_hp_metric=False)


def read(folder: Path) -> EventAccumulator:
    (events,) = folder.glob("**/events.out.tfevents.*")
    accumulator = EventAccumulator(str(events), size_guidance={"images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def shown(folder: Path, fed: FederatedModule, data: FederatedDataModule, **options: Any) -> EventAccumulator:
    logger = board(folder)
    fit(fed, data, **{"logger": logger, "callbacks": [Dashboard()], "max_epochs": 2, **options})
    logger.finalize("success")
    return read(folder)


def text(events: EventAccumulator, tag: str) -> str:
    """The first text of a tag."""
    content: bytes = events.Tensors(f"{tag}/text_summary")[0].tensor_proto.string_val[0]
    return content.decode()


def charts(events: EventAccumulator) -> dict[str, list[str]]:
    """Sections of the layout and the titles of their charts."""
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    return {category.title: [chart.title for chart in category.chart] for category in layout.category}


# ---- golden lists ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [12, 100])
def test_every_tag_of_a_run(tmp_path: Path, workers: int) -> None:
    tags = shown(tmp_path, FederatedModule(Labelled()), federation(workers)).Tags()
    single = {f"worker/worker_{i:02}/{metric}" for i in range(12) for metric in ("loss", "val_acc")}
    scalars = set(tags["scalars"])
    assert scalars - single == SCALARS | SPREADS | SUMMARY
    assert bool(scalars & single) == (workers == 12)
    assert set(tags["images"]) == FIGURES
    assert set(tags["histograms"]) == {"workers/val_acc"}
    assert {tag for tag in tags["tensors"] if not tag.startswith("_hparams_")} == {*TEXTS, "custom_scalars__config__"}


def test_beyond_two_hundred_workers_there_are_no_figures(tmp_path: Path) -> None:
    tags = shown(tmp_path, FederatedModule(Labelled()), federation(201, 3), max_epochs=1).Tags()
    assert tags["images"] == []
    assert set(tags["histograms"]) == {"workers/val_acc"}


def test_the_layout_stands_in_its_order(tmp_path: Path) -> None:
    events = shown(tmp_path, FederatedModule(Labelled()), federation())
    assert charts(events) == {
        "How good, and for whom": ["val_acc: workers, p10 to p90", "val_acc: all, and worst decile"],
        "What it cost": ["megabytes so far", "seconds"],
        "Who took part": ["cohort, dropped, stragglers", "share of the population so far"],
        "Drift": ["norms of updates: p10, p90, mean", "alignment with the mean"],
    }


def test_every_curve_of_the_layout_is_drawn_and_each_pattern_finds_one(tmp_path: Path) -> None:
    events = shown(tmp_path, FederatedModule(Labelled()), federation())
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    drawn = events.Tags()["scalars"]
    for category in layout.category:
        for chart in category.chart:
            for series in chart.margin.series:
                assert {series.value, series.lower, series.upper} <= set(drawn)
            for pattern in chart.multiline.tag:
                assert len([tag for tag in drawn if re.match(pattern, tag)]) == 1, pattern


def test_the_worst_decile_of_a_loss_is_the_upper_one() -> None:
    for has_budget, charts in ((True, ["ε and its budget", "rounds left"]), (False, ["ε"])):
        assert list(layout_of({}, [], False, True, False, has_budget)["Privacy"]) == charts
    section = layout_of({"val_loss": "val_loss"}, ["val_loss"], True, False, True)["How good, and for whom"]
    assert section["val_loss: all, and worst decile"] == ("Multiline", ["^val_loss$", "^workers/val_loss/p90$"])


def test_without_evaluations_the_layout_is_of_what_was_logged_in_training(tmp_path: Path) -> None:
    data = FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(3)})
    events = shown(tmp_path, FederatedModule(Scalar()), data)
    assert charts(events)["How good, and for whom"] == ["loss: workers, p10 to p90", "loss: all, and worst decile"]
    assert set(events.Tags()["images"]) == {"who/participation", "who/partition"}


def test_tensorboard_lists_all_its_plugins_as_active(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext

    shown(tmp_path, FederatedModule(Labelled()), federation())
    runs = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    runs.Reload()
    active = set(MultiplexerDataProvider(runs, str(tmp_path)).list_plugins(RequestContext(), experiment_id=""))
    assert active >= {"scalars", "custom_scalars", "histograms", "images", "text", "hparams"}


# ---- what stands in it -----------------------------------------------------------------------------------------------


def test_texts_say_what_is_set_what_leaves_and_what_is_promised(tmp_path: Path) -> None:
    events = shown(tmp_path, FederatedModule(Labelled(), algorithm=FedProx(0.25)), federation())
    assert re.search(r"\| algorithm \| FedProx", text(events, "run/settings"))
    assert re.search(r"\| leaves \| x \| float32 \|.*\| 4 \|", text(events, "run/what_leaves"))
    assert "Nothing was promised to the workers." in text(events, "run/promise")
    assert [point.step for point in events.Tensors("run/settings/text_summary")] == [0]


def test_figures_are_drawn_after_each_tenth_evaluation_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_fed.callbacks.dashboard.callback.LEAST_SECONDS", 0.0)
    events = shown(tmp_path, FederatedModule(Labelled()), federation(4, 2), max_epochs=13)
    assert [image.step for image in events.Images("who/participation")] == [19, 25]
    assert [image.step for image in events.Images("who/val_acc_per_worker")] == [19, 25]
    assert [image.step for image in events.Images("who/partition")] == [19]  # it does not change


class Quiet(Net):
    """Hides one metric from loggers, and logs another on each step, too."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        value = batch[0].float().mean()
        self.log("secret", value, logger=False)
        self.log("val_f1", value, on_step=True, on_epoch=True)


def test_what_no_logger_draws_is_nowhere_and_what_has_two_curves_is_shown_by_that_of_the_epoch(tmp_path: Path) -> None:
    workers = {f"w{i}": EvaluatedRows([float(i)]) for i in range(4)}
    events = shown(tmp_path, FederatedModule(Quiet()), FederatedDataModule(workers), max_epochs=1)
    assert events.Tags()["histograms"] == ["workers/val_f1"]
    assert not [tag for tags in events.Tags().values() if isinstance(tags, list) for tag in tags if "secret" in tag]
    assert charts(events)["How good, and for whom"] == ["val_f1: workers, p10 to p90", "val_f1: all, and worst decile"]
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    assert b"^val_f1_epoch$" in layout
    assert b"secret" not in layout


def test_a_run_of_a_few_seconds_has_figures_at_its_end_only(tmp_path: Path) -> None:
    events = shown(tmp_path, FederatedModule(Labelled()), federation(4, 2), max_epochs=13)
    assert {image.step for tag in FIGURES for image in events.Images(tag)} == {25}


def test_histograms_hold_the_values_of_the_workers(tmp_path: Path) -> None:
    workers = {f"w{i}": EvaluatedRows([float(i)]) for i in range(4)}
    events = shown(tmp_path, FederatedModule(Net()), FederatedDataModule(workers), max_epochs=1)
    (histogram,) = events.Histograms("workers/val_acc")
    assert (histogram.histogram_value.min, histogram.histogram_value.max) == (0.0, 3.0)
    assert histogram.histogram_value.num == 4


@pytest.mark.filterwarnings("ignore:.*NaN")
def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    workers = {"bob": EvaluatedRows([1.0]), "eve": EvaluatedRows([float("nan")])}

    class Kept(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step([torch.nan_to_num(batch[0])], batch_idx)

    events = shown(tmp_path, FederatedModule(Kept()), FederatedDataModule(workers), max_epochs=1)
    assert events.Histograms("workers/val_acc")[0].histogram_value.num == 1


# ---- a promise -------------------------------------------------------------------------------------------------------


class Central(pl.LightningDataModule):
    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.ones(3)))


@pytest.mark.filterwarnings("ignore:CentralDP. noise comes from the seed")
def test_a_private_run_shows_nothing_of_its_workers(tmp_path: Path) -> None:
    promise = CentralDP(1.0, epsilon=8.0, accountant="rdp", insecure_deterministic_noise=True)
    events = shown(tmp_path, FederatedModule(Labelled(), privacy=promise), federation(val=Central()))
    tags = events.Tags()
    assert set(tags["scalars"]) == {
        *("epoch", "val_acc", "time/evaluate", "server/lr", "server/update_norm"),
        *("comm/megabytes_up_total", "comm/megabytes_down_total"),
        *("privacy/epsilon", "privacy/epsilon_budget", "privacy/rounds_left", "privacy/clip"),
        *("at_end/seconds", "at_end/val_acc", "at_end/val_acc_best", "at_end/epsilon"),
    }
    assert (tags["images"], tags["histograms"]) == ([], [])
    assert charts(events) == {
        "How good, and for whom": ["val_acc"],
        "What it cost": ["megabytes so far", "seconds"],
        "Privacy": ["ε and its budget", "rounds left"],
    }
    promised = text(events, "run/promise")
    assert "| budget | ε = 8 |" in promised
    assert "NOT PRIVATE" in promised
    texts = "".join(text(events, f"run/{name}") for name in ("settings", "what_leaves", "promise"))
    assert not re.search(r"worker_\d", texts)
    spent = events.Tensors("run/promise/text_summary")[-1]
    assert spent.step == 4
    page = spent.tensor_proto.string_val[0].decode()
    assert page.startswith("# Privacy of run")
    assert "| signed off | agrees" in page


@pytest.mark.filterwarnings("ignore:CentralDP. ")
def test_released_metrics_are_shown_and_the_workers_data_are_not(tmp_path: Path) -> None:
    promise = CentralDP(1.0, 1.0, insecure_deterministic_noise=True, release_metrics=True)
    tags = shown(tmp_path, FederatedModule(Labelled(), privacy=promise), federation()).Tags()
    assert set(tags["images"]) == FIGURES - {"who/partition"}
    assert "update/alignment" not in tags["scalars"]  # updates are no metrics


def test_under_secure_aggregation_all_is_about_cohorts(tmp_path: Path) -> None:
    data = FederatedDataModule({f"w{i}": Rows([float(i)]) for i in range(3)})
    fed = FederatedModule(Scalar(), secure_aggregation=SecureAggregation(clip=10.0), aggregator=UniformMean())
    events = shown(tmp_path, fed, data)
    assert set(events.Tags()["images"]) == {"who/participation"}, (
        "whoever took part is known; a worker's data are its own"
    )
    assert charts(events) == {
        "How good, and for whom": ["loss"],
        "What it cost": ["megabytes so far", "seconds"],
        "Who took part": ["cohort, dropped, stragglers", "share of the population so far"],
        "Secure aggregation": ["part of the updates that were shortened", "losses and metrics that were left out"],
    }
    assert {"secure/clipped", "secure/metrics_out_of_range"} <= set(events.Tags()["scalars"])


@pytest.mark.filterwarnings("ignore:CentralDP. noise comes from the seed")
def test_a_checkpoint_of_a_private_run_does_not_hold_who_took_part(tmp_path: Path) -> None:
    fed = FederatedModule(Labelled(), privacy=CentralDP(1.0, 1.0, insecure_deterministic_noise=True))
    done = fit(fed, federation(val=Central()), logger=board(tmp_path), callbacks=[Dashboard()])
    done.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert "lightning_fed.dashboard" not in checkpoint
    assert "took_part" not in checkpoint["lightning_fed"]["state"]


# ---- runs that go on, processes, evaluations -------------------------------------------------------------------------


def participation(folder: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> Any:
    """Run, and return what was drawn of who took part last."""
    from lightning_fed.callbacks.dashboard import figures

    drawn: list[Any] = []
    original = figures.participation
    monkeypatch.setattr(figures, "participation", lambda *a: drawn.append(a) or original(*a))
    run()
    return drawn[-1]


def test_who_took_part_goes_on_in_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole() -> None:
        fit(FederatedModule(Labelled()), federation(), max_epochs=4, logger=board(tmp_path), callbacks=[Dashboard()])

    expected = participation(tmp_path, monkeypatch, whole)
    assert expected[1].sum(axis=1).tolist() == [5] * 8

    def halves() -> None:
        first = fit(
            FederatedModule(Labelled()), federation(), max_epochs=2, logger=board(tmp_path), callbacks=[Dashboard()]
        )
        first.save_checkpoint(tmp_path / "half.ckpt")
        second = trainer(max_epochs=4, logger=board(tmp_path), callbacks=[Dashboard()])
        second.fit(FederatedModule(Labelled()), federation(), ckpt_path=str(tmp_path / "half.ckpt"))

    found = participation(tmp_path, monkeypatch, halves)
    assert (found[0], found[2]) == (expected[0], 0)
    assert np.array_equal(found[1], expected[1])


def test_accumulated_cohorts_are_one_round_of_who_took_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three cohorts of one worker each in turn, two of them a round: columns are rounds, also of a round cut short."""
    data = FederatedDataModule(
        {name: Rows([1.0]) for name in "abc"}, cohort_size=1, sampler=RoundRobin(), rounds_per_epoch=3
    )
    asked: list[list[str]] = []

    class Asked(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            while len(asked) <= trainer.global_step:
                asked.append([])
            asked[trainer.global_step] += batch.workers

    def run() -> None:
        options = {"accumulate_grad_batches": 2, "max_epochs": 2, "callbacks": [Dashboard(), Asked()]}
        fit(FederatedModule(Scalar()), data, logger=board(tmp_path), **options)

    names, took_part, first = participation(tmp_path, monkeypatch, run)
    assert (len(asked), [len(cohorts) for cohorts in asked], first) == (4, [2, 1, 2, 1], 0)
    assert took_part.tolist() == [[name in cohorts for name in names] for cohorts in asked]


def test_a_checkpoint_is_used_without_the_callback_and_without_a_warning(tmp_path: Path) -> None:
    fit(FederatedModule(Labelled()), federation(), logger=board(tmp_path), callbacks=[Dashboard()]).save_checkpoint(
        tmp_path / "a.ckpt"
    )
    trainer(max_epochs=2).fit(FederatedModule(Labelled()), federation(), ckpt_path=str(tmp_path / "a.ckpt"))


def test_two_processes_show_once_what_one_shows(tmp_path: Path) -> None:
    one = shown(tmp_path / "one", FederatedModule(Labelled()), federation(), max_epochs=1).Tags()

    def work() -> None:
        logger = TensorBoardLogger(str(tmp_path / "two"), version=0, default_hp_metric=False)
        options: Any = {"devices": 2, "strategy": "ddp", "callbacks": [Dashboard()], "logger": logger}
        fit(FederatedModule(Labelled()), federation(), **options)
        logger.finalize("success")

    for ended in run_in_processes(work, 2):
        assert ended.error is None, ended.trace
    two = read(tmp_path / "two").Tags()
    for kind in ("scalars", "images", "histograms", "tensors"):
        assert set(two[kind]) == set(one[kind])


def test_a_test_draws_its_workers(tmp_path: Path) -> None:
    workers = {f"w{i}": EvaluatedRows([float(i)]) for i in range(4)}
    logger = board(tmp_path)
    trainer(logger=logger, callbacks=[Dashboard()]).test(
        FederatedModule(Net()), FederatedDataModule(workers), verbose=False
    )
    logger.finalize("success")
    tags = read(tmp_path).Tags()
    assert (tags["images"], tags["histograms"]) == (["who/val_acc_per_worker"], ["workers/val_acc"])


def test_without_a_logger_and_with_others_nothing_happens(tmp_path: Path) -> None:
    csv = CSVLogger(str(tmp_path / "csv"))
    fit(FederatedModule(Labelled()), federation(), logger=False, callbacks=[Dashboard()])
    fit(FederatedModule(Labelled()), federation(), logger=csv, callbacks=[Dashboard()])
    fit(FederatedModule(Labelled()), federation(), logger=board(tmp_path), callbacks=[Dashboard()], fast_dev_run=True)
    assert not list(tmp_path.glob("**/events.out.tfevents.*"))
    fit(FederatedModule(Labelled()), federation(), logger=[csv, board(tmp_path)], callbacks=[Dashboard()])
    assert set(read(tmp_path).Tags()["images"]) == FIGURES


def test_a_module_that_is_not_wrapped_is_refused() -> None:
    with pytest.raises(
        TypeError, match=r"the Trainer has a Scalar: wrap it, trainer.fit\(FederatedModule\(module\), dat"
    ):
        trainer(callbacks=[Dashboard()]).fit(Scalar(), DataLoader(TensorDataset(torch.ones(2))))


# ---- what may be missing or fail -------------------------------------------------------------------------------------


@pytest.fixture
def _no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "matplotlib" else find(name, *a))
    monkeypatch.setitem(sys.modules, "matplotlib", None)


@pytest.mark.usefixtures("_no_matplotlib")
def test_without_matplotlib_all_else_is_shown_and_one_sentence_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"not installed: pip install 'lightning_fed\[examples\]'") as said:
        events = shown(tmp_path, FederatedModule(Labelled()), federation())
    assert len([one for one in said if "Dashboard" in str(one.message)]) == 1
    assert events.Tags()["images"] == []
    assert set(events.Tags()["histograms"]) == {"workers/val_acc"}
    assert charts(events)


@pytest.mark.usefixtures("_no_matplotlib")
def test_without_matplotlib_nothing_is_said_where_no_figures_are_asked_for(tmp_path: Path) -> None:
    events = shown(tmp_path, FederatedModule(Labelled()), federation(), callbacks=[Dashboard(figures=False)])
    assert charts(events)


def test_each_part_can_be_left_out(tmp_path: Path) -> None:
    tags = shown(
        tmp_path, FederatedModule(Labelled()), federation(), callbacks=[Dashboard(figures=False, layout=False)]
    ).Tags()
    assert tags["images"] == []
    assert "custom_scalars__config__" not in tags["tensors"]


class Failing(DummyLogger):
    """A logger whose board fails."""


class FailingBoard(Board):
    def __init__(self, logger: Any) -> None:
        pass

    def text(self, *_: Any) -> None:
        raise OSError(28, "No space left on device")

    figure = text


board_of.register(Failing, FailingBoard)


def test_a_board_that_fails_is_said_once_and_ends_nothing() -> None:
    with pytest.warns(UserWarning, match="Dashboard could not show its settings .*No space left.*the run goes") as said:
        done = fit(FederatedModule(Labelled()), federation(), logger=Failing(), callbacks=[Dashboard()], max_epochs=2)
    assert done.global_step == 4
    assert len([one for one in said if "Dashboard" in str(one.message)]) == 1


def test_nothing_of_matplotlib_that_is_shared_is_touched(tmp_path: Path) -> None:
    import matplotlib
    from matplotlib import pyplot

    before = (matplotlib.get_backend(), pyplot.get_fignums(), dict(matplotlib.rcParams))
    shown(tmp_path, FederatedModule(Labelled()), federation())
    assert (matplotlib.get_backend(), pyplot.get_fignums(), dict(matplotlib.rcParams)) == before


# ---- other loggers ---------------------------------------------------------------------------------------------------


class FakeWandb(WandbLogger):
    """W&B's logger as it stands in Lightning, without its package."""

    def __init__(self) -> None:
        self.logged: list[tuple[str, str, Any, int | None]] = []

    @property
    def experiment(self) -> Any:
        return None

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_graph(self, *_: Any, **__: Any) -> None:
        pass

    def finalize(self, status: str) -> None:
        pass

    def after_save_checkpoint(self, *_: Any) -> None:
        pass

    @property
    def save_dir(self) -> None:
        return None

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.logged += [("metric", name, value, step) for name, value in metrics.items()]

    def log_text(
        self, key: str, columns: Any = None, data: Any = None, dataframe: Any = None, step: Any = None
    ) -> None:
        self.logged.append(("text", key, (columns, data), step))

    def log_image(self, key: str, images: Any, step: int | None = None, **_: Any) -> None:
        self.logged.append(("image", key, images, step))


def test_weights_and_biases_gets_tables_images_and_histograms(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wandb:
        @staticmethod
        def Histogram(values: Any) -> Any:  # as it is called there
            return ("histogram", sorted(values.tolist()))

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    logger = FakeWandb()
    workers = {f"w{i}": EvaluatedRows([float(i)]) for i in range(3)}
    fit(FederatedModule(Net()), FederatedDataModule(workers), logger=logger, callbacks=[Dashboard()])
    found = {(kind, name): (value, step) for kind, name, value, step in logger.logged}
    assert found["metric", "workers/val_acc"] == (("histogram", [0.0, 1.0, 2.0]), 0)
    assert found["text", "run/settings"][0][0] == ["setting", "value"]
    images = {name: value for (kind, name), (value, _) in found.items() if kind == "image"}
    assert images.keys() == {"who/participation", "who/partition", "who/val_acc_per_worker"}
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for (image,) in images.values())


class FakeMLFlow(MLFlowLogger):
    """MLflow's logger as it stands in Lightning, without its package."""

    def __init__(self) -> None:
        self.files: dict[str, Any] = {}

    @property
    def run_id(self) -> str:
        return "7"

    @property
    def experiment(self) -> Any:
        return self

    @property
    def save_dir(self) -> None:
        return None

    def log_metrics(self, *_: Any, **__: Any) -> None:
        pass

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def finalize(self, status: str = "success") -> None:
        pass

    def after_save_checkpoint(self, *_: Any) -> None:
        pass

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self.files[artifact_file] = (run_id, text)

    def log_figure(self, run_id: str, figure: Any, artifact_file: str) -> None:
        self.files[artifact_file] = (run_id, figure.get_size_inches().tolist())


def test_mlflow_gets_artifacts() -> None:
    logger = FakeMLFlow()
    fit(FederatedModule(Labelled()), federation(), logger=logger, callbacks=[Dashboard()], max_epochs=1)
    assert logger.files.keys() == {
        *("run/settings.md", "run/promise.md", "run/what_leaves.md"),
        *(f"who/{name}/000001.png" for name in ("participation", "partition", "val_acc_per_worker")),
    }
    assert {run for run, _ in logger.files.values()} == {"7"}


# ---- labels ----------------------------------------------------------------------------------------------------------


class Images:
    """A dataset with labels as torchvision's have them, whose examples must not be made for a picture."""

    targets = (3, 3, 5)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an example was made")


def test_labels_are_read_without_making_an_example() -> None:
    listed = Images()
    listed.targets = list(Images.targets)  # type: ignore[assignment]
    assert label_counts(DataLoader(listed)) == {3: 2, 5: 1}  # type: ignore[arg-type]
    assert label_counts(DataLoader(TensorDataset(torch.zeros(3), torch.tensor([[1], [1], [0]])))) == {1: 2, 0: 1}


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(torch.zeros(3), id="numbers"),
        pytest.param(torch.zeros(3, 2, dtype=torch.int64), id="several for each example"),
        pytest.param(torch.arange(101), id="too many to be classes"),
    ],
)
def test_what_is_no_label_is_not_counted(labels: torch.Tensor) -> None:
    assert label_counts(DataLoader(TensorDataset(torch.zeros(len(labels)), labels))) is None


class Targets(torch.utils.data.Dataset[Any]):
    """Two examples, which must not be made, and an attribute with their labels."""

    def __init__(self, targets: Any) -> None:
        self.targets = targets

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an example was made")


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["cat", "dog"], {"cat": 1, "dog": 1}),
        (np.array(["cat", "cat"]), {"cat": 2}),
        (np.array([[4], [4]]), {4: 2}),
        ((True, False), {0: 1, 1: 1}),
        ([torch.tensor(3), torch.tensor([3])], {3: 2}),
        ([1, "cat", 2], None),
        ([[1], [1, 2]], None),
        ([None, "cat"], None),
        ([torch.zeros(2), torch.zeros(3)], None),
        (np.array([0.5, 1.0]), None),
        (torch.tensor([1.0, 2.0], dtype=torch.bfloat16), None),
        ([1, 2, 3], None),  # of other examples, as it seems
    ],
)
def test_targets_of_every_kind(targets: Any, expected: Any) -> None:
    assert label_counts(DataLoader(Targets(targets))) == expected


NINE = TensorDataset(torch.zeros(9), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]))


class Every(torch.utils.data.Sampler[int]):
    """A sampler of the user's."""

    def __iter__(self) -> Any:
        raise AssertionError("it was asked")

    def __len__(self) -> int:
        return 4


class Batched(torch.utils.data.BatchSampler):
    def __iter__(self) -> Any:
        raise AssertionError("it was asked")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"shuffle": True}, {0: 3, 1: 3, 2: 3}),
        ({"sampler": torch.utils.data.SubsetRandomSampler([0, 1, 3])}, {0: 2, 1: 1}),
        ({"sampler": torch.utils.data.SubsetRandomSampler(torch.tensor([0, 3]))}, {0: 1, 1: 1}),  # type: ignore[arg-type]
        ({"sampler": torch.utils.data.RandomSampler(NINE, replacement=True)}, None),
        ({"sampler": torch.utils.data.RandomSampler(NINE, num_samples=3)}, None),
        ({"sampler": torch.utils.data.WeightedRandomSampler([1.0] * 9, 5)}, None),
        ({"sampler": Every()}, None),
        ({"batch_sampler": Batched(torch.utils.data.SequentialSampler(NINE), 2, False)}, None),
    ],
)
def test_labels_are_those_of_what_is_drawn(options: Any, expected: Any) -> None:
    assert label_counts(DataLoader(NINE, **options)) == expected


def test_which_of_three_tensors_has_the_labels_is_not_guessed() -> None:
    x, y = torch.zeros(9), NINE.tensors[1]
    assert label_counts(DataLoader(TensorDataset(x, y, torch.arange(9)))) is None


class Sampled(EvaluatedRows):
    """Nine rows with labels, of which a sampler draws the first few."""

    def __init__(self, count: int, **options: Any) -> None:
        super().__init__([0.0])
        self.sampler = torch.utils.data.SubsetRandomSampler(range(count))

    def train_dataloader(self) -> Any:
        return DataLoader(NINE, batch_size=2, sampler=self.sampler)


def drawn_partition(data: FederatedDataModule, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    from lightning_fed.callbacks.dashboard import figures

    drawn: list[Any] = []
    original = figures.partition
    monkeypatch.setattr(figures, "partition", lambda *a: drawn.append(a) or original(*a))
    shown(folder, FederatedModule(Labelled()), data, max_epochs=1)
    return drawn[-1]


def test_the_figure_of_data_is_of_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = FederatedDataModule({"a": Sampled(4), "b": Sampled(5)})
    counts, sizes, _ = drawn_partition(data, tmp_path, monkeypatch)
    assert (counts, sizes) == ({"a": {0: 3, 1: 1}, "b": {0: 3, 1: 2}}, {"a": 4, "b": 5})


def test_a_dataset_of_ones_own_has_sizes_only() -> None:
    class Own(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("an example was made")

    assert label_counts(DataLoader(Own())) is None
    assert label_counts([1, 2]) is None
