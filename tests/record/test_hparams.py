"""TensorBoard's HPARAMS: the sessions in event files, and what its own backend makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedAvg, FedProx
from lightning_fed.privacy import CentralDP
from lightning_fed.record import finals


class Validated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", ((self.x - batch[0]) ** 2).mean())


class Wide(Scalar):
    """A module with a tuple, and a list of one, among its hyperparameters."""

    def __init__(self, hidden: tuple[int, ...] = (3, 2), nested: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()


def workers(n: int = 2) -> dict[str, Rows]:
    return {f"w{i}": EvaluatedRows([float(i)]) for i in range(n)}


def sessions(folder: Path) -> dict[str, list[Any]]:
    """All hparams summaries in the event files of a folder, by kind."""
    found: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "hparams":
                    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
                    found.setdefault(data.WhichOneof("data"), []).append(data)
    return found


def settings_of(folder: Path) -> dict[str, Any]:
    (data,) = sessions(folder)["session_start_info"]
    kinds = ("number_value", "string_value", "bool_value")
    return {
        name: next(getattr(value, kind) for kind in kinds if value.HasField(kind))
        for name, value in data.session_start_info.hparams.items()
    }


def last_values(folder: Path) -> dict[str, float]:
    values: dict[str, float] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        accumulator = EventAccumulator(str(path))
        accumulator.Reload()
        values |= {tag: accumulator.Scalars(tag)[-1].value for tag in accumulator.Tags()["scalars"]}
    return values


def run(folder: Path, default: bool = False, n: int = 2, **options: Any) -> Path:
    logger = TensorBoardLogger(str(folder), name="", version="run", default_hp_metric=default)
    rounds = options.pop("rounds", 3)
    fit(
        FederatedModule(Validated(lr=0.5), **options), FederatedDataModule(workers(n)), max_epochs=rounds, logger=logger
    )
    return folder / "run"


@pytest.mark.parametrize("default", [False, True])
def test_a_session_begins_and_ends_with_the_settings_and_no_experiment_decides_about_columns(
    tmp_path: Path, default: bool
) -> None:
    folder = run(tmp_path, default, algorithm=FedProx(mu=0.1))
    found = sessions(folder)
    assert {kind: len(data) for kind, data in found.items()} == {"session_start_info": 1, "session_end_info": 1}
    assert found["session_end_info"][0].session_end_info.status == 1  # STATUS_SUCCESS
    logged = settings_of(folder)
    assert (logged["algorithm"], logged["algorithm/mu"], logged["lr"]) == ("FedProx(mu=0.1)", 0.1, 0.5)
    assert (logged["engine"], logged["server_optimizer/lr"], logged["cohort_size"]) == ("vectorized", 1.0, 2.0)
    assert ("hp_metric" in last_values(folder)) is default  # as the user's logger has it


def test_the_final_and_the_best_values_and_the_worst_decile(tmp_path: Path) -> None:
    """Workers at 0 to 10, x nears the mean 5 by half its distance: the farthest are worst, and the last round best."""
    values = last_values(run(tmp_path, n=11))
    x = 5 * (1 - 0.5**3)
    losses = sorted((x - i) ** 2 for i in range(11))
    assert values["at_end/val_loss"] == values["at_end/val_loss_best"] == pytest.approx(sum(losses) / 11)
    assert values["at_end/val_loss_p90"] == pytest.approx(losses[9])
    assert values["at_end/megabytes"] > 0
    assert 0 < values["at_end/seconds"] < 60
    assert not [name for name in values if "epsilon" in name]


class Diverging(Validated):
    """From the third epoch on, the loss is NaN, and an error infinite at the worker at 0."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        late = self.trainer.current_epoch >= 2
        self.log("val_loss", math.nan if late else 5.0 + self.trainer.current_epoch)
        self.log("val_error", math.inf if late and batch[0][0] == 0 else 1.0)
        self.log("never_error", math.nan)


