"""``lightning-fed privacy``, as a user types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_fed import cli
from lightning_fed.privacy import Accountant, SubsampledGaussian

ROOT = Path(__file__).parent.parent.parent
RUN = ("--rounds", "1000", "--cohort-size", "10", "--population", "1000")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.main(["privacy", *arguments])
    return capsys.readouterr().out


def table(output: str) -> dict[int, float]:
    return {int(rounds): float(eps) for rounds, eps in re.findall(r"^ +(\d+) +([\d.]+)$", output, re.M)}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(["privacy", *arguments])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n\nlightning-fed privacy --help lists all options\n")
    return captured.err


def test_what_a_run_costs_from_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lightning_fed", "privacy", *RUN, "--noise-multiplier", "1", "--delta", "1e-5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert table(done.stdout)[1000] == pytest.approx(1.8282, abs=2e-3)
    assert len(done.stdout.splitlines()) < 12
    assert not list(tmp_path.iterdir())


def test_what_a_run_costs(capsys: pytest.CaptureFixture[str]) -> None:
    output = answer(capsys, *RUN, "--noise-multiplier", "1", "--accountant", "rdp")
    assert "each of 1000 workers takes part with probability 0.01" in output
    assert "delta = 0.000501 (the default, 1 / population^1.1); accounted by RDP for one worker's" in output
    assert "one worker's contributions or zeros in their place" in output
    costs = table(output)
    assert list(costs) == [1, 63, 250, 563, 1000]
    accountant = Accountant("rdp")
    accountant.charge(SubsampledGaussian(1.0, 0.01), 250)
    assert 0 <= costs[250] - accountant.epsilon(1000**-1.1) < 1e-4, "rounded up"


def test_what_noise_a_budget_needs(capsys: pytest.CaptureFixture[str]) -> None:
    output = answer(capsys, *RUN, "--epsilon", "2", "--delta", "1e-5", "--accountant", "rdp")
    assert "epsilon = 2 after 1000 rounds needs noise multiplier 1.0223." in output
    assert "delta = 1e-05 (--delta)" in output
    assert 1.999 < table(output)[1000] <= 2


def test_other_ways_to_sample(capsys: pytest.CaptureFixture[str]) -> None:
    noise = ("--noise-multiplier", "1", "--delta", "1e-5")
    fixed = answer(capsys, *RUN, *noise, "--sampling", "fixed")
    assert "exactly 10 of 1000" in fixed
    assert "RDP for one worker or another in its place" in fixed
    assert table(fixed)[1000] == pytest.approx(20.99, abs=5e-3)
    none = answer(capsys, *RUN, *noise, "--sampling", "none", "--accountant", "rdp")
    assert "nothing is claimed" in none
    assert table(none)[1000] == pytest.approx(654.9, abs=0.05)
    everyone = answer(capsys, "--rounds", "1", "--population", "1000", *noise)
    assert "all of 1000 workers take part" in everyone
    assert table(everyone) == {1: pytest.approx(4.3772, abs=2e-3)}


def test_a_curve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "epsilon.png"
    output = answer(capsys, *RUN, "--epsilon", "2", "--accountant", "rdp", "--plot", str(path))
    assert f"The curve is in {path}." in output
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "required: --rounds, --population"),
        (RUN, "one of the arguments --noise-multiplier --epsilon is required"),
        ((*RUN, "--noise-multiplier", "1", "--epsilon", "1"), "argument --epsilon: not allowed with"),
        ((*RUN, "--noise-multiplier", "0"), "argument --noise-multiplier: '0' must be a positive number"),
        ((*RUN, "--noise-multiplier", "much"), "argument --noise-multiplier: 'much' must be a positive number"),
        ((*RUN, "--epsilon", "inf"), "argument --epsilon: 'inf' must be a positive number"),
        ((*RUN, "--epsilon", "1", "--delta", "1"), "argument --delta: '1' must be a number above 0 and below 1"),
        ((*RUN, "--epsilon", "1", "--rounds", "2.5"), "argument --rounds: '2.5' must be a positive integer"),
        ((*RUN, "--epsilon", "1", "--cohort-size", "1001"), "--cohort-size 1001 is more than --population 1000: give"),
        ((*RUN, "--epsilon", "1", "--sampling", "fixed", "--accountant", "pld"), "give --accountant rdp, or --sampl"),
        ((*RUN, "--epsilon", "1", "--sampling", "random"), "argument --sampling: invalid choice: 'random'"),
        ((*RUN, "--epsilon", "1", "--colour", "red"), "unrecognized arguments: --colour red"),
        ((*RUN, "--epsilon", "1", "--plot", "nowhere/at/all.png"), "there is no folder nowhere/at; make it first"),
        (("--rounds", "1", "--population", "1", "--epsilon", "1"), "--population 1 has no default delta: give --delta"),
        (
            (*RUN, "--epsilon", "1e-4", "--delta", "1e-9", "--sampling", "none", "--accountant", "rdp"),
            "no noise multiplier",
        ),
    ],
)
def test_wrong_arguments(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(capsys, *arguments)


def test_a_file_that_cannot_be_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--rounds", "1", "--population", "10", "--noise-multiplier", "9", "--plot", str(tmp_path / "x.doc"))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["privacy", *options])
    assert re.search(r"--plot .*x\.doc: Format 'doc' is not supported", capsys.readouterr().err)


@pytest.mark.parametrize("module", ["dp_accounting", "matplotlib.figure"])
def test_without_the_extra_it_says_what_to_install(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    options = ("--rounds", "1", "--population", "10", "--noise-multiplier", "9", "--plot", str(tmp_path / "x.png"))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["privacy", *options])
    assert 'pip install "lightning_fed[privacy]"' in capsys.readouterr().err


def test_lightnings_parser_is_not_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("a FederatedCLI was built")

    monkeypatch.setattr(cli, "FederatedCLI", asked)
    monkeypatch.setattr(
        sys, "argv", ["lightning-fed", "privacy", "--rounds", "1", "--population", "9", "--noise-multiplier", "3"]
    )
    cli.main()
    assert "all of 9 workers take part" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="was built"):
        cli.main(["fit"])


def test_both_helps_tell_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["privacy", "--help"]):
        with pytest.raises(SystemExit, match="0"):
            cli.main(arguments)
        assert "lightning-fed privacy" in capsys.readouterr().out
