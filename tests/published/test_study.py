"""Studies: the numbers of a table that they make of curves, and files of runs."""

from __future__ import annotations

import json
import math
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from study import (
    Cell,
    Curve,
    Published,
    Ratio,
    Separation,
    Spread,
    Study,
    agreement,
    best,
    rounds_to,
    separation,
)


@pytest.fixture(autouse=True)
def _as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study sets the number of threads, which is the process's."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)


CURVE: Curve = [(1, 80.0), (2, 90.0), (3, 85.0), (4, 98.0)]


def test_rounds_to_an_accuracy() -> None:
    assert rounds_to(97.0)(CURVE) == pytest.approx(3 + 7 / 8)  # from the 90 % that were reached before
    assert rounds_to(90.0)(CURVE) == 2
    assert rounds_to(80.0)(CURVE) == 1
    assert math.isnan(rounds_to(99.0)(CURVE))


def test_values_of_a_curve() -> None:
    assert best(CURVE) == 98.0
    assert Cell("", lambda options, seed: []).value(CURVE) == 98.0


def test_agreement() -> None:
    ours = [89.0, 90.0, 91.0]
    assert Spread(ours).error == pytest.approx(3**-0.5)
    # 1.5 is below three standard errors, 3 · 0.577, and 2 is above
    assert agreement(ours, [70.0, 70.1], [Published(91.5, "table 3", spread=0.1)]) == "table 3"
    assert agreement(ours, [89.5, 90.4], [Published(92.0, "table 3", spread=0.1)]) == "by hand"
    assert agreement(ours, [], [Published(92.0, "table 3", spread=2.5)]) == "table 3"
    assert agreement(ours, [70.0, 70.1], [Published(92.0, "table 3", spread=0.1)]) == "neither"


def test_what_says_nothing() -> None:
    """A number from memory, one seed, a target that is not always reached."""
    assert agreement([89.0, 91.0], [], [Published(90.0, "table 3", seen=False)]) == "neither"
    assert agreement([90.0], [90.0], [Published(90.0, "table 3")]) == "–"
    assert agreement([90.0, math.nan], [90.0], [Published(90.0, "table 3")]) == "–"
    assert str(Spread([90.0, math.nan])) == "not reached (1 of 2)"
    assert str(Published(90.0, "table 3", 0.5, seen=False)) == "90 ± 0.5 (table 3, from memory)"


def test_a_study_runs_each_cell_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def run(options: Namespace, seed: int) -> Curve:
        ran.append((options.mnist, options.rounds, seed))
        return [(options.rounds, 90.0 + seed)]

    cells = [Cell("a", run, run, (Published(91.0, "table 1", 0.5),)), Cell("b", run)]
    study = Study("made_up", "A table.", cells, rounds=7, data=["mnist"], ratios=[Ratio("a to b", "a", "b", 1.5)])
    command = ["study", "--mnist", "here", "--kept", str(tmp_path / "folder" / "kept.jsonl")]
    monkeypatch.setattr(sys, "argv", [*command, "--only", "a", "--seeds", "0", "--ways", "ours"])
    study.main()
    assert ran == [("here", 7, 0)]
    assert "a to b" not in capsys.readouterr().out, "a ratio of cells that were not chosen"
    monkeypatch.setattr(sys, "argv", [*command, "--seeds", "0", "2"])
    study.main()
    assert ran[1:] == [("here", 7, 0), ("here", 7, 0), ("here", 7, 2), ("here", 7, 2), ("here", 7, 2)]
    out = capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*command, "--table"])
    study.main()
    table = capsys.readouterr().out
    assert len(ran) == 6
    assert out.endswith(table)
    assert "| a | 91.00 ± 1.41 (2) | 91.00 ± 1.41 (2) | 91 ± 0.5 (table 1) | by hand, table 1 |" in table
    assert "| b | 91.00 ± 1.41 (2) | – | – | neither |" in table
    assert "| a to b | 1.00 | – | 1.50 |" in table


def test_a_run_is_kept_with_the_seconds_of_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept.jsonl"
    study = Study("made_up", "A table.", [Cell("a", lambda options, seed: [(2, 1.0)])], rounds=2)
    monkeypatch.setattr(time, "process_time", iter([1.0, 3.5]).__next__)
    monkeypatch.setattr(sys, "argv", ["study", "--kept", str(path), "--seeds", "0"])
    study.main()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["cell"], line["way"], line["processor"], line["curve"]) == ("a", "ours", 2.5, [[2, 1.0]])
    assert line["seconds"] >= 0


def test_other_numbers_of_rounds_are_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = Study("made_up", "A table.", [Cell("a", lambda options, seed: [(options.rounds, 1.0)])], rounds=2)
    path = tmp_path / "kept.jsonl"
    for rounds in ("2", "3", "2"):
        monkeypatch.setattr(sys, "argv", ["study", "--kept", str(path), "--seeds", "0", "--rounds", rounds])
        study.main()
    assert len(path.read_text().splitlines()) == 2


def test_unknown_cells_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "--only", "c*"])
    with pytest.raises(SystemExit):
        Study("made_up", "", [Cell("a", lambda options, seed: [])], rounds=1).main()
    assert "there is no cell ['c*']; there are: a" in capsys.readouterr().err


def test_the_help_names_every_cell_and_every_default(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [Cell(name, lambda options, seed: []) for name in ("C=10 %", "b")]
    monkeypatch.setattr(sys, "argv", ["study", "--help"])
    with pytest.raises(SystemExit):
        Study("made_up", "A table of 97 %.", cells, rounds=7, data=["mnist"], ways=["ours"]).main()
    out = " ".join(capsys.readouterr().out.split())
    assert "A table of 97 %." in out
    for default in ("data/mnist", "0 1 2", "all", "ours", "7", "made_up.jsonl in benchmarks/results/published", "1"):
        assert f"(default: {default})" in out
    assert out.endswith("cells: C=10 % b")


def test_a_separation() -> None:
    # A standard error of 3^-0.5 each, and (2/3)^0.5 = 0.82 of the difference
    assert separation(Spread([89.0, 90.0, 91.0]), Spread([86.0, 87.0, 88.0])) == "+3.00 ± 0.82 (3.7)"
    assert separation(Spread([86.0, 87.0, 88.0]), Spread([89.0, 90.0, 91.0])) == "-3.00 ± 0.82 (3.7)"
    assert separation(Spread([5.0, 5.0]), Spread([4.0, 4.0])) == "+1.00 ± 0.00 (inf)"
    assert separation(Spread([5.0]), Spread([4.0, 4.0])) == "–"
    assert separation(Spread([5.0, math.nan]), Spread([4.0, 4.0])) == "–"


def test_the_table_of_separations() -> None:
    cells = [Cell("a", lambda options, seed: []), Cell("b", lambda options, seed: [])]
    study = Study("name", "", cells, rounds=1, separations=[Separation("a", "b")])
    curves: dict[tuple[str, str, int], Curve] = {("a", "ours", seed): [(1, 89.0 + seed)] for seed in range(3)}
    curves |= {("b", "ours", seed): [(1, 86.0 + seed)] for seed in range(3)}
    assert (
        study.table_of_separations(study.separations, curves).splitlines()[-1]
        == "| a, less b | +3.00 ± 0.82 (3.7) | – |"
    )
