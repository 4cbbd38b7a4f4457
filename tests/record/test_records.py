"""The files that a run leaves, and what is read from them."""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
from helpers import EvaluatedRows, Rows, Scalar, fit, trainer
from processes import run_in_processes
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.record import lines, read
from lightning_fed.record.files import Disk
from lightning_fed.selection import Availability, Response, RoundRobin


class Validated(Scalar):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", ((self.x - batch[0]) ** 2).mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", ((self.x - batch[0]) ** 2).mean())


class Broken(Rows):
    def train_dataloader(self) -> Any:
        raise OSError("no disk")


def logger(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(str(folder), name="toy", version="run", default_hp_metric=False)


def two(kind: type[Rows] = Rows) -> FederatedDataModule:
    return FederatedDataModule({"a": kind([2.0]), "b": kind([4.0, 4.0])})


def test_rounds_and_evaluations_by_hand(tmp_path: Path) -> None:
    """x = 0, workers [2] and [4, 4], lr 0.5: losses 2 and 8, mean by rows 6; x becomes 5/3."""
    fed, data = FederatedModule(Validated(lr=0.5)), two(EvaluatedRows)
    run = fit(fed, data, max_epochs=2, logger=logger(tmp_path))
    run.validate(fed, data, verbose=False)
    run.test(fed, data, verbose=False)
    record = read(tmp_path / "toy" / "run")
    assert record.name == record.run["name"] == "toy/run"
    first, second = record.rounds
    assert (first["round"], first["epoch"], second["round"], second["epoch"]) == (0, 0, 1, 1)
    assert (first["size"], first["cohort"], first["examples"], first["loss"]) == (
        2,
        ["a", "b"],
        3.0,
        pytest.approx(6.0),
    )
    assert (first["dropped"], first["stragglers"], first["failures"]) == ([], [], [])
    assert 0 < first["seconds"] < 60
    assert first["bytes_down"] > 0 < first["bytes_up"]
    stages = [(line["round"], line["stage"]) for line in record.evaluations]
    assert stages == [(0, "val"), (1, "val"), (1, "validate"), (1, "test")]
    x = 5 / 3
    after = record.evaluations[0]
    assert after["workers"]["a"]["val_loss"] == pytest.approx((2 - x) ** 2)
    assert after["metrics"]["val_loss"] == pytest.approx(((2 - x) ** 2 + 2 * (4 - x) ** 2) / 3)
    assert set(record.evaluations[3]["metrics"]) == {"test_loss"}
    assert (record.run["outcome"], record.run["error"]) == ("completed", None)
    assert record.run["started"] <= record.run["finished"]


class Away(Availability):
    def respond(self, worker: str, number: int, seed: int) -> Response:
        return {"a": Response("absent"), "b": Response(work=0.5), "c": Response()}[worker]


def test_who_was_away_late_or_broken(tmp_path: Path) -> None:
    workers = {"a": Rows([1.0]), "b": Rows([1.0, 2.0], batch_size=1), "c": Broken([3.0])}
    fed = FederatedModule(Scalar(), on_worker_error="drop")
    fit(fed, FederatedDataModule(workers, availability=Away()), logger=logger(tmp_path))
    (line,) = read(tmp_path / "toy" / "run").rounds
    assert (line["cohort"], line["dropped"], line["stragglers"]) == (["a", "b", "c"], ["a"], ["b"])
    (failure,) = line["failures"]
    assert failure["worker"] == "c"
    assert "no disk" in failure["reason"]


class Logging(Scalar):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("first", batch[0][0])
        return super().training_step(batch, batch_idx)


def test_accumulated_cohorts_are_one_round(tmp_path: Path) -> None:
    data = FederatedDataModule(
        {"a": Rows([1.0]), "b": Rows([3.0])}, cohort_size=1, rounds_per_epoch=4, sampler=RoundRobin()
    )
    fit(FederatedModule(Logging()), data, logger=logger(tmp_path), accumulate_grad_batches=2)
    lines = read(tmp_path / "toy" / "run").rounds
    assert [line["round"] for line in lines] == [0, 1]
    assert [line["cohort"] for line in lines] == [["a", "b"]] * 2
    assert [line["metrics"] for line in lines] == [{"first": 2.0}] * 2  # the mean over both
    assert lines[0]["loss"] == pytest.approx((0.5 + 4.5) / 2)


def test_an_error_ends_the_record(tmp_path: Path) -> None:
    data = FederatedDataModule({"a": Rows([1.0]), "c": Broken([3.0])})
    with pytest.raises(RuntimeError, match="no disk"):
        fit(FederatedModule(Scalar()), data, logger=logger(tmp_path))
    run = read(tmp_path / "toy" / "run").run
    assert run["outcome"] == "failed"
    assert "'c'" in run["error"]
    assert run["finished"]


class Stops(pl.Callback):
    """Ends the process's fit before a round, or breaks it off as a kill would: nothing more is called."""

    def __init__(self, before: int) -> None:
        self.before = before

    def on_train_batch_start(self, run: Any, *_: Any) -> None:
        if run.global_step == self.before:
            raise RuntimeError("broken off")


class Saves(pl.Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, run: Any, *_: Any) -> None:
        if run.global_step == 2:
            run.save_checkpoint(self.path)


def test_a_resumed_run_goes_on_in_its_files_and_the_last_line_of_a_round_counts(tmp_path: Path) -> None:
    saving = Saves(tmp_path / "step=2.ckpt")
    with pytest.raises(RuntimeError, match="broken off"):
        fit(
            FederatedModule(Scalar(lr=0.1)),
            two(),
            max_epochs=9,
            callbacks=[saving, Stops(3)],
            logger=logger(tmp_path),
        )
    folder = tmp_path / "toy" / "run"
    before = read(folder)
    assert [line["round"] for line in before.rounds] == [0, 1, 2]
    again = trainer(max_epochs=3, logger=logger(tmp_path))
    again.fit(FederatedModule(Scalar(lr=0.1)), two(), ckpt_path=str(tmp_path / "step=2.ckpt"))
    record = read(folder)
    assert [line["round"] for line in record.rounds] == [0, 1, 2]
    assert [line["fit"] for line in record.rounds] == [
        *[before.run["fits"][0]["fit"]] * 2,
        record.run["fits"][1]["fit"],
    ]
    assert [fit["round"] for fit in record.run["fits"]] == [0, 2]
    assert record.run["started"] == before.run["started"]
    assert record.run["fits"][1]["checkpoint"].endswith("step=2.ckpt")
    assert len((folder / "rounds.jsonl").read_text().splitlines()) == 4


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_a_checkpoint_is_evaluated_at_its_own_round(tmp_path: Path) -> None:
    """Two rounds an epoch, four epochs; the checkpoint of the second one goes to the same Trainer and to a new one."""
    workers = {"a": EvaluatedRows([2.0]), "b": EvaluatedRows([4.0])}
    data, fed = FederatedDataModule(workers, cohort_size=1, rounds_per_epoch=2), FederatedModule(Validated())
    saves = pl.callbacks.ModelCheckpoint(tmp_path / "saved", save_top_k=-1, filename="{epoch}")
    run = fit(fed, data, max_epochs=4, logger=logger(tmp_path), callbacks=[saves], enable_checkpointing=True)
    path = str(tmp_path / "saved" / "epoch=1.ckpt")
    run.validate(fed, data, ckpt_path=path, verbose=False)
    trainer(logger=logger(tmp_path)).test(FederatedModule(Validated()), data, ckpt_path=path, verbose=False)
    other = FederatedModule(Validated())
    run.test(other, data, verbose=False)  # which has not been trained
    entries = read(tmp_path / "toy" / "run").evaluations
    assert [(line["round"], line["epoch"]) for line in entries[:4]] == [(1, 0), (3, 1), (5, 2), (7, 3)]
    assert [(line["stage"], line["round"], line["epoch"]) for line in entries[4:6]] == [
        ("validate", 3, 1),
        ("test", 3, 1),
    ]
    assert entries[4]["metrics"]["val_loss"] == entries[1]["metrics"]["val_loss"]
    assert (entries[6]["stage"], entries[6]["round"]) == ("test", -1)


def test_the_plain_module_on_the_same_trainer_is_no_part_of_the_record(tmp_path: Path) -> None:
    """As a script does that has trained its module by ``trainer.fit(FederatedModule(module), ...)``."""
    module, data = Validated(), two(EvaluatedRows)
    run = fit(FederatedModule(module), data, logger=logger(tmp_path))
    central = EvaluatedRows([1.0, 3.0])
    (result,) = run.validate(module, central, verbose=False)
    run.test(module, central, verbose=False)
    x = module.x.item()
    assert result["val_loss"] == pytest.approx(((x - 1) ** 2 + (x - 3) ** 2) / 2)
    assert [line["stage"] for line in read(tmp_path / "toy" / "run").evaluations] == ["val"]


def test_a_run_that_begins_anew_takes_the_place_of_another(tmp_path: Path) -> None:
    fit(FederatedModule(Validated()), two(EvaluatedRows), max_epochs=3, logger=logger(tmp_path))
    fit(FederatedModule(Scalar()), two(), max_epochs=1, logger=logger(tmp_path))
    record = read(tmp_path / "toy" / "run")
    assert [line["round"] for line in record.rounds] == [0]
    assert record.evaluations == []


def test_a_torn_line_is_passed_over_and_not_gone_on_with(tmp_path: Path) -> None:
    fed, data = FederatedModule(Validated()), two(EvaluatedRows)
    run = fit(fed, data, max_epochs=2, logger=logger(tmp_path))
    folder = tmp_path / "toy" / "run"
    for file in ("rounds.jsonl", "evaluations.jsonl"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:-10])
    record = read(folder)
    assert [line["round"] for line in record.rounds] == [0]
    assert len(record.evaluations) == 1
    run.validate(fed, data, verbose=False)
    assert [line["stage"] for line in read(folder).evaluations] == ["val", "validate"]


