"""A run that goes on from a checkpoint in another folder: its rounds are put together, or what is missing is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import recorded
from helpers import Rows, Scalar, trainer
from pytorch_lightning.loggers import TensorBoardLogger
from records_by_hand import evaluation_of, record, round_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.record import read, whole
from lightning_fed.reports.comparison import compare
from lightning_fed.reports.run.build import report_of
from lightning_fed.reports.run.markdown import as_markdown


def text_of(folder: Path, **options: Any) -> str:
    return as_markdown(report_of(read(folder), **options))


def part(
    folder: Path, fit: str, first: int, end: int, checkpoint: Path | None = None, before: str | None = None
) -> Path:
    """A record of rounds, each of which is evaluated: an accuracy of 0.1 for each round that is over."""
    own = {"fit": fit, "round": first, "started": "2026-11-26T10:00:00+00:00", "from_fit": before}
    return record(
        folder,
        [round_of(number, ["ann"], fit=fit) for number in range(first, end)],
        [evaluation_of(number, {"val_acc": (number + 1) / 10}, fit=fit) for number in range(first, end)],
        fits=[{**own, "checkpoint": None if checkpoint is None else str(checkpoint)}],
        command=f"lightning-fed fit {fit}",
    )


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Runs of rounds 0 to 3, of 2 to 4 from a checkpoint after round 1 of the first, and of 5 and 6."""
    logs = tmp_path / "logs"
    part(logs / "a-0", "a", 0, 4)
    part(logs / "a-1", "b", 2, 5, logs / "a-0" / "checkpoints" / "step=2.ckpt", "a")
    part(logs / "a-2", "c", 5, 7, logs / "a-1" / "checkpoints" / "step=5.ckpt", "b")
    return logs


def test_rounds_of_earlier_folders_are_put_before(three: Path) -> None:
    joined, origin = whole(read(three / "a-2"))
    assert [(line["fit"], line["round"]) for line in joined.rounds] == [
        *(("a", 0), ("a", 1)),
        *(("b", 2), ("b", 3), ("b", 4)),
        *(("c", 5), ("c", 6)),
    ]
    assert [line["round"] for line in joined.evaluations] == list(range(7))
    assert origin is not None
    assert [each.folder.name for each in origin.records] == ["a-0", "a-1"]
    assert (origin.after, origin.missing, origin.why) == (5, 0, "")
    assert whole(read(three / "a-0")) == (read(three / "a-0"), None)


def test_a_report_counts_all_rounds_and_says_so_first(three: Path) -> None:
    text = text_of(three / "a-2", target=0.2)
    head = text.partition("## Curves")[0]
    assert f"**Went on.** It went on from {three}/a-1/checkpoints/step=5.ckpt after 5 rounds" in head
    assert "| rounds | 7 |" in head
    assert "| sent up / down | 7 / 14 MB |" in head
    assert "took part, of 7 rounds" in text
    assert "val_acc ≥ 0.2 was first evaluated after 2 rounds, 6 MB up and down, 6 s in rounds." in text
    assert "The run was resumed: it is made of 3 fits." in text
    assert text.index("lightning-fed fit a") < text.index("lightning-fed fit b") < text.index("lightning-fed fit c")


def test_runs_that_were_moved_together_are_found(three: Path, tmp_path: Path) -> None:
    shutil.move(three, tmp_path / "elsewhere")
    _, origin = whole(read(tmp_path / "elsewhere" / "a-2"))
    assert origin is not None
    assert origin.missing == 0


def gone(logs: Path) -> None:
    shutil.rmtree(logs / "a-0")


def taken(logs: Path) -> None:
    shutil.rmtree(logs / "a-0")
    part(logs / "a-0", "z", 0, 4)


def short(logs: Path) -> None:
    (logs / "a-0" / "rounds.jsonl").write_text("")


