"""``lightning-fed compare``, as a user types it."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from recorded import record

from lightning_fed.cli.commands import main


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed in (0, 1):
        record(tmp_path / "logs" / "FedAvg" / f"seed={seed}", [0.5, 0.6 + seed / 10], seed)
        record(tmp_path / "logs" / "Scaffold" / f"seed={seed}", [0.6, 0.7 + seed / 10], seed, "Scaffold")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_table_is_printed(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "logs"])
    said, errors = capsys.readouterr()
    assert errors == ""
    assert "| Scaffold  | 0.750 ± 0.071 (2) |" in said
    assert "(rule: last)" in said


def test_formats_and_a_plot(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["compare", "logs/FedAvg", "logs/Scaffold", "--format", "csv", "--target", "0.7", "--plot", "curves.png"])
    said, errors = capsys.readouterr()
    assert [row["mean"] for row in csv.DictReader(io.StringIO(said))] == ["0.6499999999999999", "0.75"]
    assert "(rule: last)" in errors
    assert "The curves are in curves.png." in errors
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")
    main(["compare", "logs", "--format", "latex", "--rule", "best"])
    assert r"\caption{val\_acc" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "the following arguments are required: RUN"),
        (["nowhere"], "there is no folder nowhere; give folders of runs, such as logs/digits"),
        (
            ["logs/FedAvg/seed=0"],
            "a comparison is of two runs or more, and there is only one finished run, logs/FedAvg",
        ),
        (
            ["logs", "--metric", "val_ac"],
            "no run has a metric 'val_ac'; there are val_acc, val_loss, train_loss; did you",
        ),
        (
            ["logs", "--rule", "lasst"],
            "rule='lasst' must be last, best, or mean:K with a whole number K of evaluations",
        ),
        (["logs", "--rule", "mean:3"], "logs/FedAvg/seed=0: rule=mean:3 needs 3 evaluations, and there are 2"),
        (["logs", "--target", "high"], "argument --target: 'high' must be a number"),
        (["logs", "--format", "html"], "argument --format: invalid choice: 'html'"),
        (["logs", "--plot", "no/where.png"], "--plot no/where.png: there is no folder no; make it first"),
        (["logs", "--plot", "curves"], "--plot curves must be the name of a file, such as curves/curves.png"),
        (["logs", "--plot", "curves.doc"], "Format 'doc' is not supported"),
        (["logs", "--plto", "x.png"], "unrecognized arguments: --plto x.png"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    logs: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], says: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["compare", *words])
    said, errors = capsys.readouterr()
    assert (left.value.code, said) == (2, "")
    assert errors.startswith(f"error: {says}")
    assert errors.count("\n") == 3


def test_other_partitions_are_refused_by_name(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(logs / "logs" / "iid", [0.5, 0.9], 0, settings={"partition": "IID(workers=11)"})
    with pytest.raises(SystemExit):
        main(["compare", "logs"])
    errors = capsys.readouterr().err
    assert (
        "partition is Dirichlet(workers=11, alpha=0.3) in logs/FedAvg/seed=0, and IID(workers=11) in logs/iid" in errors
    )
    main(["compare", "logs", "--anyway"])
    assert "WARNING: compared anyway, although partition is" in capsys.readouterr().out


def test_a_wrong_folder_is_refused_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from lightning_fed.cli import main\n"
        "try: main(['compare', 'nowhere'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    said = "error: there is no folder nowhere; give folders of runs, such as logs/digits"
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, said)
