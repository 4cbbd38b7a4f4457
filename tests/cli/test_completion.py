"""``lightning-fed completion``: the script of bash is run in a bash."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lightning_fed.cli import main
from lightning_fed.cli.bundled import CONFIGS
from lightning_fed.cli.commands import COMMANDS
from lightning_fed.cli.completion import script

ASK = """
source ./it.bash
complete -p lightning-fed >&2
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_lightning_fed
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Return a function: what bash offers after some words, of which the last is begun."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "it.bash").write_text(script("bash"))

    def ask(*words: str) -> list[str]:
        command = ["bash", "--norc", "-c", ASK, "bash", "lightning-fed", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert "-F _lightning_fed lightning-fed" in done.stderr, done.stderr
        return done.stdout.split()

    return ask


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["va"], ["validate"]),
        (["--v"], ["--version"]),
        (["fit", "--model.alg"], ["--model.algorithm"]),
        (["fit", "-c", "to"], ["toy"]),
        (["fit", "--config", "=", "to"], ["toy"]),
        (["fit", "-c", "toy", "--model.algorithm", "FedP"], ["FedPer", "FedProx"]),
        (["fit", "--model.algorithm", "=", "FedPr"], ["FedProx"]),
        (["fit", "--model.server_optimizer", "Yo"], ["Yogi"]),
        (["fit", "--model.privacy", "="], ["CentralDP", "DPFTRL", "DistributedDP", "LocalDP", "RecordDP"]),
        (["fit", "--data.sampler", "Un"], ["Uniform"]),
        (["fit", "--trainer.accelerator", "c"], ["cpu"]),
        (["fit", "--trainer.enable_progress_bar", "f"], ["false"]),
        (["fit", "--help"], ["--help", "--help-all"]),
        (["configs", "sh"], ["show"]),
        (["configs", "show", "to"], ["toy"]),
        (["examples", "copy", "digi"], ["digits"]),
        (["completion", "z"], ["zsh"]),
        (["privacy", "--pop"], ["--population"]),
        (["fit", "--ckpt_path", ""], []),  # then bash offers files
    ],
    ids=lambda words: " ".join(words),
)
def test_bash_completes(words: list[str], expected: list[str], offered: object) -> None:
    assert offered(*words) == expected  # type: ignore[operator]


def test_bash_offers_own_configs_beside_those_that_come_along(tmp_path: Path, offered: object) -> None:
    (tmp_path / "toy_of_mine.yaml").touch()
    (tmp_path / "toy.txt").touch()
    assert offered("fit", "-c", "toy") == ["toy", "toy_of_mine.yaml"]  # type: ignore[operator]


def test_bash_offers_an_option_only_to_commands_that_have_it(offered: object) -> None:
    assert offered("predict", "--return") == ["--return_predictions"]  # type: ignore[operator]
    assert offered("fit", "--return") == []  # type: ignore[operator]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_has_all_commands_options_and_names(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    said = capsys.readouterr().out
    for word in (*(command.name for command in COMMANDS), *CONFIGS.files(), "FedProx", "model.algorithm"):
        assert word in said
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=said, text=True, check=True, timeout=30)


def test_the_completion_of_the_parser_is_refused_for_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JSONARGPARSE_ADD_PRINT_COMPLETION_ARGUMENT", "true")
    with pytest.raises(SystemExit) as left:
        main(["--print_completion=shtab-bash"])
    assert left.value.code == 2
    assert "`lightning-fed completion` prints the script of a shell" in capsys.readouterr().err
