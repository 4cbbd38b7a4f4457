"""The examples, as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def example(name: str, *options: str, status: int = 0) -> str:
    command = [sys.executable, str(ROOT / "examples" / name), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.mark.parametrize("algorithm", ["fedavg", pytest.param("cyclic", marks=pytest.mark.slow)])
def test_toy(tmp_path: Path, algorithm: str) -> None:
    output = example("toy.py", "--algorithm", algorithm, "--logdir", str(tmp_path), "--accelerator", "cpu")
    central = [float(loss) for loss in re.findall(r"^   loss ([\d.]+)$", output, re.M)]
    assert len(central) == 20
    assert central[-1] < 0.01
    rounds = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) +([\d.]+)$", output, re.M)
    assert [int(row[0]) for row in rounds] == list(range(20))
    assert float(rounds[-1][3]) < 0.01
    assert "bob" in output
    assert "What left each worker, and what did not" in output
    (log,) = tmp_path.glob("toy/*/events.out.tfevents.*")
    assert log.parent.name.lower() == f"{algorithm}-0"
    assert str(log.parent) in output


@pytest.mark.slow
def test_toy_refuses_no_rounds(tmp_path: Path) -> None:
    assert "at least one round" in example("toy.py", "--rounds", "0", "--logdir", str(tmp_path), status=2)


@pytest.mark.skipif(find_spec("cryptography") is None, reason="needs cryptography")
@pytest.mark.slow
def test_the_server_of_the_secure_toy_sees_random_words_and_the_right_average(tmp_path: Path) -> None:
    """What the server is sent differs from run to run; what it comes to does not, and is the average."""
    outputs = [example("secure_toy.py", "--rounds", "3", "--logdir", str(tmp_path / str(run))) for run in range(2)]
    row = r"^   (\w+) +((?:[+-][\d.]+ +){2}[+-][\d.]+) +(\d+) +(\d+) +(\d+)$"
    seen = [re.findall(row, output, re.M) for output in outputs]
    assert [row[0] for row in seen[0]] == ["bob", "alice", "carol", "dave", "erin", "bob", "alice", "carol", "erin"]
    assert [row[:2] for row in seen[0]] == [row[:2] for row in seen[1]]
    words = [int(word) for rows in seen for row in rows for word in row[2:]]
    assert len(set(words)) == len(words) == 54
    assert sum(2**30 < word < 3 * 2**30 for word in words) > 5, "small numbers of either sign lie at the ends"
    for output in outputs:
        assert "dave    is gone; it has shared its secrets" in output
        means = re.findall(r"^   mean +(.*?)  of these (\d), in float64$", output, re.M)
        opened = re.findall(r"^   server +(.*?)  differs by at most (.*)$", output, re.M)
        assert [count for _, count in means] == ["5", "4"]
        assert [numbers for numbers, _ in opened] == [numbers for numbers, _ in means]
        assert all(float(difference) < 1e-6 for _, difference in opened)
    assert len(list(tmp_path.glob("0/secure_toy/*/events.out.tfevents.*"))) == 1


@pytest.mark.slow
def test_digits_reaches_93_percent(tmp_path: Path) -> None:
    output = example("digits.py", "--logdir", str(tmp_path), "--accelerator", "cpu")
    accuracy = re.search(r"accuracy on held-out digits after 200 rounds: ([\d.]+) %", output)
    assert accuracy is not None
    assert float(accuracy[1]) > 93


@pytest.mark.slow
def test_private_digits_reach_88_percent_for_what_they_claim_to_cost(tmp_path: Path) -> None:
    plot = tmp_path / "curves.png"
    output = example("private_digits.py", "--logdir", str(tmp_path), "--accelerator", "cpu", "--out", str(plot))
    table = [tuple(map(float, row)) for row in re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+) %$", output, re.M)]
    assert [int(row[0]) for row in table] == list(range(10, 101, 10))
    assert [row[1] for row in table] == sorted(row[1] for row in table)
    assert table[-1][1] == pytest.approx(7.0466, abs=0.005)
    final = re.search(r"after 100 rounds: ([\d.]+) %, with ε = 7.05 at δ = 1e-05", output)
    assert final is not None
    assert float(final[1]) > 88
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_robust_aggregators_withstand_attackers_under_which_the_mean_falls() -> None:
    chosen = ("WeightedMean", "Median", "MultiKrum")
    attacks = ("none", "sign flip", "colluding")
    output = example("attackers.py", "--aggregators", *chosen, "--attacks", *attacks)
    table = re.findall(r"^(\w+) +([\d. ]+)$", output, re.M)
    rows = {name: [float(figure) for figure in figures.split()] for name, figures in table}
    assert tuple(rows) == chosen
    clean, *attacked = rows.pop("WeightedMean")
    assert clean > 90
    assert max(attacked) < 50
    for name, (without, *figures) in rows.items():
        assert without > clean - 3, name
        assert min(figures) > without - 3, name


@pytest.mark.slow
def test_every_kind_of_algorithm_solves_fcube() -> None:
    chosen = ("FedAvg", "SCAFFOLD", "FedNova", "FedDyn", "Ditto")
    output = example("fcube.py", "--rounds", "10", "--algorithms", *chosen)
    table = {name: float(figure) for name, figure in re.findall(r"^  (\w+) +([\d.]+)$", output, re.M)}
    assert tuple(table) == chosen
    assert min(table.values()) >= 99, table


@pytest.mark.slow
def test_fedprox_is_smoother_than_fedavg_under_stragglers(tmp_path: Path) -> None:
    plot = tmp_path / "curves.png"
    output = example("synthetic.py", "--rounds", "3", "--stragglers", "0.9", "--processes", "1", "--out", str(plot))
    rows = re.findall(r"^ +90%  (FedAvg|FedProx, mu=[01]) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)$", output, re.M)
    loss = {method: float(loss) for method, loss, _, _, _ in rows}
    rises = {method: float(rises) for method, _, _, rises, _ in rows}
    assert len(rows) == 3
    assert loss["FedProx, mu=1"] < loss["FedAvg"]
    assert rises["FedProx, mu=1"] < rises["FedAvg"]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(find_spec("peft") is not None and find_spec("transformers") is not None, reason="both are there")
@pytest.mark.slow
def test_lora_says_what_is_missing() -> None:
    """With both, it is run by ``make ecosystem``."""
    assert "needs transformers and peft" in (said := example("lora.py", status=1))
    assert 'pip install "lightning_fed[lora]"' in said
