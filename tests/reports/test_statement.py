"""The privacy statement: what it says of each promise, word for word, and that it refuses where a fact is missing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from runs_of_promises import PROMISES, private_run

from lightning_fed import __version__
from lightning_fed.algorithms import Scaffold
from lightning_fed.cli import main
from lightning_fed.privacy import CentralDP, LocalDP, Mechanism
from lightning_fed.reports.run import around

STATEMENTS = Path(__file__).parent / "statements"
CENTRAL = CentralDP(clip=1.0, noise_multiplier=2.0, delta=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by CentralDP, to be copied and not to be changed."""
    return private_run(tmp_path_factory.mktemp("logs"), CENTRAL)


def stated(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The statement of a run."""
    capsys.readouterr()
    main(["report", str(place), "--promise-only"])
    return capsys.readouterr().out


def refused(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said in place of a statement."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["report", str(place), "--promise-only"])
    said, error = capsys.readouterr()
    assert (left.value.code, said) == (2, "")
    assert error.startswith("error: ")
    assert "Traceback" not in error
    return error.partition("\n")[0]


def plain(text: str, folder: Path) -> str:
    """A statement without what differs from run to run."""
    text = text[text.index("## Privacy statement") :].replace(str(folder), "LOGS")
    text = text.replace(f"dp-accounting {version('dp-accounting')}", "dp-accounting VERSION")
    text = text.replace(f"(lightning_fed {__version__})", "(lightning_fed VERSION)")
    text = re.sub(r"ledger-[0-9a-f]{16}", "ledger-RUN", text)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", "TIME", text)


@pytest.mark.parametrize("name", PROMISES)
def test_each_promise_word_for_word(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files were written by hand from what docs/privacy.md says, and are changed by hand."""
    make, data = PROMISES[name]
    place = private_run(tmp_path, make(), **data)
    assert plain(stated(place, capsys), tmp_path) == (STATEMENTS / f"{name}.md").read_text(encoding="utf-8")


def test_where_nothing_was_promised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = stated(private_run(tmp_path, None), capsys)
    assert "Nothing was promised." in text
    assert "ε" not in text


# ---- what was released although nothing covers it --------------------------------------------------------------------


def test_noise_from_a_seed_is_no_promise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=2.0, delta=1e-3, insecure_deterministic_noise=True)
    text = stated(place := private_run(tmp_path, promise), capsys)
    assert "**NOT PRIVATE.** **The noise came from the seed of the run" in text
    assert "drawn from a seed" in text
    main(["report", str(place), "-o", "-"])
    assert '<b class="warning">NOT PRIVATE</b>' in capsys.readouterr().out


def test_metrics_that_were_released_stand_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promise = CentralDP(clip=1.0, noise_multiplier=2.0, delta=1e-3, release_metrics=True)
    text = stated(private_run(tmp_path, promise), capsys)
    assert "METRICS RELEASED" in text
    assert "Without noise, of 2 rounds: the names of the workers that were asked" in text
    assert "Nothing" not in text
    assert "Not released" not in text


def test_what_an_algorithm_remembers_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = stated(private_run(tmp_path, CENTRAL, fed={"algorithm": Scaffold()}), capsys)
    assert "- What Scaffold remembers about each worker lies in checkpoints" in text


def test_no_metric_of_central_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = stated(private_run(tmp_path, CENTRAL, rounds=1, val=None, rounds_per_epoch=5), capsys)
    assert "Nothing: no metric was evaluated on central data." in text


# ---- other runs, and runs in pieces ----------------------------------------------------------------------------------


