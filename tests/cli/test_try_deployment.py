"""What is wrong with `lightning-fed try-deployment` is said in one sentence, with status 2, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from commands import quiet_and_restored

from lightning_fed.cli import main
from lightning_fed.cli.deployed import write_config

SCREEN = 24


pytestmark = pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the test's own, on a machine with Flower."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(metadata, "version", lambda package: "1.42.0")
    with quiet_and_restored():
        yield tmp_path


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence that the command says."""
    with pytest.raises(SystemExit) as caught:
        main(["try-deployment", *words])
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    sentence, *rest = err.splitlines()
    assert rest == ["", "lightning-fed try-deployment --help lists all options"]
    return sentence.removeprefix("error: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((), "the following arguments are required: -c/--config"),
        (("--rounds", "2"), "the following arguments are required: -c/--config"),
        (("-c", "toy", "--rounds", "-1"), "--rounds is -1; give a number of rounds, or 0 for as many as the config"),
        (("-c", "toy", "--rounds", "two"), "argument --rounds: invalid int value: 'two'"),
        (("-c", "toy", "--nodes", "0"), "--nodes is 0; give at least 1"),
        (("-c", "toy", "--keep", "full"), "--keep full is not empty; give a folder that is new"),
        (("-c", "toy", "--keep", "full/file"), "--keep full/file cannot be made: File exists"),
        (("-c", "toy", "--keep", "full/file/below"), "--keep full/file/below cannot be made: Not a directory"),
    ],
)
def test_wrong_words_are_one_sentence(
    words: tuple[str, ...], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "full").mkdir()
    (here / "full" / "file").touch()
    assert refused(capsys, *words).startswith(sentence)


def test_without_flower_it_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", fail)
    assert (
        refused(capsys, "-c", "toy")
        == 'it needs flwr: pip install "lightning_fed[flower]", in an environment of its own'
    )


def test_help_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["try-deployment", "--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) <= SCREEN
    assert all(len(line) <= 80 for line in out.splitlines())


# ---- the config, which another process reads -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-c", "nowhere.yaml"), "nowhere.yaml"),
        (("-c", "toy", "--model.local_step", "3"), "--model.local_steps"),
        (("-c", "toy", "--trainer.max_steps", "few"), "max_steps"),
        (("-c", "mistake.yaml"), "local_stepps"),
    ],
)
def test_a_wrong_config_is_one_sentence(
    words: tuple[str, ...], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mistake.yaml").write_text("model:\n  local_stepps: 3\n")
    with pytest.raises(SystemExit) as caught:
        write_config(["fit", *words], here / "written.yaml")
    assert caught.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "the one that comes with" not in line]
    assert said[1:] == ["", "lightning-fed fit --help-all lists all options"]
    assert said[0].startswith("error: ")
    assert sentence in said[0]
    assert not (here / "written.yaml").exists()


def test_what_is_written_is_the_config_with_all_that_the_words_change(here: Path) -> None:
    names = write_config(["fit", "-c", "toy", "--trainer.max_steps", "2"], here / "written.yaml")
    assert names == ["bob", "alice"]
    assert "max_steps: 2\n" in (here / "written.yaml").read_text()


def test_workers_that_are_away_in_a_simulation_are_refused_before_anything_starts(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        write_config(["fit", "-c", "fedprox"], here / "written.yaml")
    assert caught.value.code == 2
    assert "leave it out: --data.availability null\n" in capsys.readouterr().err
    names = write_config(["fit", "-c", "fedprox", "--data.availability", "null"], here / "other.yaml")
    assert len(names) == 30