@pytest.mark.parametrize("way", ["no logger", "fast_dev_run", "nowhere"])
def test_nothing_is_written_where_no_logger_has_a_folder(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {
        "no logger": {},
        "fast_dev_run": {"logger": logger(tmp_path), "fast_dev_run": True},
        "nowhere": {"logger": Nowhere()},
    }[way]
    fit(FederatedModule(Scalar()), two(), default_root_dir=tmp_path, **options)
    assert list(tmp_path.glob("**/*.json*")) == []


class Nowhere(Logger):
    """A logger without a folder of its run."""

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    name = property(lambda self: "project")
    version = property(lambda self: "k3f9")
    save_dir = property(lambda self: self.folder)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *_: Any, **__: Any) -> None:
        pass


def test_of_several_loggers_the_first_with_a_folder_has_it(tmp_path: Path) -> None:
    loggers = [Nowhere(), Nowhere("s3://bucket"), Nowhere(str(tmp_path / "theirs")), logger(tmp_path)]
    fit(FederatedModule(Scalar()), two(), logger=loggers)
    assert [path.parent for path in tmp_path.glob("**/run.json")] == [tmp_path / "theirs" / "project" / "k3f9"]


def test_what_cannot_be_written_is_said_once_and_the_training_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "run"
    folder.mkdir(parents=True)
    (folder / "run.json").mkdir()
    (folder / "rounds.jsonl").mkdir()
    fed = FederatedModule(Scalar())
    with pytest.warns(UserWarning, match="the record of the run cannot be written") as said:
        run = fit(fed, two(), max_epochs=3, logger=logger(tmp_path))
    assert len([one for one in said if "the record" in str(one.message)]) == 1
    assert run.global_step == 3