def test_other_runs_beside_it_are_added_up(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    alone = stated(place, capsys)
    assert "No other private run lies in" in alone
    (epsilon,) = re.findall(r"ε = ([\d.]+) at δ = 0.001\.", alone)
    for number in range(2):
        private_run(tmp_path, CENTRAL, name=f"other{number}")
    private_run(tmp_path, LocalDP(clip=1.0, noise_multiplier=8.0, delta=1e-3), name="local")
    seeded = CentralDP(clip=1.0, noise_multiplier=2.0, delta=1e-3, insecure_deterministic_noise=True)
    private_run(tmp_path, seeded, name="seeded")
    text = stated(place, capsys)
    (together,) = re.findall(r"together at most ε = ([\d.]+) at δ = 0.003", text)
    assert "4 other private runs lie in" in text
    assert float(together) == pytest.approx(3 * float(epsilon), abs=4e-4)  # each is rounded up to four decimals
    assert "Not in the sum: 1," in text
    assert "their noise came from a seed: 1." in text


def test_a_fit_that_did_not_end_is_counted(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (ledger,) = place.glob("privacy-ledger-*.jsonl")
    change_lines(ledger, lambda line: line["kind"] != "end")
    change(place / "run.json", outcome="running", finished=None)
    text = stated(place, capsys)
    assert "1 fit did not come to an end" in text
    assert "no fit has ended, so the run has claimed nothing yet" in text


def test_a_run_that_goes_on_elsewhere_has_its_ledger_where_it_began(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = private_run(tmp_path / "logs", CENTRAL)
    place = private_run(tmp_path / "later", CENTRAL, rounds=3, ckpt_path=begun / "last.ckpt")
    assert not list(place.glob("privacy-ledger-*.jsonl"))
    text = stated(place, capsys)
    assert "with 3 releases in 2 fits" in text
    assert "The run was resumed." in text


def test_what_was_released_besides_is_counted_over_all_folders_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An evaluation in the first folder, and one in the second, which goes on from the first."""
    often = {"rounds_per_epoch": 2}
    begun = private_run(tmp_path, CENTRAL, name="a/0", **often)
    later = private_run(tmp_path, CENTRAL, rounds=4, name="b/0", ckpt_path=begun / "last.ckpt", **often)
    for place in (begun, later):
        text = stated(place, capsys)
        assert "with 4 releases in 2 fits" in text
        assert "val_loss on central data, 2 values in 2 evaluations." in text
        assert f"No other private run lies in {tmp_path};" in text
    shutil.rmtree(later)
    text = stated(begun, capsys)
    assert "1 value in 1 evaluation." in text
    assert "All this by the fits recorded here; the ledger has 1 fit more, whose record was not found." in text


def test_runs_of_other_configs_in_the_folder_of_logs_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = private_run(tmp_path, CENTRAL, name="private/0")
    private_run(tmp_path, CENTRAL, name="private2/0")
    assert f"1 other private run lies in {tmp_path}:" in stated(place, capsys)
    monkeypatch.setattr(around, "MOST_FOLDERS", 1)
    assert "folders, and the others were not looked at" in stated(place, capsys)


def test_a_promise_that_was_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begun = private_run(tmp_path, CENTRAL)
    place = private_run(tmp_path, None, rounds=3, ckpt_path=begun / "last.ckpt")
    assert place == begun
    text = stated(place, capsys)
    assert "Nothing was promised." in text
    assert "PROMISE GIVEN UP" in text


def test_a_claim_that_the_ledger_does_not_bear_is_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (ledger,) = place.glob("privacy-ledger-*.jsonl")

    def less(line: dict[str, Any]) -> bool:
        line.update({"charges": 1} if line["kind"] == "release" else {})
        return True

    change_lines(ledger, less)
    text = stated(place, capsys)
    assert "LEDGER DOES NOT AGREE" in text
    assert "it is NOT what the run has claimed" in text


def test_of_a_checkpoint_it_says_what_choosing_it_cost(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = stated(run / "last.ckpt", capsys)
    assert "**This checkpoint.** It was written at ε = " in text


# ---- a fact that is missing ------------------------------------------------------------------------------------------


def change(path: Path, without: str | None = None, **values: Any) -> None:
    content = {**json.loads(path.read_text()), **values}
    content.pop(without, None)
    path.write_text(json.dumps(content))


def change_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if keep(line)))


LEDGER = [
    *(("run", name) for name in ("promise", "unit", "audience", "relation", "delta", "accountant", "budget")),
    *(("run", name) for name in ("noise_multiplier", "population", "cohort_size", "sampling", "insecure", "time")),
    *(("run", name) for name in ("release_metrics", "least_replies", "remembers", "versions", "stretch")),
    *(("release", name) for name in ("bound", "noise_std", "mechanism", "charges", "stretch")),
    *(("end", name) for name in ("epsilon", "delta", "accountant", "agrees", "stretch")),
]


@pytest.mark.parametrize(("kind", "name"), LEDGER, ids=lambda value: value)
def test_without_a_fact_of_the_ledger_nothing_is_stated(
    kind: str, name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (ledger,) = place.glob("privacy-ledger-*.jsonl")

    def without(line: dict[str, Any]) -> bool:
        if line["kind"] == kind:
            del line[name]
        return True

    change_lines(ledger, without)
    said = refused(place, capsys)
    assert ledger.name in said
    assert repr(name) in said or "lines of the ledger are missing" in said


@pytest.mark.parametrize("kind", ["run", "release", "end"])
def test_without_a_kind_of_line_nothing_is_stated(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (ledger,) = place.glob("privacy-ledger-*.jsonl")
    change_lines(ledger, lambda line: line["kind"] != kind)
    assert ledger.name in refused(place, capsys)


@pytest.mark.parametrize("name", ["promise", "ledger", "leaves", "outcome", "fits", "versions", "finished"])
def test_without_a_fact_of_the_record_nothing_is_stated(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    change(place / "run.json", without=name)
    said = refused(place, capsys)
    assert "run.json" in said
    assert repr(name) in said or "is damaged" in said


@pytest.mark.parametrize("name", ["metrics", "workers", "stage"])
def test_without_a_fact_of_an_evaluation_nothing_is_stated(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")

    def without(line: dict[str, Any]) -> bool:
        del line[name]
        return True

    change_lines(place / "evaluations.jsonl", without)
    said = refused(place, capsys)
    assert "evaluations.jsonl" in said
    assert repr(name) in said


@pytest.mark.parametrize("file", ["rounds.jsonl", "evaluations.jsonl", "privacy-ledger-*.jsonl", "run.json"])
def test_without_a_file_nothing_is_stated(
    file: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (gone,) = place.glob(file)
    gone.unlink()
    assert gone.name in refused(place, capsys)


@pytest.mark.parametrize(
    "name", ["delta", "epsilon", "noise_multiplier", "insecure", "stretches", "run", "unit", "kind", "audience"]
)
def test_without_a_fact_of_the_checkpoint_nothing_is_stated(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    content = torch.load(place / "last.ckpt", weights_only=True)
    for part in ("privacy", "account"):
        content["lightning_fed"][part].pop(name, None)
    torch.save(content, place / "last.ckpt")
    said = refused(place / "last.ckpt", capsys)
    assert repr(name) in said
    assert "checkpoint" in said or "last.ckpt" in said


def test_a_checkpoint_of_another_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = private_run(tmp_path, CENTRAL, rounds=1)
    shutil.copy(run / "last.ckpt", place / "last.ckpt")
    assert "give the folder of the checkpoint's own run" in refused(place / "last.ckpt", capsys)


def test_a_mechanism_that_does_not_say_how_cohorts_are_drawn(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_fed.privacy import SubsampledGaussian

    monkeypatch.setattr(SubsampledGaussian, "participation", Mechanism.participation)
    assert "SubsampledGaussian does not say how its analysis takes it" in refused(run, capsys)


def test_an_audience_that_nobody_knows(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (ledger,) = place.glob("privacy-ledger-*.jsonl")

    def other(line: dict[str, Any]) -> bool:
        line.update({"audience": "the neighbours"} if line["kind"] == "run" else {})
        return True

    change_lines(ledger, other)
    assert "whom one has to trust cannot be said" in refused(place, capsys)


def test_a_whole_report_of_a_private_run_names_no_worker(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    for kind in ("html", "md", "json"):
        main(["report", str(place), "--format", kind, "-o", "-"])
        text = capsys.readouterr().out
        assert not re.search(r"\bw\d\b", text)
        assert "Who took part, and what single workers have reported, is hidden by the promise. There are 10" in text
        assert "train_loss" not in text
        assert "a private run never repeats" in text


@pytest.mark.parametrize("changes", [{"promise": None}, {"promise": None, "ledger": None}])
def test_a_promise_that_is_taken_out_of_the_record(
    changes: dict[str, Any], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    change(place / "run.json", **changes)
    said = refused(place, capsys)
    assert f"{place / 'run.json'} says that nothing was promised" in said
    assert "privacy-ledger-" in said


def test_a_release_whose_mechanism_is_null(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (ledger,) = place.glob("privacy-ledger-*.jsonl")

    def nothing(line: dict[str, Any]) -> bool:
        if line["kind"] == "release":
            line["mechanism"] = None
        return True

    change_lines(ledger, nothing)
    assert "lines of the ledger are missing" in refused(place, capsys)


def test_what_left_is_not_said_where_it_is_not_recorded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    change(place / "run.json", leaves=None)
    main(["report", str(place), "--format", "md", "-o", "-"])
    said = capsys.readouterr().out
    assert "No message was looked into in the last fit. The promise hides whether any worker has come back." in said
    assert "nothing has left one" not in said


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("run", "population", "many"),
        ("run", "delta", "small"),
        ("run", "time", "today"),
        ("run", "versions", {"lightning_fed": "0.1.0"}),
        ("release", "bound", [1]),
        ("end", "agrees", "yes"),
    ],
)
def test_a_fact_of_the_ledger_that_is_of_another_kind(
    kind: str, name: str, value: Any, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = shutil.copytree(run, tmp_path / "run")
    (ledger,) = place.glob("privacy-ledger-*.jsonl")

    def other(line: dict[str, Any]) -> bool:
        if line["kind"] == kind:
            line[name] = value
        return True

    change_lines(ledger, other)
    said = refused(place, capsys)
    assert f"the line '{kind}' in {ledger} does not say" in said
    assert f"'{name}' is " in said