@pytest.mark.filterwarnings("ignore:.* NaN at")
def test_a_last_value_that_is_no_number_is_shown_as_that(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    fit(FederatedModule(Diverging()), FederatedDataModule(workers(3)), max_epochs=4, logger=logger)
    values = last_values(tmp_path / "run")
    for name in ("val_loss", "val_loss_p90", "never_error", "never_error_p90"):
        assert math.isnan(values[f"at_end/{name}"]), name
    assert values["at_end/val_loss_best"] == 5.0
    assert values["at_end/val_error"] == values["at_end/val_error_p90"] == math.inf
    assert values["at_end/val_error_best"] == 1.0
    assert "at_end/never_error_best" not in values


class Nowhere(Scalar):
    """Its loss is NaN, and its gradient is not."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss + (math.nan - loss).detach() if self.trainer.current_epoch else loss


@pytest.mark.filterwarnings("ignore:.* NaN at")
def test_a_last_loss_that_is_no_number_is_shown_as_that(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    fit(FederatedModule(Nowhere()), FederatedDataModule({"a": Rows([2.0])}), max_epochs=2, logger=logger)
    assert math.isnan(last_values(tmp_path / "run")["at_end/loss"])


class Clock(pl.Callback):
    """A clock by which each epoch takes 10 seconds; a checkpoint is written after the first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def on_validation_start(self, *_: Any) -> None:
        self.now += 10

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


class Turning(Validated):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", float(1 + self.trainer.current_epoch))


@pytest.mark.parametrize("folder", ["a", "b"])
def test_a_resumed_run_has_what_it_took_up_to_its_checkpoint_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """Two epochs, gone on with from the first one's checkpoint: 20 seconds, two rounds' bytes, the first one's loss."""
    clock = Clock(tmp_path / "first.ckpt")
    monkeypatch.setattr(finals, "time", clock)
    for name, path in (("a", None), (folder, str(clock.path))):
        logger = TensorBoardLogger(str(tmp_path), name="", version=name, default_hp_metric=False)
        data = FederatedDataModule(workers())
        run = trainer(max_epochs=2, logger=logger, callbacks=[clock])
        run.fit(FederatedModule(Turning()), data, ckpt_path=path)
        logger.finalize("success")
        clock.now += 100
        values = last_values(tmp_path / name)
        assert values["at_end/seconds"] == 20
        total = values["comm/megabytes_up_total"] + values["comm/megabytes_down_total"]
        assert values["at_end/megabytes"] == pytest.approx(total, rel=1e-6)  # curves are float32
        assert (values["at_end/val_loss"], values["at_end/val_loss_best"]) == (2.0, 1.0)


def test_without_an_evaluation_it_is_the_loss(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    fit(FederatedModule(Scalar()), FederatedDataModule({"a": Rows([2.0])}), logger=logger)
    assert last_values(tmp_path / "run")["at_end/loss"] == pytest.approx(2.0)


class Timed(Validated):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("seconds", 1000.0)


def test_a_metric_that_is_named_as_a_cost_stands_beside_it(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    fit(FederatedModule(Timed()), FederatedDataModule(workers()), logger=logger)
    values = last_values(tmp_path / "run")
    assert values["at_end/logged/seconds"] == values["at_end/seconds_best"] == 1000
    assert values["at_end/seconds"] < 60


def test_under_a_promise_there_is_epsilon_and_nothing_of_workers(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    promise = CentralDP(1.0, 1.0, delta=1e-3, accountant="rdp")
    data = FederatedDataModule({name: Rows([1.0]) for name in ("alice", "bob")})
    fed = FederatedModule(Scalar(), privacy=promise)
    fit(fed, data, logger=logger)
    values, logged = last_values(tmp_path / "run"), settings_of(tmp_path / "run")
    assert {name for name in values if name.startswith("at_end/")} == {"at_end/epsilon", "at_end/seconds"}
    assert fed.private_run is not None
    assert values["at_end/epsilon"] == pytest.approx(fed.private_run.spent)
    assert (logged["privacy/clip"], logged["privacy/noise_multiplier"], logged["privacy/delta"]) == (1.0, 1.0, 1e-3)
    assert logged["privacy/neighbours"] in ("zero-out", "replace-one")
    assert not [text for text in map(str, logged.values()) if "alice" in text]


def test_a_run_that_fails_has_a_session_without_an_end(tmp_path: Path) -> None:
    class Broken(Rows):
        def train_dataloader(self) -> Any:
            raise OSError("no disk")

    logger = TensorBoardLogger(str(tmp_path), name="", version="run")
    with pytest.raises(RuntimeError, match="no disk"):
        fit(FederatedModule(Scalar()), FederatedDataModule({"a": Broken([1.0])}), logger=logger)
    assert set(sessions(tmp_path / "run")) == {"session_start_info"}
    assert logger._default_hp_metric is True


def test_users_who_log_their_own_session_have_theirs(tmp_path: Path) -> None:
    class Own(Validated):
        def on_train_start(self) -> None:
            self.logger.log_hyperparams({"mine": 1}, {"val_loss": 0.0})

    logger = TensorBoardLogger(str(tmp_path), name="", version="run", default_hp_metric=False)
    fit(FederatedModule(Own()), FederatedDataModule(workers()), logger=logger)
    assert "session_end_info" in sessions(tmp_path / "run")


def test_switched_off_nothing_is_logged(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), name="", version="run")
    run = fit(FederatedModule(Validated()), FederatedDataModule(workers()), logger=logger, max_epochs=1)
    if "enable_autolog_hparams" not in vars(run):
        pytest.skip("new in Lightning 2.6")
    logger = TensorBoardLogger(str(tmp_path), name="", version="off")
    data = FederatedDataModule(workers())
    fit(FederatedModule(Validated()), data, logger=logger, max_epochs=1, enable_autolog_hparams=False)
    assert sessions(tmp_path / "off") == {}
    assert not [name for name in last_values(tmp_path / "off") if name.startswith(("summary", "hp_metric"))]


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_yaml_has_lists_for_tuples_and_what_the_fit_has_decided(tmp_path: Path, kind: Any) -> None:
    logger = kind(str(tmp_path), name="", version="run")
    fed = FederatedModule(Wide(nested={"a": (1, [(2,)])}))
    fit(fed, FederatedDataModule({"a": Rows([1.0])}), logger=logger)
    logger.finalize("success")
    text = (tmp_path / "run" / "hparams.yaml").read_text()
    assert "!!python" not in text
    content = yaml.safe_load(text)
    assert (content["hidden"], content["nested"]) == ([3, 2], {"a": [1, [[2]]]})
    assert (content["engine"], content["engine/asked"]) == ("vectorized", "Auto")
    assert fed.hparams["hidden"] == (3, 2)  # and of the checkpoint too


class Strict(Logger):
    """Takes no other value for a name later, as MLflow does."""

    name, version = "strict", 0

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        for name, value in dict(params).items():
            if self.params.setdefault(name, value) != value:
                raise RuntimeError(f"{name} was {self.params[name]!r} and is {value!r}")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass


@pytest.mark.parametrize(
    "privacy",
    [None, CentralDP(1.0, epsilon=50.0, accountant="rdp"), CentralDP(1.0, 1.0, accountant="rdp")],
    ids=["open", "budget", "noise"],
)
def test_no_value_is_logged_that_is_another_one_later(privacy: Any) -> None:
    logger = Strict()
    data = FederatedDataModule(workers(8), cohort_size=4, val=EvaluatedRows([1.0]))
    fit(FederatedModule(Validated(), privacy=privacy), data, logger=logger, max_epochs=2)
    assert logger.params["engine"] == "vectorized"
    assert (privacy is None) or logger.params["privacy/noise_multiplier"] > 0


class Refusing(Strict):
    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        if "engine" in params:
            raise RuntimeError("too late")


def test_a_logger_that_refuses_does_not_end_the_run() -> None:
    with pytest.warns(UserWarning, match="Refusing did not take all hyperparameters: .*too late"):
        run = fit(FederatedModule(Scalar()), FederatedDataModule({"a": Rows([1.0])}), logger=Refusing())
    assert run.global_step == 1


def test_two_algorithms_are_told_apart(tmp_path: Path) -> None:
    one, other = (run(tmp_path / name, algorithm=a) for name, a in (("a", FedAvg()), ("b", FedProx(mu=0.1))))
    logged = settings_of(one), settings_of(other)
    differ = {name for name in {**logged[0], **logged[1]} if logged[0].get(name) != logged[1].get(name)}
    assert differ == {"algorithm", "algorithm/mu"}
