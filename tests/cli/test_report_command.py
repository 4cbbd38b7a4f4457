"""``lightning-fed report``: where the run is looked for, where the page goes, and what is refused in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from records_by_hand import evaluation_of, record, round_of

from lightning_fed.cli import main


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["report", *words])
    said, error = capsys.readouterr()
    assert (left.value.code, said) == (2, "")
    first, _, rest = error.partition("\n")
    assert rest == "\nlightning-fed report --help lists all options\n"
    return first.removeprefix("error: ")


def test_the_page_lies_in_the_runs_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "run")
    main(["report", str(folder)])
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        (["-o", "page.html"], "<!doctype html>"),
        (["-o", "page.md"], "# toy/FedAvg-0"),
        (["-o", "page.json"], "{"),
        (["-o", "page.txt", "--format", "md"], "# toy/FedAvg-0"),
    ],
)
def test_a_file_says_what_it_is_by_its_name(
    words: list[str], begins: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["report", str(record(tmp_path / "run")), *words])
    assert capsys.readouterr().out == f"{words[1]}\n"
    assert Path(words[1]).read_text(encoding="utf-8").startswith(begins)


def test_a_file_that_would_be_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["report", str(record(tmp_path / "run")), "-o", "r.pdf"])
    assert capsys.readouterr().err.startswith("error: -o r.pdf: there is no report as .pdf; end it with one of .html,")
    assert not Path("r.pdf").exists()


@pytest.mark.parametrize(
    ("words", "begins"), [(["--format", "md"], "# toy"), (["--format", "json"], "{"), (["-o", "-"], "<!d")]
)
def test_standard_output(words: list[str], begins: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(record(tmp_path / "run")), *words])
    assert capsys.readouterr().out.startswith(begins)
    assert not (tmp_path / "run" / "report.html").exists()


def test_all_formats_have_the_same_sections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, titles = record(tmp_path / "run"), []
    main(["report", str(folder), "--format", "json"])
    whole = json.loads(capsys.readouterr().out)
    titles = [section["title"] for section in whole["sections"] if section["title"]]
    assert titles == [
        "Curves",
        "What was run",
        "Workers",
        "Fairness",
        "Cost",
        "What left each worker",
        "Privacy statement",
        "How to repeat it",
    ]
    main(["report", str(folder), "--format", "md"])
    text = capsys.readouterr().out
    main(["report", str(folder), "-o", "-"])
    page = capsys.readouterr().out
    for title in titles:
        assert f"## {title}\n" in text
        assert f"<h2>{title}</h2>" in page


def test_rows_of_all_workers_lie_beside_the_page(tmp_path: Path) -> None:
    values = {f"w{i}": {"val_acc": i / 60} for i in range(60)}
    folder = record(tmp_path / "run", [round_of(0, ["w0"])], [evaluation_of(0, {"val_acc": 0.5}, values)])
    main(["report", str(folder), "-o", str(tmp_path / "page.html")])
    assert len((tmp_path / "per_worker.csv").read_text().splitlines()) == 61


def test_the_run_is_found_by_what_lies_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "logs" / "toy" / "run")
    (folder / "checkpoints").mkdir()
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.touch()
    for place in (folder / "run.json", checkpoint, folder / "checkpoints", tmp_path / "logs", tmp_path):
        main(["report", str(place)])
        assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_of_several_runs_one_must_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = record(tmp_path / "logs" / "a"), record(tmp_path / "logs" / "b")
    said = refused(capsys, str(tmp_path / "logs"))
    assert said == f"there are 2 runs in {tmp_path / 'logs'}; give one of {one}, {other}"


def test_what_is_wrong_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    (tmp_path / "alone.ckpt").touch()
    (record(tmp_path / "torn") / "run.json").write_text("{")
    assert "does not exist" in refused(capsys, str(tmp_path / "nowhere"))
    nothing = "it has no run.json, which a fit writes into the folder of the first logger that has one"
    assert nothing in refused(capsys, str(tmp_path / "empty"))
    assert "no folder above it has a run.json" in refused(capsys, str(tmp_path / "alone.ckpt"))
    assert "is damaged" in refused(capsys, str(tmp_path / "torn"))
    assert "there is no metric 'f1'" in refused(capsys, str(folder), "--metric", "f1")
    assert "cannot be written" in refused(capsys, str(folder), "-o", str(tmp_path / "no" / "page.html"))
    assert "invalid choice: 'pdf'" in refused(capsys, str(folder), "--format", "pdf")
    assert "--target" in refused(capsys, str(folder), "--target", "high")
    assert "required: RUN" in refused(capsys)
    assert "does not say" in refused(capsys, str(record(tmp_path / "less", commit=...)))


def test_a_wrong_place_is_refused_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from lightning_fed.cli import main\n"
        "try: main(['report', 'nowhere'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2,
        "error: nowhere does not exist; give a run's folder, such as logs/toy/FedAvg-0",
    )