@pytest.mark.parametrize(
    ("change", "why"),
    [(gone, "there is no record around"), (taken, "of another run by now"), (short, "does not reach it")],
)
def test_what_is_missing_is_said_first(three: Path, change: Any, why: str) -> None:
    change(three)
    text = text_of(three / "a-2", target=0.2)
    head = text.partition("## Curves")[0]
    assert "**The end of a run.**" in head
    assert "after 5 rounds, and the first 2 rounds are not counted here: " in head
    assert why in head
    assert "| rounds, 5 of them recorded | 7 |" in head
    assert "| sent up / down in 5 recorded rounds | 5 / 10 MB |" in head
    assert "took part, of 5 recorded rounds" in text
    assert "what it has cost cannot be said" in text_of(three / "a-2", target=0.5)


def test_a_checkpoint_that_was_not_recorded(tmp_path: Path) -> None:
    _, origin = whole(read(part(tmp_path / "a", "a", 3, 4)))
    assert origin is not None
    assert (origin.missing, origin.why) == (3, "it is not recorded from which checkpoint")


def test_a_comparison_takes_a_whole_run_and_names_one_whose_beginning_is_lost(tmp_path: Path) -> None:
    """A megabyte a round: 20 rounds of which the last ten lie in another folder; 10 of 20."""
    for name in ("whole", "parts", "lost"):
        recorded.record(tmp_path / name, [0.5, 0.6], settings={"local_epochs": name})
    shutil.copytree(tmp_path / "parts", tmp_path / "apart" / "parts")
    for name in ("parts", "lost"):
        folder = tmp_path / name
        content = json.loads((folder / "run.json").read_text())
        checkpoint = tmp_path / "apart" / name / "last.ckpt"
        content["fits"] = [{"fit": "g", "round": 10, "started": "", "checkpoint": str(checkpoint)}]
        (folder / "run.json").write_text(json.dumps(content))
        for file in ("rounds.jsonl", "evaluations.jsonl"):
            lines = [json.loads(line) for line in (folder / file).read_text().splitlines()]
            late = [{**line, "fit": "g"} for line in lines if line["round"] >= 10]
            (folder / file).write_text("".join(json.dumps(line) + "\n" for line in late))
    found = compare([tmp_path / name for name in ("whole", "parts", "lost")])
    assert [(row.rounds, row.megabytes, row.seconds) for row in found.rows] == [(20, 20.0, 3.0)] * 2
    assert f"Left out: {tmp_path}/lost (without its first 10 rounds: there is no record around" in found.caption


def test_a_fit_records_from_which_fit_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of the checkpoint is recorded as it is found from any folder, and the sums go on."""
    monkeypatch.chdir(tmp_path)
    data = {"a": Rows([2.0]), "b": Rows([4.0, 4.0])}

    def run(name: str, rounds: int, checkpoint: str | None = None) -> Path:
        fitting = trainer(max_epochs=rounds, logger=TensorBoardLogger(str(tmp_path), name="toy", version=name))
        fitting.fit(FederatedModule(Scalar(lr=0.1)), FederatedDataModule(data), ckpt_path=checkpoint)
        fitting.save_checkpoint(tmp_path / "toy" / name / "last.ckpt")
        return tmp_path / "toy" / name

    begun = run("0", 2)
    place = run("1", 3, "toy/0/last.ckpt")
    (fit,) = read(place).run["fits"]
    assert fit["checkpoint"] == str(begun / "last.ckpt")
    assert fit["from_fit"] == read(begun).run["fits"][0]["fit"]
    joined, _ = whole(read(place))
    assert [line["round"] for line in joined.rounds] == [0, 1, 2]
    sent = sum(line["bytes_up"] + line["bytes_down"] for line in joined.rounds) / 1e6
    events = EventAccumulator(str(place)).Reload()
    assert events.Scalars("at_end/megabytes")[-1].value == pytest.approx(sent, rel=1e-6)  # of float32
