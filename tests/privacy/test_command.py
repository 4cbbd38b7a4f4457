"""``lightning-fed privacy``, as a user types it."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightning_fed import cli
from lightning_fed.privacy import (
    Accountant,
    CorrelatedGaussian,
    Gaussian,
    LocalGaussian,
    Mechanism,
    Privacy,
    PrivateRun,
    Setting,
    SkellamSum,
    SubsampledGaussian,
    TreeAggregation,
)
from lightning_fed.privacy.accounting import tightest

ROOT = Path(__file__).parent.parent.parent
RUN = ("--rounds", "1000", "--cohort-size", "10", "--population", "1000")


SHARED = (*RUN, "--promise", "distributed", "--survivors", "9", "--parameters", "1000")


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.main(["privacy", *arguments])
    return capsys.readouterr().out


def table(output: str) -> dict[int, float]:
    return {int(rounds): float(eps) for rounds, eps in re.findall(r"^ +(\d+) +([\d.e-]+)$", output, re.M)}


def spent(mechanism: Mechanism, count: int, delta: float) -> float:
    accountant = Accountant(tightest(mechanism))
    accountant.charge(mechanism, count)
    return accountant.epsilon(delta)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        cli.main(["privacy", *arguments])
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n\nlightning-fed privacy --help lists all options\n")
    return captured.err


@pytest.mark.slow
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
    assert "delta = 0.000501 (the default, 1 / population^1.1); accounted by RDP for a worker's" in output
    assert "a worker's contributions or zeros in their place; how many workers there are is public" in output
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


@pytest.mark.parametrize(
    ("options", "mechanism", "charges", "words"),
    [
        (("--promise", "dpftrl"), TreeAggregation(30.0, steps=100), 10, "nobody again within 100 rounds"),
        (
            ("--promise", "dpftrl", "--factorization", "16"),
            CorrelatedGaussian(30.0, math.sqrt(10 * 1.3942314**2), 1000, 100),
            1,
            "nobody again within 100 rounds",
        ),
        (("--promise", "LocalDP"), LocalGaussian(30.0), 1000, "one worker or another in its place"),
        (
            ("--promise", "distributed", "--survivors", "8", "--parameters", "1000"),
            SkellamSum(30.0, 512, 1000),
            1000,
            "a worker's contributions or zeros in their place",
        ),
        (
            ("--promise", "record", "--sampling-rate", "0.05", "--local-steps", "4"),
            SubsampledGaussian(30.0, 0.05),
            4000,
            "a worker takes 4 private steps",
        ),
        (
            ("--promise", "record", "--sampling-rate", "0.05"),
            SubsampledGaussian(30.0, 0.05),
            20_000,
            "an example's contributions",
        ),
        (("--sampling", "in-turn"), Gaussian(30.0), 1000, "nobody again within 100 rounds"),
    ],
)
def test_every_promise_as_a_run_of_it_is_charged(
    options: tuple[str, ...], mechanism: Mechanism, charges: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = answer(capsys, *RUN, *options, "--noise-multiplier", "30", "--delta", "1e-5")
    assert words in output
    assert 0 <= table(output)[1000] - spent(mechanism, charges, 1e-5) < 1e-4, "rounded up"


def test_a_bound_that_moves_costs_the_same_and_says_where_its_noise_goes(capsys: pytest.CaptureFixture[str]) -> None:
    noise = ("--noise-multiplier", "1", "--delta", "1e-5", "--accountant", "rdp")
    moving = answer(capsys, *RUN, *noise, "--adaptive-clip", "1")
    assert "Updates get 1.1547 times the bound, for noise of 1 on the count" in moving  # Andrew et al. 2021
    assert table(moving) == table(answer(capsys, *RUN, *noise))


def test_the_delta_of_an_epsilon_and_a_noise_multiplier(capsys: pytest.CaptureFixture[str]) -> None:
    """One Gaussian, z = 1, ε = 1: Balle & Wang 2018, equation 6, by hand 0.12693674."""
    output = answer(capsys, "--rounds", "1", "--population", "100", "--noise-multiplier", "1", "--epsilon", "1")
    assert "epsilon = 1 after 1 rounds with noise multiplier 1 holds with delta = 1.27e-01." in output
    assert "That delta is not below 1 / population = 0.01: too large." in output
    assert table(output) == {1: 0.127}
    output = answer(capsys, *RUN, "--noise-multiplier", "1", "--epsilon", "1.8283")
    assert 1e-5 <= table(output)[1000] < 1.01e-5, "the other way round than the table of references"
    assert "too large" not in output


def test_a_million_rounds_are_answered_in_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    run = ("--rounds", "1000000", "--population", "1000000", "--cohort-size", "1000")
    began = time.process_time()
    output = answer(capsys, *run, "--noise-multiplier", "1")
    too_large = re.search(r"by which epsilon is up to about ([\d.]+) too large", output)
    assert too_large is not None
    assert float(too_large.group(1)) < 0.002 * table(output)[1000000]
    output = answer(capsys, *run, "--epsilon", "3")
    assert 2.999 < table(output)[1000000] <= 3
    assert time.process_time() - began < 30, "some seconds, with much to spare"


def test_a_promise_of_ones_own_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass(frozen=True)
    class Everyday(Privacy):
        bands: int
        noise_multiplier: float | None = None
        epsilon: float | None = None
        delta: float | None = None
        accountant: Any = None
        release_metrics: bool = False
        insecure_deterministic_noise: bool = False
        clip: float = 1.0

        def mechanism(self, noise_multiplier: float, setting: Setting) -> Mechanism:
            return Gaussian(noise_multiplier * self.bands)

        def bound(self) -> float:
            return self.clip

        def aggregator(self, run: PrivateRun) -> None:
            return None

    options = ("--promise", "everyday", "--noise-multiplier", "10", "--delta", "1e-5")
    assert "Everyday needs bands, for which there is no default: give --set bands=..." in refusal(
        capsys, *RUN, *options
    )
    output = answer(capsys, *RUN, *options, "--set", "bands=3")
    assert 0 <= table(output)[1000] - spent(Gaussian(30.0), 1000, 1e-5) < 1e-4
    del Everyday


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
        ((*RUN, "--noise-multiplier", "1", "--epsilon", "1", "--delta", "1e-5"), "--delta is the answer to"),
        ((*RUN, "--noise-multiplier", "1e-30"), "'1e-30' must be a positive number from 1e-9 to 1e9"),
        ((*RUN, "--noise-multiplier", "nan"), "argument --noise-multiplier: 'nan' must be a positive number"),
        ((*RUN, "--epsilon", "0"), "argument --epsilon: '0' must be a positive number"),
        ((*RUN, "--epsilon", "1", "--delta", "-1e-5"), "argument --delta:"),
        ((*RUN, "--epsilon", "1", "--rounds", "-1"), "argument --rounds: '-1' must be a positive integer"),
        ((*RUN, "--epsilon", "1", "--rounds", "9" * 400), "must be a positive integer"),
        ((*RUN, "--epsilon", "1", "--population", "0"), "argument --population: '0' must be a positive integer"),
        ((*RUN, "--epsilon", "1", "--promise", "gdp"), "'gdp' is none of the promises CentralDP, DistributedDP,"),
        ((*RUN, "--epsilon", "1", "--promise", "CentrlDP"), "; did you mean 'CentralDP'?"),
        ((*RUN, "--epsilon", "1", "--promise", "distributed"), "DistributedDP needs survivors, for which"),
        ((*RUN, "--epsilon", "1", "--promise", "distributed", "--survivors", "11"), "can never be met by a cohort"),
        (
            (*RUN, "--epsilon", "1", "--promise", "distributed", "--survivors", "9"),
            "needs the number of trained parameters, since rounding lengthens many numbers by more: give --parameters",
        ),
        ((*RUN, "--epsilon", "1", "--parameters", "3"), "--parameters: what CentralDP costs does not depend on how"),
        (
            (*SHARED, "--noise-multiplier", "1", "--accountant", "pld"),
            'accountant="pld"): noise of integers is counted by Rényi divergences alone; leave',
        ),
        ((*RUN, "--epsilon", "1", "--survivors", "3"), "CentralDP has no setting 'survivors'; it has clip,"),
        ((*RUN, "--epsilon", "1", "--promise", "record", "--sampling-rate", "0.1"), "RecordDP needs delta"),
        ((*RUN, "--epsilon", "1", "--promise", "record", "--delta", "1e-5"), "RecordDP needs sampling_rate"),
        (
            (*RUN, "--epsilon", "1", "--promise", "record", "--sampling-rate", "2"),
            "'2' must be a number above 0 and at",
        ),
        (
            (*RUN, "--epsilon", "1", "--promise", "dpftrl", "--sampling", "poisson"),
            "use FederatedDataModule(sampler=Ro",
        ),
        ((*RUN, "--epsilon", "1", "--promise", "local", "--adaptive-clip"), "LocalDP(clip=AdaptiveClip("),
        ((*RUN, "--noise-multiplier", "9", "--adaptive-clip"), "must be less than 2 · count_std = 1; give a larger"),
        ((*RUN, "--epsilon", "1", "--local-steps", "1", "--local-epochs", "1"), "give one of them"),
        ((*RUN, "--epsilon", "1", "--local-steps", "2"), "--local-steps: what CentralDP costs does not depend on how"),
        ((*RUN, "--epsilon", "1", "--local-epochs", "2", "--promise", "local"), "--local-epochs: what LocalDP costs"),
        (
            (*RUN, "--noise-multiplier", "1", "--set", "noise_multiplier=5"),
            "there is an option for it: give --noise-multiplier",
        ),
        ((*RUN, "--epsilon", "1", "--set", "delta=1e-9"), "--set delta=... is not used, since there is an option"),
        (("--rounds", "1", "--population", "1", "--noise-multiplier", "1"), "has no default delta: give --delta"),
        ((*RUN, "--epsilon", "1", "--set", "weight_cap"), "'weight_cap' must be a name, '=' and a number"),
        ((*RUN, "--epsilon", "1", "--set", "weight_cap=0"), "CentralDP(weight_cap=0) must be at least one example"),
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


def test_a_file_that_cannot_be_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--rounds", "1", "--population", "10", "--noise-multiplier", "9", "--plot", str(tmp_path / "x.doc"))
    with pytest.raises(SystemExit, match="2"):
        cli.main(["privacy", *options])
    captured = capsys.readouterr()
    assert re.search(r"--plot .*x\.doc: Format 'doc' is not supported", captured.err)
    assert captured.out == ""
    assert "must be the name of a file, such as" in refusal(capsys, *options[:-1], str(tmp_path))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", _full)
    assert "x.png: No space left on device" in refusal(capsys, *options[:-1], str(tmp_path / "x.png"))


def _full(*_: object, **__: object) -> None:
    raise OSError("No space left on device")


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
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("a FederatedCLI was built")

    monkeypatch.setattr("lightning_fed.cli.command.FederatedCLI", asked)
    monkeypatch.setattr(
        sys, "argv", ["lightning-fed", "privacy", "--rounds", "1", "--population", "9", "--noise-multiplier", "3"]
    )
    cli.main()
    assert "all of 9 workers take part" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="was built"):
        cli.main(["fit"])


def test_both_helps_tell_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--help"])
    assert "\n  privacy " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="0"):
        cli.main(["privacy", "--help"])
    assert "usage: lightning-fed privacy" in capsys.readouterr().out