def test_nothing_is_left_of_a_file_that_cannot_take_its_place(tmp_path: Path) -> None:
    (tmp_path / "run.json").mkdir()
    with pytest.warns(UserWarning, match="cannot be written"):
        Disk(tmp_path).replace("run.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_folder_without_a_record_is_refused_with_those_near_it(tmp_path: Path) -> None:
    fit(FederatedModule(Scalar()), two(), logger=logger(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"there is no record of a run in .*; there are records in .*toy.run"):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read(tmp_path / "tpy")
    assert read(tmp_path / "toy" / "run" / "run.json").rounds


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 1}', '{"version": "a", "fits": []}'])
def test_a_damaged_record_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"version": 99, "fits": []}))
    with pytest.raises(ValueError, match="newer lightning_fed"):
        read(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is one of Linux")
def test_a_full_disk_is_said_once_and_the_training_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "toy" / "run"
    folder.mkdir(parents=True)
    for file in ("rounds.jsonl", "evaluations.jsonl"):
        (folder / file).symlink_to("/dev/full")
    with pytest.warns(UserWarning, match=r"cannot be written to .*No space left") as said:
        run = fit(FederatedModule(Validated()), two(EvaluatedRows), max_epochs=3, logger=logger(tmp_path))
    assert len([one for one in said if "the record" in str(one.message)]) == 1
    assert run.global_step == 3


def test_lines_wait_for_a_disk_that_is_full_for_a_while(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    (tmp_path / "rounds.jsonl").mkdir()
    disk.add("rounds.jsonl", {"round": 0})
    with pytest.warns(UserWarning, match="cannot be written"):
        disk.write()
    (tmp_path / "rounds.jsonl").rmdir()
    disk.add("rounds.jsonl", {"round": 1})
    disk.write()
    assert (tmp_path / "rounds.jsonl").read_text() == '{"round":0}\n{"round":1}\n'


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_signal_interrupts_a_run(tmp_path: Path, error: Any) -> None:
    class Interrupts(pl.Callback):
        def on_train_batch_start(self, run: Any, *_: Any) -> None:
            if run.global_step == 1:
                raise error

    with pytest.raises(SystemExit):
        fit(FederatedModule(Scalar()), two(), max_epochs=3, logger=logger(tmp_path), callbacks=[Interrupts()])
    record = read(tmp_path / "toy" / "run")
    assert (record.run["outcome"], len(record.rounds)) == ("interrupted", 1)


def test_what_is_kept_from_loggers_is_kept_from_the_record(tmp_path: Path) -> None:
    class Kept(Scalar):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("shown", 1.0)
            self.log("secret", 2.0, logger=False)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_shown", 1.0, on_step=True, on_epoch=True)
            self.log("val_secret", 2.0, logger=False)

    fit(FederatedModule(Kept()), two(EvaluatedRows), logger=logger(tmp_path))
    folder = tmp_path / "toy" / "run"
    assert read(folder).rounds[0]["metrics"] == {"shown": 1.0}
    assert read(folder).evaluations[0]["workers"]["a"] == {"val_shown": 1.0}
    assert not [path for path in folder.glob("*.jsonl") if "secret" in path.read_text()]


class Killed(pl.Callback):
    """Ends the process as a kill does: at once."""

    def on_train_batch_start(self, run: Any, *_: Any) -> None:
        if run.global_step == 3:
            os._exit(9)


def test_a_killed_process_leaves_what_can_be_read(tmp_path: Path) -> None:
    def run() -> None:
        fit(
            FederatedModule(Validated()),
            two(EvaluatedRows),
            max_epochs=9,
            logger=logger(tmp_path),
            callbacks=[Killed()],
        )

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 9
    record = read(tmp_path / "toy" / "run")
    assert (record.run["outcome"], record.run["finished"]) == ("running", None)
    assert [line["round"] for line in record.rounds] == [line["round"] for line in record.evaluations] == [0, 1, 2]


def rounded(value: Any) -> Any:
    """A line without what is another one in each run, to five digits: processes add up float32 in another order."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items() if key not in ("fit", "seconds")}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def test_two_processes_write_what_one_writes_once(tmp_path: Path) -> None:
    def run(folder: Path, **options: Any) -> None:
        workers = {name: EvaluatedRows([float(i), 2.0 * i]) for i, name in enumerate("abcd")}
        data = FederatedDataModule(workers, cohort_size=3, rounds_per_epoch=2)
        fed = FederatedModule(Validated(lr=0.1))
        done = fit(fed, data, max_epochs=2, logger=logger(folder), **options)
        done.validate(fed, data, verbose=False)

    run(tmp_path / "one")
    ended = run_in_processes(lambda: run(tmp_path / "two", strategy="ddp", devices=2))
    assert [process.error for process in ended] == [None, None]
    one, two = (read(tmp_path / name / "toy" / "run") for name in ("one", "two"))
    assert [rounded(line) for line in one.rounds] == [rounded(line) for line in two.rounds]
    assert [rounded(line) for line in one.evaluations] == [rounded(line) for line in two.evaluations]
    assert one.settings == two.settings
    assert len((tmp_path / "two" / "toy" / "run" / "rounds.jsonl").read_text().splitlines()) == 4


def test_large_cohorts_and_evaluations_are_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_IN_A_COHORT", 1)
    monkeypatch.setattr(lines, "MOST_EVALUATED", 1)
    fit(FederatedModule(Validated()), two(EvaluatedRows), logger=logger(tmp_path))
    record = read(tmp_path / "toy" / "run")
    assert (record.rounds[0]["size"], record.rounds[0]["cohort"]) == (2, None)
    assert record.evaluations[0]["workers"] is None


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    class Diverging(Scalar):
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", float("inf"))

    fit(FederatedModule(Diverging()), two(EvaluatedRows), logger=logger(tmp_path))
    (line,) = read(tmp_path / "toy" / "run").evaluations
    assert line["metrics"] == {"val_loss": None}
    assert line["workers"] == {"a": {"val_loss": None}, "b": {"val_loss": None}}
